"""``stats/``: a campaign's numbers as files that other tools know.

``fuzzer_stats`` and ``plot_data`` have the names and forms of AFL's, so that ``afl-whatsup``,
``afl-plot`` and what reads the same show a campaign of ours; ``loadfuzz.prom`` is for
Prometheus's textfile collector.  Counters go on where an earlier run of the folder ended.
Source: AFL++ ``docs/afl-fuzz_approach.md`` and ``src/afl-fuzz-stats.c``, for what the keys mean.
"""

import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from loadfuzz import __version__, events
from loadfuzz.campaign.totals import Totals
from loadfuzz.clock import Clock
from loadfuzz.engines.last_input import executions_of
from loadfuzz.events import Event
from loadfuzz.execution import Depth
from loadfuzz.reporters.pace import Pace
from loadfuzz.storage import write_atomic
from loadfuzz.wording import printable

FOLDER: Final = "stats"
FUZZER_STATS: Final = "fuzzer_stats"
PLOT_DATA: Final = "plot_data"
PROMETHEUS: Final = "loadfuzz.prom"
RUNNING: Final = "running"
"""State of a campaign that has not ended; any other is the reason why it did."""
EVERY_S: Final = 5.0
"""Time between two states: as AFL++ has it for its plot."""
_WIDTH: Final = 17
"""Of a key, in AFL's file."""
_HEADER: Final = (
    "# relative_time, cycles_done, cur_item, corpus_count, pending_total, pending_favs, "
    "map_size, saved_crashes, saved_hangs, max_depth, execs_per_sec, total_execs, edges_found\n"
)
_SEEDS: Final = "loadfuzz_seeds"
"""Key of how many streams the corpus began with."""
_LIVES: Final = "loadfuzz_lives"
"""Key of what each worker's process had done by then."""
_HANGS: Final = "no-hang"


