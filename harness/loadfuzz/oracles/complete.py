"""complete: an accepted load has loaded every section of its stream, once.

What stands in the stream is told by an independent look, what was loaded by the
loader's trace.

Sees: a section that was passed over, one that was loaded although it stands nowhere,
a device that was loaded twice.  Cannot see: anything behind a place that the look does
not understand or inside packages, and a loader that does not trace.  A device whose
section is missing from the stream is no loader's fault: QEMU does not ask for it.
Proved by the planted bug ``section-twice``.
"""

from typing import Final

from loadfuzz.abc import Cost, Oracle, Trial
from loadfuzz.execution import ExitKind
from loadfuzz.findings import Violation
from loadfuzz.oracles.footer import understood
from loadfuzz.oracles.sections import has_package, sections_before_eof
from savevm.document import SectionNode

NAME: Final = "complete"
_EVENT: Final = "vmstate_load "
_ONCE: Final = frozenset({"START", "FULL"})


def judge(trial: Trial) -> Violation | None:
    """An alarm for the first section that was not loaded, or loaded again."""
    if trial.execution.kind is not ExitKind.ACCEPTED:
        return None
    document = trial.document()
    sections = sections_before_eof(document)
    twice = _loaded_twice(sections)
    if twice is not None:
        return _alarm(twice, "every device is loaded once", "its section stands there twice")
    loaded = [short(event.split(" ")[1]) for event in trial.execution.events
              if event.startswith(_EVENT)]  # fmt: skip
    if has_package(document) or not loaded:
        return None
    for at, section in enumerate(sections):
        if not understood(section):
            return None
        if at >= len(loaded) or loaded[at] != short(section.idstr):
            seen = f"{loaded[at]} was loaded there" if at < len(loaded) else "it was not loaded"
            return _alarm(section, "every section is loaded", seen)
    return None


def short(idstr: str) -> str:
    """A device's name without its path: a stream may use either.

    >>> short("0000:00:03.0/nic"), short("cpu")
    ('nic', 'cpu')
    """
    return idstr.rpartition("/")[2]


def _loaded_twice(sections: list[SectionNode]) -> SectionNode | None:
    seen: set[tuple[str, int | None, str]] = set()
    for section in sections:
        if not understood(section):
            return None
        key = (short(section.idstr), section.instance_id, section.type_label)
        if section.type_label in _ONCE:
            if key in seen:
                return section
            seen.add(key)
    return None


def _alarm(section: SectionNode, expected: str, seen: str) -> Violation:
    return Violation(
        NAME, f"a stream was accepted with {section.idstr!r} not loaded once", expected,
        f"{seen} ({section.type_label} section at {section.start:#x})", short(section.idstr),
    )  # fmt: skip


COMPLETE: Final = Oracle(
    NAME, judge, Cost.DEAR, "an accepted load has loaded each section of its stream once"
)
