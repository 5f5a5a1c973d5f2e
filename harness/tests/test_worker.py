"""Worker processes: what they say, how they end, and what is left when they die."""

import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest

from loadfuzz import codec, events
from loadfuzz.campaign.batch import Batch, Engine
from loadfuzz.engines.last_input import LastInput, describe_death
from loadfuzz.events import Event
from loadfuzz.execution import ExitKind
from loadfuzz.inputs import digest_of
from loadfuzz.storage import Corpus, outsiders_of
from loadfuzz.testing.installed import Installed, install_target

SEEDS = (b"QEVMaa", b"QEVMbbb")

LOADERS = """\
from loadfuzz.testing.scripted import ScriptedSubject, ScriptedTarget
from savevm import LoadError


class CalmSubject(ScriptedSubject):
    def load(self, stream, delivery, trace):
        if stream[:4] != b"QEVM":
            raise LoadError("no magic", offset=0, path=("header",))
        for byte in stream[4:12]:
            if trace is not None and byte < 128:
                trace("vmstate_load", f"device-{byte}", "vmsd")
        if stream[4:5] == b"X":
            raise IndexError("out of range")
        if b"R" in stream:
            raise LoadError("refused", offset=4, path=("body",))
        self._stream = stream


class DeadlySubject(CalmSubject):
    def load(self, stream, delivery, trace):
        if stream == b"QEVMV":
            import faulthandler
            faulthandler._sigsegv()
        if stream == b"QEVMM":
            bytearray(1 << 40)
        if stream == b"QEVMA":
            hoard = []
            while True:
                hoard.append(bytearray(1 << 24))
        super().load(stream, delivery, trace)

    def save(self):
        if self._stream == b"QEVMsave":
            import faulthandler
            faulthandler._sigsegv()
        return super().save()


class Target(ScriptedTarget):
    def __init__(self, name, subject):
        self.name = name
        self.open = subject


CALM = Target("calm", CalmSubject)
DEADLY = Target("deadly", DeadlySubject)
"""


def lay_out(
    installed: Installed,
    seeds: Sequence[bytes] = SEEDS,
    *,
    target: str = "calm",
    executions: int | None = 300,
    seconds: float | None = None,
    seed: int = 7,
    name: str = "out",
) -> tuple[Path, Path]:
    """A campaign's folder with a batch in it: the folder and the batch file."""
    site = installed.folder.parent / "site"
    if not (site / "loaders.py").exists():
        (site / "loaders.py").write_text(LOADERS)
        for known in ("calm", "deadly"):
            install_target(site, known, f"loaders:{known.upper()}", known)
    out = installed.folder / name
    for folder in ("corpus", "findings", "worker-0"):
        (out / folder).mkdir(parents=True)
    for stream in seeds:
        Corpus(out / "corpus").add(stream)
    batch = Batch(target, Engine.NATIVE, str(out), 0, seed, seconds, executions, load_timeout_s=0.4)
    path = out / "worker-0" / "batch.json"
    path.write_bytes(codec.encode(batch))
    return out, path


def start(installed: Installed, path: Path) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [sys.executable, "-m", "loadfuzz.engines.worker", str(path)],
        cwd=installed.folder,
        env=installed.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def run(installed: Installed, path: Path) -> tuple[list[Event], int, str]:
    with start(installed, path) as worker:
        out, err = worker.communicate(timeout=120)
    return [events.decode(line) for line in out.splitlines()], worker.returncode, err.decode()


def told(heard: list[Event]) -> list[Event]:
    """Without the process id, and without how long loads took."""
    return [
        msgspec.structs.replace(event, loads={}) if isinstance(event, events.Progress) else event
        for event in heard
        if not isinstance(event, events.WorkerStarted)
    ]


def signatures(heard: list[Event]) -> set[str]:
    return {event.signature for event in heard if isinstance(event, events.FindingAnnounced)}


def test_a_worker_does_its_budget_and_says_so(installed: Installed) -> None:
    out, path = lay_out(installed)
    heard, code, err = run(installed, path)
    assert code == 0, err
    assert isinstance(heard[0], events.WorkerStarted)
    *_, last_progress, end = heard
    assert end == events.WorkerEnded(0, 300, "budget", restarted=False)
    assert isinstance(last_progress, events.Progress)
    assert last_progress.executions == sum(last_progress.kinds.values()) == 300
    assert sum(last_progress.depths.values()) == 300
    assert last_progress.judged["clean-error"] == 300
    assert 0 < last_progress.judged["chunking"] < 300
    assert last_progress.corpus == len(list(Corpus(out / "corpus").digests()))
    added = {event.digest for event in heard if isinstance(event, events.CorpusAdded)}
    assert added
    assert added <= set(Corpus(out / "corpus").digests())


