"""What people and scripts see of a campaign."""

import io
import json
from collections import Counter
from math import ceil
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from loadfuzz import events
from loadfuzz.campaign.totals import OperatorTotals, Totals
from loadfuzz.clock import ManualClock
from loadfuzz.engines.times import CLASSES_PER_OCTAVE, class_of, percentile
from loadfuzz.events import Event
from loadfuzz.execution import Depth
from loadfuzz.reporters.jsonout import result, to_line
from loadfuzz.reporters.lines import EVERY_S, Lines
from loadfuzz.reporters.live import REFRESH_S, LiveScreen
from loadfuzz.reporters.ndjson import EventLog
from loadfuzz.reporters.pace import Pace
from loadfuzz.reporters.screen import News, picture
from loadfuzz.reporters.summary import summary
from loadfuzz.wording import count, duration, percent, printable, rate, shorten

OUT = Path("loadfuzz-out/fake-001")
EVIL = "\x1b[2J\r\x07[bold]evil\u202e"


def started(**changed: object) -> events.CampaignStarted:
    event = events.CampaignStarted(
        target="fake", engine="native", seed=7, workers=2, out=str(OUT), seeds=12,
        time_s=60.0, executions=None,
    )  # fmt: skip
    return msgspec.structs.replace(event, **changed)


def progress(worker: int, executions: int, **changed: object) -> events.Progress:
    """A worker whose inputs are spread evenly over the depths."""
    each, rest = divmod(executions, 5)
    depths = {depth.name.lower(): each for depth in Depth}
    depths["nothing"] += rest
    event = events.Progress(
        worker, executions, 3, depths, {"accepted": each, "rejected": executions - each},
        {"footer-id": (executions, 2), "raw-bit": (executions, 0)}, {"footer": executions},
    )  # fmt: skip
    return msgspec.structs.replace(event, **changed)


def finding(number: int = 1, **changed: object) -> events.FindingAnnounced:
    event = events.FindingAnnounced(
        worker=0, signature=f"footer:place{number}", oracle="footer", title="a wrong footer",
        path=f"place{number}", folder=f"findings/f{number}", executions=9, reliability=(2, 3),
    )  # fmt: skip
    return msgspec.structs.replace(event, **changed)


def ended(reason: str = "budget", seconds: float = 10.0) -> events.CampaignEnded:
    return events.CampaignEnded(0, seconds, 0, 0, reason)


def totals_of(*heard: Event) -> Totals:
    totals = Totals()
    for event in heard:
        totals.add(event)
    return totals


CAMPAIGN: tuple[Event, ...] = (
    started(),
    events.WorkerStarted(0, 1),
    events.WorkerStarted(1, 2),
    progress(0, 1000),
    progress(1, 500),
    events.CorpusAdded(0, "a" * 64, 10, 5, ("footer-id",)),
    events.CorpusAdded(1, "a" * 64, 10, 5, ("footer-id",)),
    finding(),
    events.FindingRepeated(1, "footer:place1", 4),
)


# -- totals ----------------------------------------------------------------------------------


def test_totals_add_up_over_workers() -> None:
    totals = totals_of(*CAMPAIGN)
    assert totals.executions == 1500
    assert totals.corpus == 13
    assert [totals.reached(depth) for depth in Depth] == [1500, 1200, 900, 600, 300]
    assert totals.kind("accepted") == 300
    assert totals.operators()[0] == OperatorTotals("footer-id", 1500, 4)
    assert totals.judged() == {"footer": 1500}
    assert totals.times_seen("footer:place1") == 5
    assert totals.workers_running == 2


def test_a_worker_that_was_replaced_counts_on() -> None:
    totals = totals_of(
        *CAMPAIGN,
        events.WorkerEnded(0, 1010, "died: signal SIGSEGV", restarted=True),
        events.WorkerStarted(0, 3),
        progress(0, 5),
    )
    assert totals.executions_of(0) == 1015
    assert totals.executions == 1515
    assert totals.restarts == 1
    assert totals.reached(Depth.ACCEPTED) == 301


