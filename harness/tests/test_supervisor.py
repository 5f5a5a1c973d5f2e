"""The supervisor, with workers that follow a script."""

import asyncio
import dataclasses
import errno
import json
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pytest

from loadfuzz import events
from loadfuzz.campaign import deaths, local, supervisor
from loadfuzz.campaign.batch import Engine
from loadfuzz.campaign.deaths import Death, Describe
from loadfuzz.campaign.folder import CampaignFolder, open_folder
from loadfuzz.campaign.listening import GARBAGE_SHOWN_MAX
from loadfuzz.campaign.local import LocalCrew
from loadfuzz.campaign.settings import Settings
from loadfuzz.campaign.supervisor import Supervisor
from loadfuzz.campaign.totals import Totals
from loadfuzz.children import LINE_SIZE_MAX
from loadfuzz.clock import ManualClock
from loadfuzz.errors import InfraError, UsageError
from loadfuzz.events import Event
from loadfuzz.execution import Depth, Escape, Execution, ExitKind
from loadfuzz.findings import Finding, Violation
from loadfuzz.inputs import Input
from loadfuzz.repro.again import Run
from loadfuzz.repro.replay import Replayed

PREPARE = """\
import json, os, sys
request = json.load(open(sys.argv[1]))
with open(os.path.join(request["corpus"], "0" * 64), "wb") as file:
    file.write(b"QEVM")
for message in MESSAGES:
    print(json.dumps(message), flush=True)
"""
DONE = [{"message": "atheris", "problem": ""}, {"message": "done"}]

WORKER = """\
import json, os, signal, sys, time
batch = json.load(open(sys.argv[1]))
me = batch["worker"]
folder = os.path.dirname(sys.argv[1])
starts = len([n for n in os.listdir(folder) if n.startswith("start-")])
json.dump(batch, open(os.path.join(folder, f"start-{starts}"), "w"))
stopped = []
signal.signal(signal.SIGTERM, lambda *_: stopped.append(1))

def say(kind, **fields):
    print(json.dumps({"event": kind, "worker": me, **fields}), flush=True)

def progress(executions):
    say("progress", executions=executions, corpus=1, depths={"header": executions},
        kinds={"rejected": executions}, operators={"op": [executions, 1]}, judged={})

def end(executions, reason="budget"):
    progress(executions)
    say("worker-ended", executions=executions, reason=reason, restarted=False)

def wait(until=lambda: stopped):
    while not until():
        time.sleep(0.01)

say("worker-started", pid=os.getpid())
"""


@dataclass
class Heard:
    """A reporter that remembers."""

    events: list[Event] = field(default_factory=list)
    started: int = 0
    stopped: int = 0
    ticks: int = 0
    on_progress: Callable[[], None] | None = None

    def start(self) -> None:
        self.started += 1

    def handle(self, event: Event) -> None:
        self.events.append(event)
        if isinstance(event, events.Progress) and self.on_progress is not None:
            on_progress, self.on_progress = self.on_progress, None
            on_progress()

    def tick(self) -> None:
        self.ticks += 1

    def stop(self) -> None:
        self.stopped += 1

    def of(self, kind: type) -> list[Event]:
        return [event for event in self.events if isinstance(event, kind)]

    def warnings(self) -> list[str]:
        return [event.text for event in self.events if isinstance(event, events.MachineryWarning)]


