"""Which known bugs one worker met, and when first."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # they import the loader, which Atheris has to instrument first
    from loadfuzz.bench.truth import BugRow, Met
    from loadfuzz.findings import Violation


@dataclass(frozen=True, slots=True)
class First:
    """When something happened first.

    Attributes:
        seconds: of wall-clock time since the trial began.
        executions: of that worker.
    """

    seconds: float
    executions: int


@dataclass(frozen=True, slots=True)
class Meeting:
    """One bug in one trial; ``None`` for what did not happen.

    Attributes:
        bug: its name.
        reached: the flawed code ran.
        triggered: it ran with what makes it go wrong.
        detected: the oracle of its row rang then, and named the right place.
    """

    bug: str
    reached: First | None = None
    triggered: First | None = None
    detected: First | None = None


def earliest(many: Iterable[First | None]) -> First | None:
    """The first of several, by time."""
    return min((one for one in many if one is not None), key=lambda one: one.seconds, default=None)


def united(meetings: Sequence[Meeting]) -> Meeting:
    """One bug in several workers of one trial."""
    return Meeting(
        meetings[0].bug,
        earliest(meeting.reached for meeting in meetings),
        earliest(meeting.triggered for meeting in meetings),
        earliest(meeting.detected for meeting in meetings),
    )


class Ledger:
    """Keeps the first times while a trial runs.

    Args:
        rows: every known bug.
        now_s: seconds since the trial began.
    """

    def __init__(self, rows: "Sequence[BugRow]", now_s: Callable[[], float]) -> None:
        self._rows = {row.name: row for row in rows}
        self._now_s = now_s
        self._reached: dict[str, First] = {}
        self._triggered: dict[str, First] = {}
        self._detected: dict[str, First] = {}
        self._heard: list[Violation] = []

    def hear(self, violation: "Violation") -> None:
        """An oracle rang about the present execution."""
        self._heard.append(violation)

    def settle(self, met: "Met", executions: int) -> None:
        """An execution was judged.

        Args:
            met: what it met, by the target's own account.
            executions: so far.
        """
        heard = self._heard
        if met.reached or met.triggered or heard:
            now = First(round(self._now_s(), 3), executions)
            for name in met.reached:
                self._reached.setdefault(name, now)
            for name in met.triggered:
                self._triggered.setdefault(name, now)
                if name not in self._detected and any(map(self._rows[name].detected_by, heard)):
                    self._detected[name] = now
            heard.clear()

    @property
    def detected(self) -> tuple[str, ...]:
        """Names of the bugs detected so far."""
        return tuple(self._detected)

    @property
    def complete(self) -> bool:
        """Whether there is nothing left to detect."""
        return len(self._detected) == len(self._rows)

    def meetings(self) -> tuple[Meeting, ...]:
        """Every bug, met or not."""
        return tuple(
            Meeting(
                name, self._reached.get(name), self._triggered.get(name), self._detected.get(name)
            )
            for name in self._rows
        )