@given(st.lists(st.lists(st.integers(0, 1000), max_size=4), max_size=4))
def test_only_the_last_progress_of_each_life_counts(lives: list[list[int]]) -> None:
    totals = Totals()
    for life in lives:
        totals.add(events.WorkerStarted(0, 1))
        for executions in sorted(life):
            totals.add(progress(0, executions))
    assert totals.executions == sum(max(life, default=0) for life in lives)


def test_a_finding_of_an_earlier_run_is_known_and_counted_once() -> None:
    totals = Totals()
    totals.know(finding())
    totals.add(events.FindingRepeated(0, "footer:place1", 2))
    assert list(totals.findings) == ["footer:place1"]
    assert totals.known == {"footer:place1"}
    assert totals.times_seen("footer:place1") == 2


# -- the log ---------------------------------------------------------------------------------


def log_of(path: Path, *heard: Event) -> bytes:
    log = EventLog(path)
    log.start()
    for event in heard:
        log.handle(event)
    log.stop()
    return path.read_bytes()


def test_the_log_has_nothing_in_it_that_differs_between_two_equal_runs(tmp_path: Path) -> None:
    first = log_of(
        tmp_path / "1", started(out="/one"), events.WorkerStarted(0, 111), progress(0, 5),
        progress(0, 10), events.WorkerEnded(0, 10, "budget", restarted=False), ended(seconds=1.0),
    )  # fmt: skip
    second = log_of(
        tmp_path / "2", started(out="/two"), events.WorkerStarted(0, 222), progress(0, 7),
        progress(0, 8), progress(0, 10), events.WorkerEnded(0, 10, "budget", restarted=False),
        ended(seconds=2.0),
    )  # fmt: skip
    assert first == second
    kinds = [json.loads(line)["event"] for line in first.splitlines()]
    assert kinds == [
        "campaign-started", "worker-started", "progress", "worker-ended", "campaign-ended",
    ]  # fmt: skip


def test_every_line_of_the_log_is_an_event_again(tmp_path: Path) -> None:
    lines = log_of(tmp_path / "log", *CAMPAIGN, ended()).splitlines()
    assert events.decode(lines[-2]) == events.FindingRepeated(1, "footer:place1", 4)


def test_a_resumed_campaign_goes_on_in_its_log(tmp_path: Path) -> None:
    log_of(tmp_path / "log", started())
    assert log_of(tmp_path / "log", started()).count(b"campaign-started") == 2


@pytest.mark.parametrize("torn", [b'{"event":"campaign-sta', b"x" * 100_000])
def test_a_line_that_a_full_disk_tore_is_not_left_in_the_log(tmp_path: Path, torn: bytes) -> None:
    whole = log_of(tmp_path / "log", started())
    with (tmp_path / "log").open("ab") as file:
        file.write(torn)
    assert log_of(tmp_path / "log", started()) == whole * 2


# -- how long loads take ---------------------------------------------------------------------


@given(st.lists(st.floats(1e-6, 100.0), min_size=1, max_size=200), st.sampled_from([0.5, 0.99]))
def test_a_percentile_is_right_to_its_class(seconds: list[float], share: float) -> None:
    found = percentile(Counter(map(class_of, seconds)), share)
    exact = sorted(seconds)[max(ceil(share * len(seconds)) - 1, 0)]
    assert found is not None
    assert exact * 0.999 <= found <= exact * 2 ** (1 / CLASSES_PER_OCTAVE) * 1.001


def test_how_long_loads_take_is_added_up_over_workers() -> None:
    totals = Totals()
    assert totals.load_s(0.5) is None
    fast, slow = class_of(0.001), class_of(1.0)
    totals.add(events.Progress(0, 99, 1, {}, {}, {}, {}, {fast: 99}))
    totals.add(events.Progress(1, 1, 1, {}, {}, {}, {}, {slow: 1}))
    half, most, all_of_them = totals.load_s(0.5), totals.load_s(0.99), totals.load_s(1.0)
    assert half == most == percentile({fast: 1}, 1.0)
    assert all_of_them == percentile({slow: 1}, 1.0)