class Stage:
    """A campaign whose workers run ``program`` after the preamble :data:`WORKER`."""

    def __init__(
        self,
        folder: Path,
        program: str,
        *,
        workers: int = 1,
        seconds: float | None = None,
        executions: int | None = None,
        messages: list[dict[str, object]] | None = None,
        engine: Engine | None = Engine.NATIVE,
        describe: Describe = lambda folder, death: None,
        seeds: tuple[str, ...] = (),
        ignore: tuple[str, ...] = (),
        stale_s: float | None = None,
    ) -> None:
        self.settings = Settings(
            "fake", engine, 7, workers, seconds, executions, seeds, stale_s=stale_s, ignore=ignore
        )
        self.folder: CampaignFolder = open_folder(folder / "out", "fake")
        self.heard = Heard()
        self.totals = Totals(ignore)
        worker, prepare = folder / "worker.py", folder / "prepare.py"
        worker.write_text(WORKER + program)
        # A Python literal, for None and True have no JSON in Python.
        prepare.write_text(PREPARE.replace("MESSAGES", repr(messages or DONE)))
        self.supervisor = Supervisor(
            self.settings,
            self.folder,
            [self.heard],
            self.totals,
            crew=partial(LocalCrew, describe=describe, worker=(sys.executable, str(worker))),
            prepare=(sys.executable, str(prepare)),
        )

    def run(self, *, then: Callable[[Supervisor], None] | None = None) -> "Stage":
        """Run it; ``then`` is called when the first worker has reported progress."""
        if then is not None:
            self.heard.on_progress = lambda: then(self.supervisor)

        with self.folder.locked(self.settings):
            asyncio.run(self.supervisor.run())
        return self

    def batches(self, worker: int = 0) -> list[dict[str, object]]:
        """What a worker was asked to do, at each of its starts."""
        folder = self.folder.path / f"worker-{worker}"
        names = sorted(name for name in os.listdir(folder) if name.startswith("start-"))
        return [json.loads((folder / name).read_text()) for name in names]


def test_a_campaign_begins_runs_and_ends(tmp_path: Path) -> None:
    stage = Stage(tmp_path, "end(batch['executions'])", workers=2, executions=101).run()
    heard = stage.heard
    assert isinstance(heard.events[0], events.CampaignStarted)
    assert heard.events[0].engine == "native"
    last = heard.events[-1]
    assert isinstance(last, events.CampaignEnded)
    assert (last.executions, last.reason, last.corpus) == (101, "budget", 1)
    assert (heard.started, heard.stopped) == (1, 1)
    assert stage.totals.executions == 101
    assert stage.totals.reached(Depth.HEADER) == 101
    # Each worker has its share, its seed and its folder.
    batches = [stage.batches(0)[0], stage.batches(1)[0]]
    assert [batch["executions"] for batch in batches] == [51, 50]
    assert batches[0]["seed"] != batches[1]["seed"]
    assert {str(batch["out"]) for batch in batches} == {str(stage.folder.path)}


def test_what_a_worker_prints_beside_events_is_a_warning_and_no_crash(tmp_path: Path) -> None:
    program = (
        "print('hello'); print('{\"event\": \"no such\"}')\n"
        "print(json.dumps({'event': 'progress'}))\n"
        'print(\'{"event": "campaign-ended", "executions": 1, "seconds": 1.0, "corpus": 1,'
        ' "findings": 0, "reason": ""}\')\n'
        "sys.stdout.flush(); sys.stdout.buffer.write(b'\\xff\\xfe\\n'); end(3)"
    )
    stage = Stage(tmp_path, program, executions=3).run()
    warnings = stage.heard.warnings()
    assert len(warnings) == GARBAGE_SHOWN_MAX
    assert "worker 0 sent a line that is no event" in warnings[0]
    assert "b'hello'" in warnings[0]
    assert stage.totals.executions == 3


def test_a_line_that_is_too_long_to_be_read_is_a_warning(tmp_path: Path) -> None:
    program = f"print('x' * {3 * LINE_SIZE_MAX}, flush=True); end(3)"
    stage = Stage(tmp_path, program, executions=3).run()
    (warning,) = stage.heard.warnings()
    assert "worker 0 sent lines longer than any event (1)" in warning
    assert stage.totals.executions == 3


def test_a_worker_may_not_speak_for_another(tmp_path: Path) -> None:
    stage = Stage(tmp_path, "me = 5; progress(1000); me = 0; end(3)", executions=3).run()
    assert stage.totals.executions == 3
    assert "not its to say" in stage.heard.warnings()[0]