class StatsFiles:
    """Writes the files; a :class:`~loadfuzz.abc.Reporter`.

    Args:
        campaign: the campaign's folder.
        totals: of the campaign; hear each event before we do.
        clock: tells when it is time.
        wall: seconds since 1970, for people and tools that have a calendar.
    """

    def __init__(
        self,
        campaign: Path,
        totals: Totals,
        clock: Clock,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._folder = campaign / FOLDER
        self._totals = totals
        self._pace = Pace(clock)
        self._wall = wall
        self._next_s = 0.0
        self._state = ""
        self._begun = False
        self._earlier: Mapping[str, str] = {}
        self._untold = 0
        self._last_new = self._last_finding = self._last_hang = 0

    def start(self) -> None:
        """Read where an earlier run ended.

        Raises:
            OSError: the folder cannot be made.
        """
        self._folder.mkdir(exist_ok=True)
        self._earlier = read_stats(self._folder.parent)
        self._untold = self._untold_of(self._earlier)
        self._last_new = _number(self._earlier, "last_find")
        self._last_finding = _number(self._earlier, "last_crash")
        self._last_hang = _number(self._earlier, "last_hang")

    def handle(self, event: Event) -> None:
        """Notice when something was found; write at the beginning and at the end.

        Raises:
            OSError: the disk is full, for example.
        """
        match event:
            case events.CorpusAdded():
                self._last_new = int(self._wall())
            case events.FindingAnnounced():
                self._last_finding = int(self._wall())
                if event.oracle == _HANGS:
                    self._last_hang = self._last_finding
            case events.CampaignStarted():
                self._state = RUNNING
                self._write()
            case events.WorkerStarted() if not self._begun:
                # What came before was preparation.
                self._begun = True
                self._next_s = 0.0
                self._pace.restart()
            case events.CampaignEnded() if self._state:
                self._state = event.reason
                self._write()
            case _:
                pass

    def tick(self) -> None:
        """Write, if it is time."""
        if self._state and self._pace.elapsed_s >= self._next_s:
            self._write()

    def stop(self) -> None:
        """Nothing to do: the end was written."""

    def _write(self) -> None:
        self._next_s = self._pace.elapsed_s + EVERY_S
        values = self._values()
        text = "".join(f"{key:{_WIDTH}} : {value}\n" for key, value in values.items())
        write_atomic(self._folder / FUZZER_STATS, text.encode(), durable=False)
        write_atomic(self._folder / PROMETHEUS, self._prometheus(values).encode(), durable=False)
        plot = self._folder / PLOT_DATA
        header = "" if plot.exists() else _HEADER
        row = ", ".join((
            values["run_time"], "0", "0", values["corpus_count"], "0", "0", "0.00%",
            values["saved_crashes"], values["saved_hangs"], values["max_depth"],
            values["execs_ps_last_min"], values["execs_done"], values["edges_found"],
        ))  # fmt: skip
        with plot.open("a") as file:
            file.write(f"{header}{row}\n")

    def _values(self) -> dict[str, str]:
        totals, pace, now = self._totals, self._pace, int(self._wall())
        elapsed_s = int(pace.elapsed_s) if self._begun else 0
        started = totals.started
        assert started is not None, "written before the campaign began"
        executions = _number(self._earlier, "execs_done") + self._untold + totals.executions
        run_s = _number(self._earlier, "run_time") + elapsed_s
        seeds = _number(self._earlier, _SEEDS) or started.seeds
        hangs = sum(finding.oracle == _HANGS for finding in totals.findings.values())
        return {
            "start_time": str(_number(self._earlier, "start_time") or now - elapsed_s),
            "last_update": str(now),
            "run_time": str(run_s),
            "fuzzer_pid": str(os.getpid()),
            "cycles_done": "0",
            "execs_done": str(executions),
            "execs_per_sec": f"{executions / max(run_s, 1):.2f}",
            "execs_ps_last_min": f"{pace.rate(totals.executions):.2f}",
            "corpus_count": str(totals.corpus),
            "corpus_found": str(max(totals.corpus - seeds, 0)),
            "max_depth": str(max(
                _number(self._earlier, "max_depth"),
                *(depth.value for depth in Depth if totals.reached(depth)), 0,
            )),
            "cur_item": "0",
            "pending_favs": "0",
            "pending_total": "0",
            "bitmap_cvg": "0.00%",
            "saved_crashes": str(len(totals.findings) - hangs),
            "saved_hangs": str(hangs),
            "last_find": str(self._last_new),
            "last_crash": str(self._last_finding),
            "last_hang": str(self._last_hang),
            "edges_found": "0",
            "afl_banner": printable(started.target),
            "afl_version": f"loadfuzz-{__version__}",
            "target_mode": started.engine,
            "loadfuzz_state": self._state,
            "loadfuzz_workers": str(started.workers),
            "loadfuzz_restarts": str(_number(self._earlier, "loadfuzz_restarts") + totals.restarts),
            "loadfuzz_warnings": str(len(totals.warnings)),
            "loadfuzz_seed": str(started.seed),
            _SEEDS: str(seeds),
            _LIVES: " ".join(f"{worker}={done}" for worker, done in totals.lives().items()),
        }  # fmt: skip

    def _untold_of(self, earlier: Mapping[str, str]) -> int:
        """Executions of a run that was killed, of which it could not tell any more: its
        workers' own files go further than the numbers do."""
        if earlier.get("loadfuzz_state") != RUNNING:
            return 0
        untold = 0
        for word in earlier.get(_LIVES, "").split():
            worker, _, told = word.partition("=")
            if worker.isdecimal() and told.isdecimal():
                done = executions_of(self._folder.parent, int(worker))
                # Fewer than it told of: that process is another one, of which it told nothing.
                untold += done - int(told) if done >= int(told) else done
        return untold

    def _prometheus(self, values: Mapping[str, str]) -> str:
        label = values["afl_banner"].replace("\\", "\\\\").replace('"', '\\"')
        running = int(values["loadfuzz_state"] == RUNNING)
        metrics = (
            ("executions_total", "counter", "Inputs that were run.", values["execs_done"]),
            ("run_seconds_total", "counter", "Time that was spent.", values["run_time"]),
            ("worker_restarts_total", "counter", "Workers replaced.", values["loadfuzz_restarts"]),
            ("corpus_streams", "gauge", "Streams in the corpus.", values["corpus_count"]),
            ("findings", "gauge", "Findings, each signature once.", len(self._totals.findings)),
            ("executions_per_second", "gauge", "The present rate.", values["execs_ps_last_min"]),
            ("running", "gauge", "1 while the campaign runs.", running),
            ("last_update_seconds", "gauge", "When this was written.", values["last_update"]),
        )
        return "".join(
            f"# HELP loadfuzz_{name} {text}\n# TYPE loadfuzz_{name} {kind}\n"
            f'loadfuzz_{name}{{target="{label}"}} {value}\n'
            for name, kind, text, value in metrics
        )


def read_stats(campaign: Path) -> dict[str, str]:
    """What ``fuzzer_stats`` of a campaign says; nothing where there is none, or one that
    somebody has damaged."""
    try:
        text = (campaign / FOLDER / FUZZER_STATS).read_text(errors="replace")
    except OSError:
        return {}
    pairs = (line.partition(":") for line in text.splitlines())
    return {key.strip(): value.strip() for key, colon, value in pairs if colon}


def _number(values: Mapping[str, str], key: str) -> int:
    text = values.get(key, "")
    return int(text) if text.isdecimal() else 0
