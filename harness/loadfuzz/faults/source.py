"""A stream as a plain source that misbehaves by plan: for loaders that just read."""

from collections.abc import Callable

from loadfuzz.faults.plan import Fault, FaultPlan
from loadfuzz.faults.wire import Deliver, Dry, End, Fail, Injector, Wait
from savevm.qemufile.sources import Buffer


class FaultySource:
    """Bytes in memory behind an injector (:class:`savevm.qemufile.Source`).

    Time is virtual: waiting costs nothing but the plan's deadline.

    Args:
        stream: what the peer sends.
        plan: what goes wrong, its places resolved to bytes or reads.
        chunks: sizes of the pieces in which it arrives otherwise, repeated as long as
            needed; none for as much as is asked for.
        wait: told of every silence, in virtual nanoseconds.
    """

    def __init__(
        self,
        stream: bytes,
        plan: FaultPlan,
        chunks: tuple[int, ...] = (),
        wait: Callable[[int], None] | None = None,
    ) -> None:
        self._injector = Injector(plan)
        self._injector.push(stream)
        self._injector.push_end()
        self._chunks = chunks
        self._turn = 0
        self._wait = wait

    @property
    def struck(self) -> tuple[Fault, ...]:
        """The faults that have happened so far, in order."""
        return tuple(self._injector.struck)

    @property
    def elapsed_ns(self) -> int:
        """Virtual time that the reader has waited."""
        return self._injector.elapsed_ns

    def read(self, size: int) -> Buffer:
        """1 to ``size`` bytes, none at the end.

        Raises:
            OSError: a fault says so.
        """
        if self._chunks:
            size = min(size, self._chunks[self._turn % len(self._chunks)])
            self._turn += 1
        while True:
            match self._injector.pull(size):
                case Deliver(data):
                    return data
                case Wait(ns):
                    if self._wait is not None:
                        self._wait(ns)
                case Fail() as failure:
                    raise failure.error()
                case End() | Dry():
                    return b""

    def close(self) -> None:
        """Nothing to give back."""