def test_a_worker_that_dies_is_replaced_with_the_rest_of_its_budget(tmp_path: Path) -> None:
    program = (
        "if starts == 0:\n    progress(30); os.kill(os.getpid(), 11)\nend(batch['executions'])"
    )
    stage = Stage(tmp_path, program, executions=100).run()
    first, second = stage.batches()
    assert (first["executions"], second["executions"]) == (100, 70)
    assert first["seed"] != second["seed"]
    assert stage.totals.executions == 100
    assert stage.totals.restarts == 1
    ended = stage.heard.of(events.WorkerEnded)
    assert [(e.executions, e.reason, e.restarted) for e in ended] == [  # type: ignore[union-attr]
        (30, "died: signal SIGSEGV", True),
        (70, "budget", False),
    ]


@pytest.mark.parametrize(
    ("program", "seconds", "executions"),
    [("progress(10)", None, 10), ("progress(10); time.sleep(0.45)", 0.5, None)],
    ids=["executions", "time"],
)
def test_a_worker_that_dies_with_nothing_left_to_do_is_not_said_to_be_replaced(
    tmp_path: Path, program: str, seconds: float | None, executions: int | None
) -> None:
    program += "\nos.kill(os.getpid(), 11)"
    stage = Stage(tmp_path, program, seconds=seconds, executions=executions).run()
    (ended,) = stage.heard.of(events.WorkerEnded)
    assert ended == events.WorkerEnded(0, 10, "died: signal SIGSEGV", restarted=False)
    assert stage.totals.executions == 10


def test_a_worker_that_never_gets_going_fails_the_campaign_with_what_it_said(
    tmp_path: Path,
) -> None:
    program = "print('no such library', file=sys.stderr); sys.exit(9)"
    stage = Stage(tmp_path, program, executions=5)
    with pytest.raises(
        InfraError, match=r"(?s)does not get going: died: exit status 9.*no such lib"
    ):
        stage.run()
    assert len(stage.batches()) == local.BARREN_MAX
    assert stage.heard.stopped == 1
    assert stage.heard.events[-1].reason == "failed"  # type: ignore[union-attr]


def test_what_a_worker_says_went_wrong_is_the_reason(tmp_path: Path) -> None:
    stage = Stage(tmp_path, "end(0, 'the target has no loader'); sys.exit(3)", executions=5)
    with pytest.raises(InfraError, match="does not get going: the target has no loader"):
        stage.run()


def test_one_worker_that_fails_does_not_stop_the_others(tmp_path: Path) -> None:
    program = "if me == 1: sys.exit(9)\nend(batch['executions'])"
    stage = Stage(tmp_path, program, workers=2, executions=10)
    with pytest.raises(InfraError, match="worker 1 does not get going"):
        stage.run()
    assert stage.totals.executions == 5


@pytest.mark.timeout(30)
def test_a_worker_that_is_gone_is_not_waited_for_before_a_campaign_is_stale(
    tmp_path: Path,
) -> None:
    program = (
        "if me == 1: sys.exit(3)\n"
        "done = 0\n"
        "while not stopped:\n"
        "    done += 10; progress(done); time.sleep(0.01)\n"
        "end(done, 'stopped')"
    )
    # It has no other limit, so it would go on for ever.
    stage = Stage(tmp_path, program, workers=2, stale_s=0.3)
    with pytest.raises(InfraError, match="worker 1 does not get going"):
        stage.run()
    assert not stage.supervisor.interrupted