# -- the screen ------------------------------------------------------------------------------


def draw(totals: Totals, width: int = 80, height: int = 24, elapsed_s: float = 30.0) -> list[str]:
    clock = ManualClock()
    pace, news = Pace(clock), News()
    news.begun = True
    clock.advance(elapsed_s)
    out = io.StringIO()
    console = Console(file=out, width=width, height=50, force_terminal=True, color_system=None)
    console.print(picture(totals, pace, news, width, height))
    return out.getvalue().splitlines()


MANY: tuple[Event, ...] = (
    *CAMPAIGN,
    *(finding(number, title="t" * 200) for number in range(2, 40)),
    progress(0, 10**12, operators={f"operator-{'x' * 60}{n}": (10**12, 10**9) for n in range(30)}),
    events.MachineryWarning("w" * 300),
)


@pytest.mark.parametrize(
    ("width", "height"), [(40, 20), (60, 24), (80, 24), (80, 25), (100, 40), (200, 100)]
)
def test_the_screen_fits_the_terminal(width: int, height: int) -> None:
    lines = draw(totals_of(*MANY), width, height)
    assert max(map(len, lines)) <= width
    assert len(lines) < height


def test_the_screen_shows_what_matters() -> None:
    text = "\n".join(draw(totals_of(*CAMPAIGN)))
    for part in (
        "loadfuzz fake", "native, 2 workers, seed 7", "0:30 of 1:00", "1,500", "50/s",
        "header", "80.0 %", "first section", "60.0 %", "all sections", "accepted", "20.0 %",
        "footer-id", "4 new", "a wrong footer", "2/3", "corpus", "13",
    ):  # fmt: skip
        assert part in text, part


def test_a_budget_in_executions_is_shown_as_a_share() -> None:
    text = draw(totals_of(started(executions=3000, time_s=None), *CAMPAIGN[1:]))[0]
    assert text.rstrip().endswith("0:30, 50.0 %")


def test_a_campaign_that_is_over_its_time_is_finishing() -> None:
    head = draw(totals_of(*CAMPAIGN), elapsed_s=63.0)[0]
    assert head.rstrip().endswith("1:03 of 1:00, finishing")


@pytest.mark.parametrize("prefix", [0, 1, 2])
def test_there_is_a_screen_before_there_are_numbers(prefix: int) -> None:
    assert draw(totals_of(*CAMPAIGN[:prefix]))


def test_what_a_stream_says_cannot_steer_the_terminal() -> None:
    evil: list[Event] = [
        finding(title=EVIL, oracle="o"), events.MachineryWarning(EVIL),
        progress(0, 5, operators={EVIL: (1, 1)}),
    ]  # fmt: skip
    text = "\n".join(draw(totals_of(*CAMPAIGN, *evil)))
    assert "\x1b" not in text
    assert "\x07" not in text
    assert "\\x1b[2J\\r\\x07[bold]evil\\u202e" in text


def test_the_live_screen_draws_only_so_often_and_cleans_up() -> None:
    out = io.StringIO()
    console = Console(file=out, width=80, force_terminal=True)
    clock, totals = ManualClock(), Totals()
    screen = LiveScreen(console, totals, clock)
    screen.start()
    sizes = []
    for event in CAMPAIGN * 20:
        totals.add(event)
        screen.handle(event)
        sizes.append(out.tell())
    assert len(set(sizes)) == 1
    clock.advance(REFRESH_S)
    screen.tick()
    assert out.tell() > sizes[-1]
    screen.stop()
    # The terminal's first screen is back, and so is its cursor.
    assert out.getvalue().rindex("\x1b[?1049l") > out.getvalue().rindex("\x1b[?1049h")
    assert out.getvalue().rindex("\x1b[?25h") > out.getvalue().rindex("\x1b[?25l")


