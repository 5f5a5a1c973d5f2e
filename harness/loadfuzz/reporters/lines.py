"""A status line every few seconds, for logs and pipes."""

from contextlib import suppress
from typing import Final, TextIO

from loadfuzz import events
from loadfuzz.campaign.totals import Totals
from loadfuzz.clock import Clock
from loadfuzz.events import Event
from loadfuzz.execution import Depth
from loadfuzz.reporters.pace import Pace
from loadfuzz.wording import count, duration, printable, rate

EVERY_S: Final = 5.0
"""Time between two lines: a nightly log of ten hours has 7 200 of them."""
SEEDS_SHOWN: Final = 10
"""Bad seeds named as they are met; the summary counts the rest."""

_FUNNEL: Final = (Depth.HEADER, Depth.FIRST_SECTION, Depth.ALL_SECTIONS, Depth.ACCEPTED)


class Lines:
    """Writes lines; a :class:`~loadfuzz.abc.Reporter`.

    Args:
        out: where to.
        totals: of the campaign; hear each event before we do.
        clock: tells when a line is due.
    """

    def __init__(self, out: TextIO, totals: Totals, clock: Clock) -> None:
        self._out = out
        self._totals = totals
        self._pace = Pace(clock)
        self._next_s = EVERY_S
        self._begun = False
        self._seeds = 0

    def start(self) -> None:
        """Nothing to do."""

    def handle(self, event: Event) -> None:
        """Write what cannot wait."""
        match event:
            case events.CampaignStarted():
                self._say(
                    f"fuzzing {event.target}: {event.engine} engine, "
                    f"{count(event.workers, 'worker')}, seed {event.seed}, "
                    f"{count(event.seeds, 'seed')}, {budget(event)}; folder {event.out}"
                )
            case events.WorkerStarted() if not self._begun:
                self._begun = True
                self._pace.restart()
                self._next_s = EVERY_S
            case events.SeedSetAside():
                self._say_seed(f"seed set aside: {event.name}: {event.reason}")
            case events.SeedRefused():
                self._say_seed(f"seed not accepted, but used: {event.name}: {event.reason}")
            case events.MachineryWarning():
                self._say(f"warning: {event.text}")
            case events.FindingAnnounced():
                self._say(f"{self._now()}  finding: {event.oracle}: {event.title} ({event.path})")
            case events.WorkerEnded(restarted=True):
                self._say(f"{self._now()}  worker {event.worker} {event.reason}; restarted")
            case _:
                pass

    def tick(self) -> None:
        """Write the status line, if it is time."""
        if not self._begun or self._pace.elapsed_s < self._next_s:
            return
        self._next_s = self._pace.elapsed_s + EVERY_S
        self._say(f"{self._now()}  {status(self._totals, self._pace)}")

    def stop(self) -> None:
        """Nothing to do: the summary comes from elsewhere."""

    def _now(self) -> str:
        return f"{duration(self._pace.elapsed_s):>7}"

    def _say_seed(self, text: str) -> None:
        self._seeds += 1
        if self._seeds <= SEEDS_SHOWN:
            self._say(text)

    def _say(self, text: str) -> None:
        # Nobody may be reading any more; the campaign is not for them alone.
        with suppress(BrokenPipeError):
            print(printable(text), file=self._out, flush=True)


def status(totals: Totals, pace: Pace) -> str:
    """The campaign's state in less than 72 columns."""
    executions = totals.executions
    shares = "/".join(
        f"{round(100 * totals.reached(depth) / executions) if executions else 0}"
        for depth in _FUNNEL
    )
    return (
        f"{executions:,} execs {rate(pace.rate(executions))}  depth {shares} %  "
        f"corpus {totals.corpus:,}  {count(len(totals.findings), 'finding')}"
    )


def budget(event: events.CampaignStarted) -> str:
    """What a campaign may use, in words."""
    parts = []
    if event.time_s is not None:
        parts.append(f"{event.time_s:g} s" if event.time_s < 60 else duration(event.time_s))
    if event.executions is not None:
        parts.append(count(event.executions, "execution"))
    return " or ".join(parts) or "no limit"