def test_a_death_inside_a_load_is_a_finding(tmp_path: Path) -> None:
    seen: list[tuple[int, bool]] = []

    def describe(folder: CampaignFolder, death: Death) -> Finding:
        seen.append((death.end.returncode, death.silent))
        return Finding(
            death.batch.target,
            Input(b"QEVMdeadly"),
            Violation("clean-error", "SIGSEGV ended the process", "a LoadError", "SIGSEGV", "x.py"),
            Execution(ExitKind.CRASHED, Depth.NOTHING, escape=Escape("SIGSEGV", "", ())),
            executions=30,
        )

    program = "if starts < 2:\n    progress(30); os.kill(os.getpid(), 11)\nend(batch['executions'])"
    stage = Stage(tmp_path, program, executions=100, describe=describe).run()
    assert seen == [(-11, False), (-11, False)]
    (finding,) = stage.heard.of(events.FindingAnnounced)
    assert isinstance(finding, events.FindingAnnounced)
    assert (stage.folder.path / finding.folder / "input").read_bytes() == b"QEVMdeadly"
    assert len(stage.heard.of(events.FindingRepeated)) == 1


def deadly(folder: CampaignFolder, death: Death) -> Finding:
    """The finding of a worker that died while it ran a corpus entry."""
    end = death.end
    return Finding(
        death.batch.target,
        Input(b"QEVM"),
        Violation("clean-error", "it ended the process", "a LoadError", str(end), "x.py"),
        Execution(ExitKind.CRASHED, Depth.NOTHING, escape=Escape(str(end), "", ())),
        executions=30,
    )


def replaying(times: int) -> Callable[..., object]:
    """A replay in which so many of the runs show it again."""

    async def replay(
        target: str,
        item: Input,
        runs: int,
        *,
        wanted: Violation,
        tell: Callable[[Run], None],
        load_timeout_s: float,
    ) -> Replayed:
        made = [
            Run(number, ExitKind.CRASHED, Depth.NOTHING, "", (wanted,) * (number < times))
            for number in range(runs)
        ]
        for run in made:
            tell(run)
        return Replayed(tuple(made), wanted)

    return replay


DIES_ONCE = "if starts == 0:\n    progress(30); os.kill(os.getpid(), {})\nend(batch['executions'])"


def test_a_death_that_is_known_is_counted_and_no_finding(tmp_path: Path) -> None:
    known = Violation("clean-error", "it ended the process", "a LoadError", "", "x.py").signature
    stage = Stage(
        tmp_path, DIES_ONCE.format(11), executions=100, describe=deadly, ignore=(known,)
    ).run()
    assert stage.heard.of(events.FindingAnnounced) == []
    assert stage.totals.ignored() == {known: 1}
    assert not list(stage.folder.findings.iterdir())


@pytest.mark.parametrize(
    ("number", "again", "is_finding"),
    [(9, 0, False), (15, 0, False), (9, 2, True), (11, 0, True), (11, 3, True)],
    ids=["killed", "terminated", "kills-itself", "flaky-crash", "crash"],
)
def test_a_worker_that_others_killed_is_no_finding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, again: int, is_finding: bool
) -> None:
    monkeypatch.setattr(deaths, "replay", replaying(again))
    # What the worker does on SIGTERM is its own business here.
    program = f"signal.signal(signal.SIGTERM, signal.SIG_DFL)\n{DIES_ONCE.format(number)}"
    stage = Stage(tmp_path, program, executions=100, describe=deadly).run()
    found = stage.heard.of(events.FindingAnnounced)
    assert bool(found) is is_finding
    warned = any("somebody else did it" in text for text in stage.heard.warnings())
    assert warned is not is_finding
    if is_finding:
        assert found[0].reliability == (again, 3)  # type: ignore[union-attr]
    assert stage.totals.executions == 100


def test_a_corpus_entry_that_ends_workers_is_put_in_quarantine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deaths, "replay", replaying(3))
    stage = Stage(tmp_path, DIES_ONCE.format(11), executions=100, describe=deadly)
    corpus = stage.folder.path / "corpus"
    corpus.mkdir()
    digest = stage.folder.corpus.add(b"QEVM")
    assert digest is not None
    stage.run()
    assert (stage.folder.path / "quarantine" / digest).read_bytes() == b"QEVM"
    assert not (corpus / digest).exists()
    assert f"corpus entry {digest[:16]} ends workers" in stage.heard.warnings()[0]


