"""What a loader did with one input."""

from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import Final

from savevm import LoadError


class ExitKind(StrEnum):
    """How one execution ended."""

    ACCEPTED = "accepted"
    REJECTED = "rejected"
    CRASHED = "crashed"
    TIMED_OUT = "timed-out"
    OUT_OF_MEMORY = "out-of-memory"

    @property
    def ends_process(self) -> bool:
        """Whether a loader in a process of its own is no good after it."""
        return self not in (ExitKind.ACCEPTED, ExitKind.REJECTED)


AFTERWARDS: Final = frozenset(
    {
        "running the guest",
        "stopping the guest",
        "resetting the machine",
        "saving again",
        "loading again",
        "deleting what was saved",
    }
)
"""What a loader may be doing when what it accepted is looked at closely; an escape begins its
message so, and says no more where nothing was said."""


class Depth(IntEnum):
    """How deep into the stream the loader came: the funnel of the live screen."""

    NOTHING = 0
    HEADER = 1
    FIRST_SECTION = 2
    ALL_SECTIONS = 3
    ACCEPTED = 4


@dataclass(frozen=True, slots=True)
class Refusal:
    """A clean refusal: the data of a LoadError."""

    text: str
    errno: int
    offset: int | None
    path: tuple[str, ...]

    @classmethod
    def of(cls, error: LoadError) -> "Refusal":
        """The refusal that ``error`` reports."""
        return cls(str(error), error.errno, error.offset, error.path)


@dataclass(frozen=True, slots=True)
class Escape:
    """An exception that is no LoadError, or a signal: what no loader may do.

    Attributes:
        type_name: class of the exception, such as ``IndexError``.
        message: its text.
        frames: innermost last, each ``file.py:function:line``; base names only.
    """

    type_name: str
    message: str
    frames: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Execution:
    """One input, one verdict.

    Attributes:
        kind: how it ended.
        depth: how deep it came.
        refusal: for REJECTED.
        escape: for CRASHED.
        cpu_s: CPU seconds of the load alone.
        events: names of section-level trace events with the arguments that
            tell behaviours apart; only when the executor was asked to trace.
    """

    kind: ExitKind
    depth: Depth
    refusal: Refusal | None = None
    escape: Escape | None = None
    cpu_s: float = 0.0
    events: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a second look at the same stream came to; compared as a whole.

    Attributes:
        kind: how the load ended.
        text: of the refusal or escape, "" when accepted.
        digest: of the loader's state afterwards.
    """

    kind: ExitKind
    text: str
    digest: str
