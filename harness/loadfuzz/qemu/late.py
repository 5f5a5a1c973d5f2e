"""An injector for a stream that is not known beforehand: its sections get their places late.

:class:`~loadfuzz.faults.wire.Injector` wants every place as an offset when it is made, and a
live stream tells where a section begins only when it comes to it.  The same plan on the same
bytes is the same acts; so when a place becomes known, another injector is made with it and
taken through all that has happened, which none of that place can have changed: nothing from
there on was pushed yet.  With one exception: places between bytes are offsets of what
arrives, so behind bytes that came twice one may have been passed when it becomes known; it
then strikes at once.
"""

from collections.abc import Callable
from dataclasses import replace

from loadfuzz.faults.kinds import Layer, PlaceKind
from loadfuzz.faults.plan import Fault, FaultPlan, at_byte
from loadfuzz.faults.wire import Act, Injector


class LateInjector:
    """Applies the transport faults of a plan, as :class:`Injector`, sections included.

    Places that are fields strike nowhere: a live stream's fields are not known.

    Args:
        plan: its other layers are passed over.
        read: bytes of what was pushed, from one offset to another; asked for when a place
            becomes known.
    """

    __slots__ = ("_history", "_injector", "_plan", "_pushed", "_read")

    def __init__(self, plan: FaultPlan, read: Callable[[int, int], bytes]) -> None:
        self._plan = replace(plan, faults=plan.on(Layer.TRANSPORT))
        self._read = read
        self._injector = Injector(self._plan)
        self._pushed = 0
        # Pushes as the offset up to which, pulls as their size, negative.
        self._history: list[int] = []

    @property
    def struck(self) -> tuple[Fault, ...]:
        """The faults that have happened, in order, each where it did."""
        return tuple(self._injector.struck)

    @property
    def position(self) -> int:
        """Offset of the next byte that arrives."""
        return self._injector.position

    def place(self, section: int, offset: int) -> None:
        """The section of that number begins at ``offset``.

        Args:
            section: number of the section, from 0.
            offset: no byte from there on was pushed.
        """
        assert offset >= self._pushed, "what is there has been pushed already"
        if not any(_is_at(fault, section) for fault in self._plan.faults):
            return
        self._plan = replace(
            self._plan,
            faults=tuple(
                replace(fault, place=at_byte(offset)) if _is_at(fault, section) else fault
                for fault in self._plan.faults
            ),
        )
        fresh = Injector(self._plan)
        before = 0
        for step in self._history:
            if step < 0:
                fresh.pull(-step)
            else:
                fresh.push(self._read(before, step))
                before = step
        self._injector = fresh

    def push(self, data: bytes) -> None:
        """The peer has sent ``data``, and no section that is not placed begins in it."""
        if data:
            self._injector.push(data)
            self._pushed += len(data)
            self._note(self._pushed)

    def push_end(self) -> None:
        """The peer has closed; no place becomes known any more."""
        self._injector.push_end()
        self._history.clear()

    def pull(self, size: int) -> Act:
        """As :meth:`Injector.pull`."""
        self._note(-size)
        return self._injector.pull(size)

    def _note(self, step: int) -> None:
        # Only while there is something to take another injector through it for.
        if any(fault.place.kind is PlaceKind.SECTION for fault in self._plan.faults):
            self._history.append(step)


def _is_at(fault: Fault, section: int) -> bool:
    return fault.place.kind is PlaceKind.SECTION and fault.place.number == section