def test_the_finding_is_written_before_its_input_is_taken_out_of_the_corpus(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deaths, "replay", replaying(3))

    def fitted(folder: CampaignFolder, death: Death) -> Finding:
        finding = deadly(folder, death)
        place = folder.path / "corpus" / finding.input.digest
        return dataclasses.replace(finding, target=f"fake@{place}")

    stage = Stage(tmp_path, DIES_ONCE.format(11), executions=100, describe=fitted)
    (stage.folder.path / "corpus").mkdir()
    assert stage.folder.corpus.add(b"QEVM") is not None
    stage.run()
    (found,) = stage.heard.of(events.FindingAnnounced)
    assert isinstance(found, events.FindingAnnounced)
    assert (stage.folder.path / found.folder / "machine").read_bytes() == b"QEVM"
    assert len(os.listdir(stage.folder.path / "quarantine")) == 1


LEFT = """
sys.path[:0] = {path!r}
from pathlib import Path
from loadfuzz.campaign.batch import Batch, Engine
from loadfuzz.engines.last_input import LastInput
def leave():
    \"""Die as a worker does that was running an input.\"""
    out = Path(batch["out"])
    LastInput(out, Batch("fake", Engine.NATIVE, str(out), me, 1, None, 9)).begin(b"QEVMold", 4)
"""


def left() -> str:
    return LEFT.format(path=[item for item in sys.path if item])


def test_a_worker_that_fails_by_itself_is_not_blamed_on_an_earlier_input(tmp_path: Path) -> None:
    for number, program in enumerate(
        (
            # It fails before it gets going, where another has died before.
            "if starts == 0:\n    leave()\n    end(4, 'gave up'); sys.exit(3)\nsys.exit(9)",
            # It can say why.
            "leave(); end(0, 'no loader'); sys.exit(9)",
            # It cannot, but its exit status is one of ours.
            "leave(); sys.exit(3)",
            "leave(); sys.exit(2)",
        )
    ):
        folder = tmp_path / str(number)
        folder.mkdir()
        stage = Stage(folder, left() + program, executions=5, describe=deaths.describe)
        with pytest.raises(InfraError, match="does not get going"):
            stage.run()
        assert stage.totals.findings == {}, program


def test_a_finding_that_is_not_on_disk_is_a_warning(tmp_path: Path) -> None:
    program = (
        "say('finding', signature='a:b', oracle='a', title='t', path='b', folder='findings/x',"
        " executions=1, reliability=[3, 3]); end(1)"
    )
    stage = Stage(tmp_path, program, executions=1).run()
    assert stage.heard.warnings() == ["worker 0 announced findings/x, which is not there"]
    assert list(stage.totals.findings) == ["a:b"]


def test_when_time_is_up_workers_are_asked_to_stop(tmp_path: Path) -> None:
    stage = Stage(tmp_path, "progress(1); wait(); end(2, 'stopped')", workers=2, seconds=0.2).run()
    assert stage.totals.executions == 4
    last = stage.heard.events[-1]
    assert isinstance(last, events.CampaignEnded)
    assert last.reason == "budget"
    assert last.seconds >= 0.2
    assert stage.heard.ticks > 0


def test_a_worker_that_does_not_stop_is_ended_and_that_is_no_finding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "DEADLINE_GRACE_S", 0.1)
    monkeypatch.setattr(deaths, "replay", replaying(0))
    program = "progress(5); wait(lambda: False)"
    stage = Stage(tmp_path, program, seconds=0.2, describe=deadly).run()
    assert stage.totals.executions == 5
    assert not stage.supervisor.interrupted
    assert stage.totals.findings == {}
    assert stage.heard.warnings() == []


async def endless(*arguments: object, **named: object) -> Replayed:
    """A replay that does not end."""
    await asyncio.Event().wait()
    raise AssertionError("unreachable")