def test_a_plain_terminal_gets_plain_bars() -> None:
    buffer = io.BytesIO()
    stream = io.TextIOWrapper(buffer, encoding="ascii", write_through=True)
    totals = totals_of(*CAMPAIGN)
    screen = LiveScreen(Console(file=stream, width=80, force_terminal=True), totals, ManualClock())
    screen.start()
    screen.handle(events.WorkerStarted(0, 1))
    screen._draw()
    screen.stop()
    assert b"###" in buffer.getvalue()


# -- lines -----------------------------------------------------------------------------------


def lines_of(*steps: Event | float) -> list[str]:
    """What is written for events and the passing of seconds."""
    out, clock, totals = io.StringIO(), ManualClock(), Totals()
    lines = Lines(out, totals, clock)
    lines.start()
    for step in steps:
        if isinstance(step, float):
            clock.advance(step)
            lines.tick()
        else:
            totals.add(step)
            lines.handle(step)
    lines.stop()
    return out.getvalue().splitlines()


def test_a_status_line_comes_every_few_seconds() -> None:
    written = lines_of(*CAMPAIGN[:5], 1.0, 2.0, EVERY_S - 3.0, 1.0, EVERY_S - 1.0)
    assert written[0].startswith("fuzzing fake: native engine, 2 workers, seed 7, 12 seeds, 1:00;")
    assert written[1] == "   0:05  1,500 execs 300/s  depth 80/60/40/20 %  corpus 12  0 findings"
    assert written[2].startswith("   0:10  ")
    assert len(written) == 3


def test_time_before_the_first_worker_is_ready_does_not_count() -> None:
    written = lines_of(started(), 30.0, *CAMPAIGN[1:5], EVERY_S)
    assert written[1].startswith("   0:05  ")
    assert len(written) == 2


def test_a_status_line_fits_80_columns() -> None:
    assert max(map(len, lines_of(*MANY[:9], EVERY_S)[2:])) <= 80


def test_findings_warnings_and_bad_seeds_are_told_at_once() -> None:
    written = lines_of(
        events.SeedSetAside("x.bin", "is empty"), events.SeedRefused("y.bin", "no device"),
        events.MachineryWarning("look"), *CAMPAIGN[:2], finding(title=EVIL),
        events.WorkerEnded(0, 5, "died: signal SIGKILL", restarted=True),
    )  # fmt: skip
    assert written[:3] == [
        "seed set aside: x.bin: is empty",
        "seed not accepted, but used: y.bin: no device",
        "warning: look",
    ]
    assert written[4] == "   0:00  finding: footer: \\x1b[2J\\r\\x07[bold]evil\\u202e (place1)"
    assert written[5] == "   0:00  worker 0 died: signal SIGKILL; restarted"


def test_a_thousand_bad_seeds_do_not_flood_the_log() -> None:
    bad = [events.SeedSetAside(f"{number}", "is empty") for number in range(1000)]
    assert len(lines_of(*bad)) == 10


# -- the end ---------------------------------------------------------------------------------


def test_the_summary_lists_findings_with_the_command_that_replays_each() -> None:
    totals = Totals()
    totals.know(finding(2))
    for event in (*CAMPAIGN, ended()):
        totals.add(event)
    text = summary(totals, OUT)
    assert "fake, native engine, 2 workers, seed 7: budget used up after 10.0 s\n" in text
    assert "1,500 executions, 150/s, corpus 13 (12 seeds)\n" in text
    assert "\n  header 80.0 %, first section 60.0 %, all sections 40.0 %, accepted 20.0 %\n" in text
    assert max(map(len, text.splitlines())) <= 80
    assert "2 findings in loadfuzz-out/fake-001/findings: 1 new, 1 known from earlier" in text
    assert "known, footer at place2; again in 2 of 3 re-runs\n" in text
    # What is new comes first, whenever it was found.
    assert text.index("place1") < text.index("place2")
    assert "\n     loadfuzz replay loadfuzz-out/fake-001/findings/f1\n" in text


