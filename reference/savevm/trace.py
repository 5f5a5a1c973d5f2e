"""Trace events with QEMU's own names and arguments.

One vocabulary for the differential oracle, for feedback, for reports and for
tests, since a stock QEMU prints the same events with ``-trace``.  An event is
emitted as ``trace(name, *arguments)``; :data:`EVENTS` says what each argument
is and how QEMU prints it (``migration/trace-events``).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeAlias

Trace: TypeAlias = Callable[..., None]
"""Called as ``trace(event_name, *arguments)``; arguments are int, str or None."""

EVENTS: Final[dict[str, str]] = {
    # migration/savevm.c
    "savevm_section_start": "%s, section_id %u",
    "savevm_section_end": "%s, section_id %u -> %d",
    "savevm_state_begin": "",
    "savevm_state_header": "",
    "savevm_state_iterate": "",
    "savevm_state_complete": "",
    "savevm_state_cancel": "",
    "vmstate_save": "%s, %s",
    "vmstate_load": "%s, %s",
    "qemu_loadvm_state_section": "%d",
    "qemu_loadvm_state_section_startfull": "%u(%s) %u %u",
    "qemu_loadvm_state_section_partend": "%u",
    "qemu_loadvm_state_section_command": "%d",
    "qemu_loadvm_state_post_main": "%d",
    "loadvm_process_command": "com=0x%x len=%d",
    "qemu_announce_self_iter": "%s",
    # migration/vmstate.c
    "vmstate_load_field_error": 'field "%s" load failed, ret = %d',
    "vmstate_load_state": "%s v%d",
    "vmstate_load_state_end": "%s %s/%d",
    "vmstate_load_state_field": "%s:%s",
    "vmstate_n_elems": "%s: %d",
    "vmstate_subsection_load": "%s",
    "vmstate_subsection_load_bad": "%s: %s/%s",
    "vmstate_subsection_load_good": "%s",
    # migration/ram.c
    "ram_load_loop": "%s: addr: 0x%x flags: 0x%x",
    "ram_load_complete": "exit_code %d seq iteration %u",
}


@dataclass(frozen=True, slots=True)
class TraceEvent:
    """One event as it happened; prints like a line of QEMU's log backend."""

    name: str
    arguments: tuple[int | str | None, ...]

    def __str__(self) -> str:
        text = EVENTS[self.name]
        return f"{self.name} {text % self.arguments if text else ''}".rstrip()


class TraceLog:
    """A trace that keeps what it hears, up to a bound.

    Args:
        limit: events kept; later ones are counted in :attr:`dropped` only, so
            that a stream of a million pages does not fill memory.
    """

    def __init__(self, limit: int = 100_000) -> None:
        self.events: list[TraceEvent] = []
        self.dropped = 0
        self._limit = limit

    def __call__(self, name: str, *arguments: int | str | None) -> None:
        if len(self.events) < self._limit:
            self.events.append(TraceEvent(name, arguments))
        else:
            self.dropped += 1

    def named(self, name: str) -> list[tuple[int | str | None, ...]]:
        """Arguments of every kept event called ``name``, in order."""
        return [event.arguments for event in self.events if event.name == name]
