"""The live screen: a terminal's second screen, so that the first is as it was afterwards and
a change of size leaves no debris."""

from typing import Final

from rich.console import Console
from rich.live import Live

from loadfuzz import events
from loadfuzz.campaign.totals import Totals
from loadfuzz.clock import Clock
from loadfuzz.events import Event
from loadfuzz.reporters.pace import Pace
from loadfuzz.reporters.screen import News, picture

REFRESH_S: Final = 0.3
"""Shortest time between two drawings: three a second look alive and do not flicker, also
over a slow connection."""


class LiveScreen:
    """Draws; a :class:`~loadfuzz.abc.Reporter`.

    Args:
        console: a terminal.
        totals: of the campaign; hear each event before we do.
        clock: tells when to draw again.
    """

    def __init__(self, console: Console, totals: Totals, clock: Clock) -> None:
        self._console = console
        self._totals = totals
        self._clock = clock
        self._pace = Pace(clock)
        self._news = News()
        self._drawn_s = clock.now_s() - REFRESH_S
        # Drawn by us, not by a thread: rich's own timer would share its state with our tasks.
        self._live = Live(
            console=console, auto_refresh=False, screen=True, vertical_overflow="crop",
            redirect_stdout=False, redirect_stderr=False,
        )  # fmt: skip

    def start(self) -> None:
        """Take the terminal."""
        self._live.start()
        self._draw()

    def handle(self, event: Event) -> None:
        """Remember when it was; draw, if that is due."""
        match event:
            case events.WorkerStarted() if not self._news.begun:
                self._news.begun = True
                self._pace.restart()
            case events.CorpusAdded():
                self._news.corpus_s = self._pace.elapsed_s
            case events.FindingAnnounced():
                self._news.finding_s = self._pace.elapsed_s
            case _:
                pass
        self.tick()

    def tick(self) -> None:
        """Draw, if it is time."""
        if self._clock.now_s() - self._drawn_s >= REFRESH_S:
            self._draw()

    def stop(self) -> None:
        """Give the terminal back, as it was."""
        self._live.stop()

    def _draw(self) -> None:
        self._drawn_s = self._clock.now_s()
        width, height = self._console.size
        fancy = self._console.encoding.lower().startswith("utf")
        screen = picture(self._totals, self._pace, self._news, width, height, fancy=fancy)
        self._live.update(screen, refresh=True)