@pytest.mark.parametrize("again", [replaying(3), endless], ids=["burns", "sleeps"])
def test_a_load_that_never_ends_is_a_finding_also_when_time_is_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, again: Callable[..., object]
) -> None:
    monkeypatch.setattr(local, "DEADLINE_GRACE_S", 0.1)
    monkeypatch.setattr(deaths, "CONFIRM_TIMEOUT_S", 0.3)
    monkeypatch.setattr(deaths, "replay", again)
    program = left() + "leave(); progress(5); wait(lambda: False)"
    stage = Stage(tmp_path, program, seconds=0.2, describe=deaths.describe).run()
    (found,) = stage.heard.of(events.FindingAnnounced)
    assert isinstance(found, events.FindingAnnounced)
    assert found.oracle == "no-hang"
    assert found.reliability[0] == found.reliability[1] > 0
    assert stage.totals.executions == 5
    assert stage.heard.warnings() == []


def test_a_worker_that_says_nothing_is_ended_and_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "SILENCE_MAX_S", 0.5)
    seen: list[bool] = []

    def describe(folder: CampaignFolder, death: Death) -> None:
        seen.append(death.silent)

    program = "if starts == 0:\n    progress(30); wait(lambda: False)\nend(batch['executions'])"
    stage = Stage(tmp_path, program, executions=100, describe=describe)
    stage.run()
    assert seen == [True]
    assert stage.totals.executions == 100


def test_the_first_stop_lets_workers_finish(tmp_path: Path) -> None:
    program = "progress(1); wait(); end(7, 'stopped')"
    stage = Stage(tmp_path, program, seconds=600).run(then=Supervisor.stop)
    assert stage.supervisor.interrupted
    assert stage.totals.executions == 7
    assert stage.heard.events[-1].reason == "interrupted"  # type: ignore[union-attr]


def test_a_worker_that_ignores_the_first_stop_is_ended_after_a_while(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "STOP_GRACE_S", 0.1)
    monkeypatch.setattr(local, "SILENCE_MAX_S", 10_000)
    program = "progress(1); wait(lambda: False)"
    stage = Stage(tmp_path, program, executions=5).run(then=Supervisor.stop)
    assert stage.supervisor.interrupted
    assert stage.totals.executions == 1


def test_the_second_stop_ends_them_at_once(tmp_path: Path) -> None:
    def twice(supervisor: Supervisor) -> None:
        supervisor.stop()
        supervisor.stop()

    stage = Stage(tmp_path, "progress(1); wait(lambda: False)", seconds=600).run(then=twice)
    assert stage.supervisor.interrupted
    assert stage.totals.executions == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_stop_a_campaign_cleanly(tmp_path: Path, number: signal.Signals) -> None:
    program = "progress(1); wait(); end(7, 'stopped')"
    stage = Stage(tmp_path, program, seconds=600)
    stage.run(then=lambda supervisor: os.kill(os.getpid(), number))
    assert stage.supervisor.interrupted
    assert stage.totals.executions == 7


def test_a_full_disk_ends_the_campaign_with_words_and_no_worker_is_left(tmp_path: Path) -> None:
    stage = Stage(tmp_path, "progress(os.getpid()); wait(lambda: False)", seconds=600)
    handle = stage.heard.handle
    pids: list[int] = []

    def full(event: Event) -> None:
        handle(event)
        if isinstance(event, events.Progress):
            pids.append(event.executions)
            raise OSError(errno.ENOSPC, "No space left on device")

    stage.heard.handle = full  # type: ignore[method-assign]
    with pytest.raises(InfraError, match=r"No space left on device; make room"):
        stage.run()
    assert stage.heard.stopped == 1
    with pytest.raises(ProcessLookupError):
        os.kill(pids[0], 0)


def test_a_worker_that_died_of_a_full_disk_is_not_blamed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "DISK_FREE_MIN", 1 << 80)
    stage = Stage(tmp_path, "progress(5); sys.exit(1)", executions=100)
    with pytest.raises(InfraError, match="is full; make room"):
        stage.run()