def test_the_same_seed_gives_the_same_events(installed: Installed) -> None:
    logs = []
    for name, seed in (("one", 3), ("two", 3), ("three", 4)):
        _, path = lay_out(installed, (*SEEDS, b"QEVMX"), seed=seed, name=name)
        logs.append(told(run(installed, path)[0]))
    assert logs[0] == logs[1]
    assert logs[0] != logs[2]


def test_streams_that_were_made_here_are_run_and_not_judged_again(installed: Installed) -> None:
    streams = (*SEEDS, b"QEVMX", b"QEVMX, too")
    out, path = lay_out(installed, streams, target="scripted", executions=len(streams))
    outsiders_of(out).add(map(digest_of, SEEDS))
    heard, code, err = run(installed, path)
    assert code == 0, err
    assert not any(isinstance(event, events.FindingAnnounced) for event in heard)
    last = [event for event in heard if isinstance(event, events.Progress)][-1]
    assert last.executions == len(streams)
    assert last.kinds["crashed"] == 2
    assert last.judged["clean-error"] == len(SEEDS)

    # What comes from outside later is judged, and what came before still is.
    outsiders_of(out).add([digest_of(b"QEVMX")])
    assert outsiders_of(out).read() == frozenset({*map(digest_of, SEEDS), digest_of(b"QEVMX")})
    heard, code, err = run(installed, path)
    assert sum(isinstance(event, events.FindingAnnounced) for event in heard) == 1


def test_a_worker_goes_on_after_findings(installed: Installed) -> None:
    out, path = lay_out(installed, (*SEEDS, b"QEVMX", b"QEVMH"), target="scripted", executions=4)
    heard, code, err = run(installed, path)
    assert code == 0, err
    oracles = {event.oracle for event in heard if isinstance(event, events.FindingAnnounced)}
    assert oracles == {"clean-error", "no-hang"}
    for event in heard:
        if isinstance(event, events.FindingAnnounced):
            # A hang was run twice before it was one.
            assert event.reliability == ((1, 1) if event.oracle == "no-hang" else (3, 3))
            assert (out / event.folder).is_dir()
    assert isinstance(heard[-1], events.WorkerEnded)
    assert heard[-1].executions == 4


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_worker_after_the_present_execution(
    installed: Installed, number: signal.Signals
) -> None:
    _, path = lay_out(installed, executions=None)
    with start(installed, path) as worker:
        assert worker.stdout is not None
        heard = [events.decode(worker.stdout.readline())]
        while not isinstance(heard[-1], events.Progress):
            heard.append(events.decode(worker.stdout.readline()))
        worker.send_signal(number)
        rest, _ = worker.communicate(timeout=60)
    heard += [events.decode(line) for line in rest.splitlines()]
    end = heard[-1]
    assert isinstance(end, events.WorkerEnded)
    assert end.reason == "stopped"
    assert worker.returncode == 0


def test_time_ends_a_worker(installed: Installed) -> None:
    _, path = lay_out(installed, executions=None, seconds=0.3)
    heard, code, _ = run(installed, path)
    assert code == 0
    assert isinstance(heard[-1], events.WorkerEnded)
    assert heard[-1].reason == "budget"


def test_what_the_target_prints_does_not_get_among_the_events(installed: Installed) -> None:
    _, path = lay_out(installed, (b"QEVMP",), target="scripted", executions=1)
    heard, code, err = run(installed, path)
    assert code == 0
    assert isinstance(heard[-1], events.WorkerEnded)
    assert "the target prints this" in err


@pytest.mark.parametrize(
    ("stream", "cause"), [(b"QEVMK", "SIGKILL"), (b"QEVMExit", "exit status 9")]
)
def test_what_a_worker_died_of_is_known(installed: Installed, stream: bytes, cause: str) -> None:
    out, path = lay_out(installed, (stream,), target="scripted")
    heard, code, _ = run(installed, path)
    assert not any(isinstance(event, events.WorkerEnded) for event in heard)
    finding = describe_death(out, 0, code)
    assert finding is not None
    assert finding.input.stream == stream
    assert (finding.target, finding.seed, finding.executions) == ("scripted", 7, 1)
    assert finding.execution.kind is ExitKind.CRASHED
    assert finding.violation.oracle == "clean-error"
    assert cause in finding.violation.title