def test_the_summary_of_a_clean_run_says_so() -> None:
    text = summary(totals_of(*CAMPAIGN[:6], ended()), OUT)
    assert text.endswith("No findings. Corpus and event log are in loadfuzz-out/fake-001\n")


def test_the_summary_names_bad_seeds_and_counts_the_rest() -> None:
    bad = [events.SeedSetAside(f"s{number}", "is empty") for number in range(12)]
    text = summary(totals_of(*bad, events.SeedRefused("y", "no"), started(), ended()), OUT)
    assert "12 seeds set aside:\n  s0: is empty\n" in text
    assert "  and 2 more, see events.ndjson\n" in text
    assert "1 seed not accepted by the target, but used:\n  y: no\n" in text


def test_the_summary_of_hostile_names_is_harmless() -> None:
    heard = (started(), finding(title=EVIL), events.SeedSetAside(EVIL, EVIL), ended())
    text = summary(totals_of(*heard), OUT)
    assert set(text) - {"\n"} == {char for char in text if char.isprintable()}


def test_the_json_object_has_the_shape_that_scripts_rely_on() -> None:
    value = result(totals_of(*CAMPAIGN, ended()), OUT)
    assert value is not None
    line = to_line(value)
    assert line.count("\n") == 1
    data = json.loads(line)
    assert {
        "target": "fake", "engine": "native", "executions": 1500, "seconds": 10.0,
        "executions_per_second": 150.0, "corpus": 13,
    }.items() <= data.items()  # fmt: skip
    (only,) = data["findings"]
    assert {
        "signature": "footer:place1", "oracle": "footer", "title": "a wrong footer",
        "path": "place1", "reliability": [2, 3], "folder": "loadfuzz-out/fake-001/findings/f1",
    }.items() <= only.items()  # fmt: skip
    assert data["depths"]["accepted"] == 300
    assert data["reason"] == "budget"


def test_a_campaign_that_never_began_has_no_result() -> None:
    assert result(Totals(), OUT) is None


def test_no_time_is_no_division_by_it() -> None:
    value = result(totals_of(started(), ended(seconds=0.0)), OUT)
    assert value is not None
    assert value.executions_per_second == 0.0


# -- words -----------------------------------------------------------------------------------


@given(st.text())
def test_printable_text_is_printable_and_plain_text_stays(text: str) -> None:
    assert printable(text).isprintable()
    if text.isprintable():
        assert printable(text) == text


@given(st.text(), st.integers(1, 50))
def test_shortened_text_fits(text: str, width: int) -> None:
    assert len(shorten(text, width)) <= width


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0:00"), (59.9, "0:59"), (3599, "59:59"), (90_061, "25:01:01")]
)
def test_times_read_like_clocks(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_a_share_is_never_rounded_to_all_or_nothing() -> None:
    assert percent(1, 10**6) == "0.1 %"
    assert percent(10**6 - 1, 10**6) == "99.9 %"
    assert (percent(0, 5), percent(5, 5), percent(0, 0)) == ("0.0 %", "100.0 %", "-")


def test_numbers_agree_with_their_nouns() -> None:
    assert (count(1, "seed"), count(1234, "seed"), count(2, "entry", "entries")) == (
        "1 seed", "1,234 seeds", "2 entries",
    )  # fmt: skip
    assert (rate(3.14159), rate(12345.6)) == ("3.1/s", "12,346/s")


def test_the_rate_is_that_of_the_last_seconds() -> None:
    clock = ManualClock()
    pace = Pace(clock)
    for second in range(100):
        clock.advance(1.0)
        pace.rate(1000 * (second + 1))
    clock.advance(5.0)
    assert pace.rate(100_000) == pytest.approx(0.0, abs=1000)
    assert pace.elapsed_s == 105.0
