"""What of a load's trace tells behaviours apart, and how deep it came.

Hears the section-level events of one load after another.  Numbers and names
that the stream chose are dropped, so that the same behaviour on another input
gives the same labels, and the number of labels is bounded by the loader's own
vocabulary.
"""

from collections.abc import Callable
from typing import Final, TypeAlias

from loadfuzz.execution import Depth, ExitKind, Refusal
from savevm.trace import Trace

Event: TypeAlias = tuple[object, ...]
"""Name and arguments of a trace event, as they came."""

EVENTS_MAX: Final = 4096
"""Events kept of one load: a stream of a million RAM items tells no more."""

LABELS_MAX: Final = 1 << 12
"""Events whose label is remembered; then all are forgotten, which costs only time."""

SMALL_MAX: Final = 16
"""Versions, section types and command numbers above it are all alike: only a
mutator makes them."""

LABEL_CHARS_MAX: Final = 80

_HEADER_SIZE: Final = 8


def _small(value: object) -> str:
    return str(value) if isinstance(value, int) and 0 <= value <= SMALL_MAX else "+"


def _text(value: object) -> str:
    return str(value)


_KEPT: Final[dict[str, tuple[Callable[[object], str] | None, ...]]] = {
    "qemu_loadvm_state_section": (_small,),
    # Not its idstr: that is the stream's word. Which handler it found, vmstate_load says.
    "qemu_loadvm_state_section_startfull": (),
    "qemu_loadvm_state_section_partend": (),
    "qemu_loadvm_state_section_command": (_text,),
    "qemu_loadvm_state_post_main": (_small,),
    "loadvm_process_command": (_small,),
    "vmstate_load": (_text, _text),
    "vmstate_load_state": (_text, _small),
    "vmstate_load_state_end": (_text,),
    "vmstate_load_field_error": (_text, _text),
    "vmstate_subsection_load": (_text,),
    "vmstate_subsection_load_good": (_text,),
    "vmstate_subsection_load_bad": (_text, None, _text),
    "ram_load_loop": (None, None, _text),
    "ram_load_complete": (_text,),
}
"""What is kept of each event's arguments; of an unknown event only its name."""


def label_of(event: Event) -> str:
    """An event without what the stream chose."""
    name = str(event[0])
    words = [
        keep(value)
        for keep, value in zip(_KEPT.get(name, ()), event[1:], strict=False)
        if keep is not None
    ]
    return " ".join((name, *words))[:LABEL_CHARS_MAX]


class SectionTrace:
    """Keeps the events of the load that runs.

    Attributes:
        events: as they came.
        hear: the trace to give to a loader; a closure, since it is called many
            times per load.
    """

    __slots__ = ("_labels", "events", "hear")

    def __init__(self) -> None:
        events: list[Event] = []
        self.events = events
        self._labels: dict[Event, str] = {}

        def hear(*event: object) -> None:
            if len(events) < EVENTS_MAX:
                events.append(event)

        self.hear: Trace = hear

    def clear(self) -> None:
        """Another load begins."""
        self.events.clear()

    def labels(self) -> tuple[str, ...]:
        """Labels of the events, in order."""
        known = self._labels
        if len(known) > LABELS_MAX:
            known.clear()
        result: list[str] = []
        for event in self.events:
            label = known.get(event)
            if label is None:
                label = known[event] = label_of(event)
            result.append(label)
        return tuple(result)

    def depth(self, kind: ExitKind, refusal: Refusal | None) -> Depth:
        """How deep the load came, from its events and its refusal."""
        if kind is ExitKind.ACCEPTED:
            return Depth.ACCEPTED
        if refusal is not None and refusal.path[:1] == ("vmdesc",):
            return Depth.ALL_SECTIONS
        begun = 0
        for event in self.events:
            name = event[0]
            if name == "qemu_loadvm_state_section":
                begun += 1
            elif name == "qemu_loadvm_state_post_main":
                return Depth.ALL_SECTIONS
        # The next section's type byte is read when the one before has been loaded.
        if begun > 1:
            return Depth.FIRST_SECTION
        if begun or (
            refusal is not None and refusal.offset is not None and refusal.offset >= _HEADER_SIZE
        ):
            return Depth.HEADER
        return Depth.NOTHING