# -- before the first worker -----------------------------------------------------------------


def test_without_atheris_the_native_engine_is_used_and_the_reason_told(tmp_path: Path) -> None:
    messages: list[dict[str, object]] = [
        {"message": "atheris", "problem": "ImportError: no atheris"}, {"message": "done"},
    ]  # fmt: skip
    stage = Stage(tmp_path, "end(1)", executions=1, messages=messages, engine=None).run()
    assert (
        "Atheris cannot be imported (ImportError: no atheris), so the native engine"
        in (stage.heard.warnings()[0])
    )
    assert stage.batches()[0]["engine"] == "native"


def test_atheris_that_was_asked_for_and_is_missing_is_an_error_of_use(tmp_path: Path) -> None:
    messages: list[dict[str, object]] = [
        {"message": "atheris", "problem": "ImportError: no atheris"}, {"message": "done"},
    ]  # fmt: skip
    stage = Stage(tmp_path, "", executions=1, messages=messages, engine=Engine.ATHERIS)
    with pytest.raises(UsageError, match="use --engine native"):
        stage.run()
    assert not stage.heard.of(events.CampaignStarted)


def test_a_target_that_cannot_be_imported_fails_the_campaign(tmp_path: Path) -> None:
    messages: list[dict[str, object]] = [{"message": "failed", "text": "no such module"}]
    with pytest.raises(InfraError, match="no such module"):
        Stage(tmp_path, "", executions=1, messages=messages).run()


def test_a_target_variant_that_there_is_not_is_an_error_of_use(tmp_path: Path) -> None:
    messages: list[dict[str, object]] = [
        {"message": "failed", "text": "no such variant", "usage": True}
    ]
    with pytest.raises(UsageError, match="no such variant"):
        Stage(tmp_path, "", executions=1, messages=messages).run()


def test_a_target_that_ends_its_process_when_imported_is_named(tmp_path: Path) -> None:
    with pytest.raises(InfraError, match="'fake' ended the process that imports it"):
        Stage(tmp_path, "", executions=1, messages=[{"message": "atheris", "problem": ""}]).run()


def test_seeds_that_end_the_process_are_named_and_no_more_than_some(tmp_path: Path) -> None:
    messages: list[dict[str, object]] = [{"message": "seed-trying", "name": "deadly"}]
    stage = Stage(tmp_path, "end(1)", executions=1, messages=messages).run()
    refused = stage.heard.of(events.SeedRefused)
    assert len(refused) == 4
    assert refused[0] == events.SeedRefused("deadly", "ends the target's process: exit status 0")
    assert "the rest was not tried" in stage.heard.warnings()[0]
    assert stage.totals.executions == 1


def test_without_a_usable_seed_nothing_is_started(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.write_bytes(b"")
    stage = Stage(tmp_path, "", executions=1, seeds=(str(empty),))
    with pytest.raises(UsageError, match="none of the --seeds can be used:"):
        stage.run()
    assert stage.heard.of(events.SeedSetAside) == [events.SeedSetAside(str(empty), "is empty")]


def test_a_stop_during_preparation_ends_it(tmp_path: Path) -> None:
    stage = Stage(tmp_path, "end(1)", executions=1)
    (tmp_path / "prepare.py").write_text("import time; time.sleep(1000)")

    async def body() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(stage.supervisor.run())
            await asyncio.sleep(0.2)
            stage.supervisor.stop()

    with stage.folder.locked(stage.settings):
        asyncio.run(body())
    assert stage.supervisor.interrupted
    assert not stage.heard.of(events.CampaignStarted)


def test_time_is_taken_from_the_clock_that_was_given(tmp_path: Path) -> None:
    stage = Stage(tmp_path, "end(1)", executions=1)
    stage.supervisor._clock = ManualClock()
    stage.run()
    assert stage.heard.events[-1].seconds == 0.0  # type: ignore[union-attr]