def test_a_fatal_signal_is_told_with_its_place(installed: Installed) -> None:
    out, path = lay_out(installed, (b"QEVMV",), target="deadly")
    _, code, _ = run(installed, path)
    finding = describe_death(out, 0, code)
    assert finding is not None
    assert finding.signature == "clean-error:SIGSEGV at loaders.py:load"


def test_a_death_while_oracles_look_closer_is_not_said_to_be_in_a_load(
    installed: Installed,
) -> None:
    out, path = lay_out(installed, (b"QEVMsave",), target="deadly")
    _, code, _ = run(installed, path)
    finding = describe_death(out, 0, code)
    assert finding is not None
    assert finding.input.stream == b"QEVMsave"
    assert finding.signature == "clean-error:SIGSEGV at loaders.py:save"
    assert "after a load, while oracles looked closer at loaders.py:save" in finding.violation.title


def test_a_claim_on_memory_beyond_all_reason_is_refused_and_the_worker_goes_on(
    installed: Installed,
) -> None:
    _, path = lay_out(installed, (b"QEVMM", b"QEVMA"), target="deadly", executions=20)
    heard, code, err = run(installed, path)
    assert code == 0, err
    (finding,) = [event for event in heard if isinstance(event, events.FindingAnnounced)]
    assert finding.oracle == "bounded-memory"
    assert "DeadlySubject.load" in finding.signature


def test_a_worker_that_is_not_in_a_load_dies_of_something_else(tmp_path: Path) -> None:
    batch = Batch("t", Engine.NATIVE, str(tmp_path), 2, 1, None, None)
    with LastInput(tmp_path, batch) as last:
        last.begin(b"stream", 5)
        finding = describe_death(tmp_path, 2, 71)
        assert finding is not None
        assert finding.input.stream == b"stream"
        assert finding.execution.kind is ExitKind.OUT_OF_MEMORY
        stalled = describe_death(tmp_path, 2, -signal.SIGKILL, stalled=True)
        assert stalled is not None
        assert stalled.violation.oracle == "no-hang"
        last.end()
        assert describe_death(tmp_path, 2, 1) is None
        last.begin(b"shorter", 6)
    assert describe_death(tmp_path, 2, 1) is None
    assert describe_death(tmp_path, 3, 1) is None
    (tmp_path / "worker-2" / "last-input").write_bytes(b"\1 torn")
    assert describe_death(tmp_path, 2, 1) is None


def test_nothing_to_start_from_is_said(installed: Installed) -> None:
    _, path = lay_out(installed, ())
    heard, code, _ = run(installed, path)
    assert code == 3
    assert isinstance(heard[-1], events.WorkerEnded)
    assert "no stream to start from" in heard[-1].reason


def test_a_damaged_corpus_entry_is_a_warning(installed: Installed) -> None:
    out, path = lay_out(installed)
    (out / "corpus" / ("0" * 64)).write_bytes(b"not what the name says")
    heard, code, _ = run(installed, path)
    assert code == 0
    warnings = [event.text for event in heard if isinstance(event, events.MachineryWarning)]
    assert len(warnings) == 1
    assert "delete that file" in warnings[0]


def test_a_target_nobody_knows_is_an_error_of_use(installed: Installed) -> None:
    _, path = lay_out(installed, target="scribbled")
    heard, code, _ = run(installed, path)
    assert code == 2
    assert isinstance(heard[-1], events.WorkerEnded)
    assert "scribbled" in heard[-1].reason


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff\xfe", b'{"target": 3}'])
def test_a_file_that_holds_no_batch_is_an_error_of_use(
    installed: Installed, content: bytes
) -> None:
    path = installed.folder / "batch.json"
    path.write_bytes(content)
    heard, code, err = run(installed, path)
    assert (heard, code) == ([], 2)
    assert "holds no batch" in err


def test_a_worker_whose_supervisor_is_gone_ends(installed: Installed) -> None:
    _, path = lay_out(installed, executions=None)
    with start(installed, path) as worker:
        assert worker.stdout is not None
        worker.stdout.readline()
        worker.stdout.close()
        assert worker.wait(timeout=60) == 3


def test_a_finding_that_cannot_be_written_ends_the_run_with_words(installed: Installed) -> None:
    out, path = lay_out(installed, (b"QEVMX",))
    (out / "findings").rmdir()
    (out / "findings").write_text("no folder")
    heard, code, _ = run(installed, path)
    assert code == 3
    assert isinstance(heard[-1], events.WorkerEnded)
    assert "writing a finding" in heard[-1].reason
