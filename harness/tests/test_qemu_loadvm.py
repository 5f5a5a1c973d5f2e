"""The persistent executor: verdicts of a real QEMU, and of one that misbehaves on command."""

import asyncio
import contextlib
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from loadfuzz.errors import InfraError, UsageError
from loadfuzz.execution import Depth, Escape, Execution, ExitKind
from loadfuzz.inputs import STREAM_SIZE_MAX
from loadfuzz.qemu import instance, pace
from loadfuzz.qemu.asking import BLOCKED, FailedError, judge_failure
from loadfuzz.qemu.closer import NOT_RUN
from loadfuzz.qemu.loadvm import LOG_POSITION_MAX, LoadvmExecutor, loadvm_executor
from loadfuzz.qemu.machine import MachineSpec
from loadfuzz.qemu.process import PRINTED_MAX
from loadfuzz.qemu.vitals import backtraces, common_calls
from loadfuzz.testing import fake_qemu

WAIT_S = 20.0
"""Longest wait for something that is bound to happen."""
LOAD_TIMEOUT_S = 0.5


@pytest.fixture(autouse=True)
def base(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """A place of the test's own instead of shared memory; empty at the end."""
    del tmp_path  # pytest makes it where temporary folders are: before that is changed
    folder = Path(tempfile.mkdtemp(prefix="lfq-", dir="/tmp"))
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    monkeypatch.setattr(instance, "SHARED_MEMORY", folder)
    yield folder
    assert list(folder.iterdir()) == []
    folder.rmdir()


def gone(pid: int) -> bool:
    """Whether a process ends within :data:`WAIT_S`; a zombie has ended."""
    until = time.monotonic() + WAIT_S
    while time.monotonic() < until:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return True
        if state == "Z":
            return True
        time.sleep(0.02)
    return False


def with_executor(
    spec: MachineSpec,
    base: Path,
    body: Callable[[LoadvmExecutor], Awaitable[Execution]],
    *,
    spares: int = 1,
    loads_max: int = 1000,
) -> Execution:
    """Run ``body`` with an executor; every process that ran is gone afterwards."""
    pids: list[int] = []

    async def main() -> Execution:
        async with loadvm_executor(
            spec, base, LOAD_TIMEOUT_S, spares=spares, loads_max=loads_max, copies=True
        ) as executor:
            pids.append(executor.pid or 0)
            result = await body(executor)
            pids.append(executor.pid or 0)
            return result

    result = asyncio.run(main())
    assert all(gone(pid) for pid in pids)
    return result


def fake(base: Path, manner: str) -> MachineSpec:
    """A scripted QEMU."""
    program = base.parent / f"{base.name}.fake"
    program.write_text(f"#!{sys.executable}\n" + Path(fake_qemu.__file__).read_text())
    program.chmod(0o700)
    return MachineSpec(str(program), "fake", environment=(("FAKE_QEMU", manner),))


@pytest.fixture
def faked(base: Path) -> Iterator[Callable[[str], MachineSpec]]:
    """Makes scripted QEMUs."""
    yield lambda manner: fake(base, manner)
    (base.parent / f"{base.name}.fake").unlink(missing_ok=True)


Faked = Callable[[str], MachineSpec]


async def load(executor: LoadvmExecutor) -> Execution:
    return await executor.execute(b"QEVM")


def none(binary: str) -> MachineSpec:
    return MachineSpec(binary, "none", memory_mb=0, address_space_mb=2048)


# -- a QEMU that misbehaves -------------------------------------------------------------------


def test_a_load_without_a_word_is_accepted(base: Path, faked: Faked) -> None:
    found = with_executor(faked(""), base, load)
    assert (found.kind, found.depth, found.events) == (ExitKind.ACCEPTED, Depth.ACCEPTED, ())


def test_a_qemu_that_agrees_on_nothing_is_no_target(base: Path, faked: Faked) -> None:
    async def main() -> None:
        plan = instance.Plan(faked("closed"), base, b"QEVM", 4096)
        started = instance.Instance.start(plan, plan.starter())
        try:
            await started.ready()
        finally:
            await started.end()

    with pytest.raises(InfraError, match="refuses to be spoken to: no such capability"):
        asyncio.run(main())


def test_what_is_mumbled_is_an_event(base: Path, faked: Faked) -> None:
    found = with_executor(faked("mumble"), base, load)
    assert found.kind is ExitKind.ACCEPTED
    assert found.events == ("said Expected vmdescription section, but got #",)


def test_a_refusal_has_its_place(base: Path, faked: Faked) -> None:
    found = with_executor(faked("refuse"), base, load)
    assert found.kind is ExitKind.REJECTED
    assert found.refusal is not None
    assert found.refusal.path == ("fdc", "footer")


def test_an_assertion_is_a_crash_at_its_place(base: Path, faked: Faked) -> None:
    found = with_executor(faked("assertion"), base, load)
    assert found.kind is ExitKind.CRASHED
    assert found.escape == Escape(
        "SIGABRT", "Assertion `n < 4' failed.", ("fake.c:fake_load:12",)
    )  # fmt: skip


def test_an_exit_is_a_crash(base: Path, faked: Faked) -> None:
    found = with_executor(faked("exit"), base, load)
    assert found.escape == Escape("exit status 3", "", ())


def test_memory_that_cannot_be_had_is_out_of_memory(base: Path, faked: Faked) -> None:
    assert with_executor(faked("memory"), base, load).kind is ExitKind.OUT_OF_MEMORY


def test_sigkill_is_no_verdict(base: Path, faked: Faked) -> None:
    with pytest.raises(InfraError, match="from outside"):
        with_executor(faked("killed"), base, load)


def test_garbage_is_no_verdict(base: Path, faked: Faked) -> None:
    with pytest.raises(InfraError, match="does not speak QMP"):
        with_executor(faked("garbage"), base, load)


def test_a_load_that_uses_its_cpu_time_is_a_hang(base: Path, faked: Faked) -> None:
    found = with_executor(faked("busy"), base, load)
    assert found.kind is ExitKind.TIMED_OUT
    assert found.escape is not None
    assert (found.escape.type_name, found.escape.message) == ("hang", "busy")
    assert found.cpu_s >= LOAD_TIMEOUT_S


@pytest.mark.parametrize("manner", ["busy", "silence"])
def test_what_hangs_is_ended_at_once_and_not_by_whoever_comes_next(
    manner: str, base: Path, faked: Faked
) -> None:
    async def body(executor: LoadvmExecutor) -> Execution:
        found = await load(executor)
        assert executor.pid is not None
        assert gone(executor.pid)
        return found

    assert with_executor(faked(manner), base, body).kind is ExitKind.TIMED_OUT


def test_to_say_that_one_hangs_does_not_end_it(base: Path, faked: Faked) -> None:
    # A migration's two sides are spoken to when one of them was seen to hang.
    async def main() -> Execution:
        plan = instance.Plan(faked("silence"), base, b"QEVM", 4096)
        started = instance.Instance.start(plan, plan.starter())
        try:
            await started.ready()
            found = await judge_failure(started, FailedError("", BLOCKED), 0.0, explain=False)
            assert started.process.returncode is None
            return found
        finally:
            await started.end()

    assert asyncio.run(main()).kind is ExitKind.TIMED_OUT


@pytest.mark.usefixtures("copying")
def test_where_copies_do_not_come_up_processes_are_started(base: Path, faked: Faked) -> None:
    spec = faked("")
    program = Path(spec.binary)
    text = program.read_text()
    assert "def main() -> None:\n" in text
    log = "sys.argv[-1]"
    refuses = f"def main() -> None:\n    if '/proc/self/fd/' in {log}:\n        sys.exit(9)\n"
    program.write_text(text.replace("def main() -> None:\n", refuses))

    async def body(executor: LoadvmExecutor) -> Execution:
        found = await load(executor)
        assert not executor._starter.copies
        return found

    assert with_executor(spec, base, body).kind is ExitKind.ACCEPTED


def test_a_load_that_sleeps_for_ever_is_a_hang(base: Path, faked: Faked) -> None:
    found = with_executor(faked("silence"), base, load)
    assert found.kind is ExitKind.TIMED_OUT
    assert found.escape is not None
    assert found.escape.message == "blocked"


def test_a_load_that_is_late_is_waited_for(base: Path, faked: Faked) -> None:
    assert with_executor(faked("late"), base, load).kind is ExitKind.ACCEPTED


def test_output_without_end_is_thrown_away(base: Path, faked: Faked) -> None:
    async def body(executor: LoadvmExecutor) -> Execution:
        for _ in range(3):
            found = await load(executor)
        live = executor._live
        assert live is not None
        assert os.fstat(live.process._output).st_size < 3 << 20
        return found

    assert with_executor(faked("talk"), base, body).kind is ExitKind.ACCEPTED


def test_a_state_that_is_not_saved_again_is_an_event(base: Path, faked: Faked) -> None:
    async def body(executor: LoadvmExecutor) -> Execution:
        return await executor.execute(b"QEVM", closely=True)

    found = with_executor(faked("unsaved"), base, body)
    assert found.kind is ExitKind.ACCEPTED
    assert found.events == ("reload refused: Error: no room for it",)


@pytest.mark.parametrize(
    ("manner", "remark", "events"),
    [
        ("", "", ()),
        ("unrunnable", "(SIGSEGV running the guest): inputs are looked at without running "
         "the guest", (NOT_RUN,)),
        ("unsavable", "(SIGSEGV saving again): inputs are looked at by trace events alone",
         ()),
    ],
)  # fmt: skip
def test_what_fails_over_the_machines_own_stream_is_left_out_and_said(
    base: Path, faked: Faked, manner: str, remark: str, events: tuple[str, ...]
) -> None:
    remarks: list[str] = []

    async def body(executor: LoadvmExecutor) -> Execution:
        remarks.extend(executor.remarks)
        for _ in range(4):
            await load(executor)
        return await executor.execute(b"QEVM", closely=True)

    found = with_executor(faked(manner), base, body)
    assert (found.kind, found.events) == (ExitKind.ACCEPTED, events)
    assert len(remarks) == bool(remark)
    assert all(text.endswith(remark) for text in remarks)


@pytest.mark.parametrize(
    ("manner", "space_mb", "kind", "message"),
    [
        ("silent-memory", 2048, ExitKind.OUT_OF_MEMORY,
         "GLib: ../glib/gmem.c:#: failed to allocate # bytes"),
        ("silent-memory", None, ExitKind.CRASHED, ""),
        ("silent", 2048, ExitKind.CRASHED, ""),
    ],
)  # fmt: skip
def test_an_abort_without_a_word_is_asked_about_once_more(
    base: Path, faked: Faked, manner: str, space_mb: int | None, kind: ExitKind, message: str
) -> None:
    spec = replace(faked(manner), address_space_mb=space_mb)

    async def body(executor: LoadvmExecutor) -> Execution:
        found = await load(executor)
        await executor.renew()
        assert (await executor.sane()).kind is ExitKind.ACCEPTED
        return found

    found = with_executor(spec, base, body)
    assert found.kind is kind
    assert found.escape == Escape("SIGABRT", message, ())


def test_a_crash_is_kept_when_nobody_can_be_asked_once_more(base: Path, faked: Faked) -> None:
    spec = replace(faked("silent-memory"), address_space_mb=2048)

    async def body(executor: LoadvmExecutor) -> Execution:
        plan = executor._plan
        executor._plan = replace(plan, base=base / "full")
        found = await load(executor)
        executor._plan = plan
        return found

    found = with_executor(spec, base, body, spares=0)
    assert (found.kind, found.escape) == (ExitKind.CRASHED, Escape("SIGABRT", "", ()))


def test_a_crash_is_kept_when_the_one_that_was_asked_does_not_die(
    base: Path, faked: Faked, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = replace(faked("silent"), address_space_mb=2048)

    async def body(executor: LoadvmExecutor) -> Execution:
        end = instance.Instance.end

        async def stay(self: instance.Instance) -> None:
            await end(self)
            raise InfraError("it cannot be killed")

        with monkeypatch.context() as patch:
            patch.setattr(instance.Instance, "end", stay)
            return await load(executor)

    found = with_executor(spec, base, body)
    assert (found.kind, found.escape) == (ExitKind.CRASHED, Escape("SIGABRT", "", ()))


def test_a_process_that_has_logged_much_gives_way(base: Path, faked: Faked) -> None:
    async def body(executor: LoadvmExecutor) -> Execution:
        live = executor._live
        assert live is not None
        await load(executor)
        live.log.position = LOG_POSITION_MAX
        assert not executor.due
        live.log.position += 1
        assert executor.due
        before = executor.generation
        found = await load(executor)
        assert (executor.generation, executor.due) == (before + 1, False)
        return found

    assert with_executor(faked(""), base, body).kind is ExitKind.ACCEPTED


@pytest.mark.qemu
def test_what_qemu_prints_has_a_limit_and_its_image_fits_below(
    base: Path, qemu_binary: str
) -> None:
    async def body(executor: LoadvmExecutor) -> Execution:
        assert executor.pid is not None
        plan = executor._plan
        limit = resource.prlimit(executor.pid, resource.RLIMIT_FSIZE)[0]
        assert PRINTED_MAX < plan.file_size < 2 * PRINTED_MAX
        hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
        wanted = plan.file_size // 512 * 512  # what a shell counts in
        assert limit == (wanted if hard == resource.RLIM_INFINITY else min(wanted, hard))
        status = Path(f"/proc/{executor.pid}/status").read_text()
        ignored = int(status.partition("SigIgn:")[2].split()[0], 16)
        assert ignored >> (signal.SIGXFSZ - 1) & 1
        found = await executor.sane(closely=True)
        live = executor._live
        assert live is not None
        assert os.fstat(live.image._descriptor).st_size < limit
        assert live.log.position > 0
        return found

    found = with_executor(none(qemu_binary), base, body)
    assert found.kind is ExitKind.ACCEPTED
    assert not [event for event in found.events if "refused" in event]


# -- what it cannot be started with -----------------------------------------------------------


def test_a_machine_that_does_not_load_itself_is_a_usage_error(base: Path, faked: Faked) -> None:
    with pytest.raises(UsageError, match="does not load what its machine 'fake' saved"):
        with_executor(faked("insane"), base, load)


@pytest.mark.parametrize(
    ("binary", "words"),
    [("/no/such/qemu", "cannot run"), ("/bin/false", "before it spoke QMP")],
)
def test_what_is_no_qemu_is_a_usage_error(base: Path, binary: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        with_executor(none(binary), base, load)


def test_a_folder_that_is_not_there_is_our_trouble(
    base: Path, faked: Faked, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(instance, "SHARED_MEMORY", base / "missing")
    with pytest.raises(InfraError, match="make room"):
        with_executor(faked(""), base / "missing", load)


def test_a_full_disk_is_our_trouble(
    base: Path, faked: Faked, small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def body(executor: LoadvmExecutor) -> Execution:
        return await executor.execute(b"x" * STREAM_SIZE_MAX)

    monkeypatch.setattr(instance, "SHARED_MEMORY", small_disk)
    with pytest.raises(InfraError, match="make room"):
        with_executor(faked(""), small_disk, body)
    assert list(small_disk.iterdir()) == []


def test_files_go_where_there_is_room(base: Path, tmp_path: Path) -> None:
    assert instance.place_for(tmp_path, 1 << 20) == base
    assert instance.place_for(tmp_path, 1 << 60) == tmp_path


# -- generations -----------------------------------------------------------------------------------


def test_after_a_failure_nothing_goes_until_it_is_renewed(base: Path, faked: Faked) -> None:
    async def body(executor: LoadvmExecutor) -> Execution:
        await load(executor)
        with pytest.raises(InfraError, match="renew"):
            await load(executor)
        assert executor.generation == 1
        await executor.renew()
        assert executor.generation == 2
        return await executor.sane()

    assert with_executor(faked("exit"), base, body).kind is ExitKind.ACCEPTED


@pytest.mark.parametrize("spares", [0, 2])
def test_an_old_process_gives_way_and_says_so(base: Path, faked: Faked, spares: int) -> None:
    generations: list[int] = []

    async def body(executor: LoadvmExecutor) -> Execution:
        for _ in range(9):
            found = await load(executor)
            generations.append(executor.generation)
        return found

    with_executor(faked(""), base, body, spares=spares, loads_max=4)
    assert generations == [1, 1, 1, 1, 2, 2, 2, 2, 3]


def test_a_spare_that_died_is_replaced(base: Path, faked: Faked) -> None:
    async def body(executor: LoadvmExecutor) -> Execution:
        spare = executor._spares[0]
        os.kill(spare.process.pid, signal.SIGKILL)
        await executor.renew()
        assert executor.pid != spare.process.pid
        return await executor.sane()

    assert with_executor(faked(""), base, body).kind is ExitKind.ACCEPTED


def test_cancellation_ends_the_load_and_leaves_what_can_be_renewed(
    base: Path, faked: Faked
) -> None:
    async def body(executor: LoadvmExecutor) -> Execution:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.2):
                await load(executor)
        with pytest.raises(InfraError, match="renew"):
            await executor.sane()
        await executor.renew()
        return await executor.sane()

    assert with_executor(faked("silence"), base, body).kind is ExitKind.ACCEPTED


def test_cancelling_the_whole_leaves_nothing(base: Path, faked: Faked) -> None:
    pids: list[int] = []

    async def main() -> None:
        async with asyncio.timeout(1.5):
            async with loadvm_executor(faked("silence"), base, LOAD_TIMEOUT_S) as executor:
                pids.append(executor.pid or 0)
                pids.append(executor._spares[0].process.pid)
                await load(executor)

    with pytest.raises(TimeoutError):
        asyncio.run(main())
    assert all(gone(pid) for pid in pids)


# -- a real QEMU ------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def machine(spec: MachineSpec, base: Path) -> AsyncIterator[LoadvmExecutor]:
    async with loadvm_executor(spec, base, LOAD_TIMEOUT_S, spares=0) as executor:
        yield executor


@pytest.mark.qemu
def test_a_real_qemu_takes_its_own_stream_again_and_again(qemu_binary: str, base: Path) -> None:
    async def body(executor: LoadvmExecutor) -> Execution:
        pid = executor.pid
        for _ in range(50):
            found = await executor.execute(executor.clean)
            assert found.kind is ExitKind.ACCEPTED
        assert executor.pid == pid
        return found

    assert with_executor(none(qemu_binary), base, body).cpu_s > 0


@pytest.mark.qemu
def test_a_real_qemu_refuses_in_its_own_words_and_goes_on(qemu_binary: str, base: Path) -> None:
    async def body(executor: LoadvmExecutor) -> Execution:
        clean = executor.clean
        found = await executor.execute(b"no stream")
        assert found.refusal is not None
        assert found.refusal.text == "header: Not a migration stream"
        assert (found.depth, found.refusal.errno) == (Depth.NOTHING, 22)
        timer = clean.index(b"\x05timer")
        bad = clean[: timer + 10] + b"\x00\x00\x00\x63" + clean[timer + 14 :]
        found = await executor.execute(bad)
        assert found.refusal is not None
        assert found.refusal.path == ("timer", "version_id")
        return await executor.execute(clean)

    assert with_executor(none(qemu_binary), base, body).kind is ExitKind.ACCEPTED


@pytest.mark.qemu
def test_a_longer_stream_before_leaves_nothing_in_the_slot(qemu_binary: str, base: Path) -> None:
    async def body(executor: LoadvmExecutor) -> Execution:
        await executor.execute(b"Q" * STREAM_SIZE_MAX)
        return await executor.execute(executor.clean)

    assert with_executor(none(qemu_binary), base, body).kind is ExitKind.ACCEPTED


@pytest.mark.qemu
def test_a_real_qemu_tells_sections_and_fields_when_looked_at_closely(
    qemu_binary: str, base: Path
) -> None:
    async def body(executor: LoadvmExecutor) -> Execution:
        first = await executor.execute(executor.clean, closely=True)
        again = await executor.execute(executor.clean, closely=True)
        assert first.events == again.events
        assert (await executor.execute(executor.clean)).events == ()
        return first

    found = with_executor(MachineSpec(qemu_binary, "microvm", memory_mb=2), base, body)
    assert found.kind is ExitKind.ACCEPTED
    assert "vmstate_load timer 0 2" in found.events
    assert "vmstate_load_state_field timer:cpu_clock_offset" in found.events
    assert not [event for event in found.events if "refused" in event]


@pytest.mark.qemu
def test_what_is_refused_is_traced_up_to_there(qemu_binary: str, base: Path) -> None:
    async def body(executor: LoadvmExecutor) -> Execution:
        return await executor.execute(executor.clean[:300], closely=True)

    found = with_executor(none(qemu_binary), base, body)
    assert "vmstate_load_state_field configuration:len" in found.events


@pytest.mark.qemu
def test_a_real_qemu_that_aborts_is_a_crash(qemu_binary: str, base: Path) -> None:
    async def body(executor: LoadvmExecutor) -> Execution:
        os.kill(executor.pid or 0, signal.SIGABRT)
        return await executor.execute(executor.clean)

    found = with_executor(none(qemu_binary), base, body)
    assert found.kind is ExitKind.CRASHED
    assert found.escape is not None
    assert found.escape.type_name == "SIGABRT"


@pytest.mark.qemu
def test_a_real_qemu_that_is_stopped_is_no_hang(
    qemu_binary: str, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pace, "WAIT_MAX_S", pace.BLOCKED_S + 1)

    async def body(executor: LoadvmExecutor) -> Execution:
        os.kill(executor.pid or 0, signal.SIGSTOP)
        return await executor.execute(executor.clean)

    with pytest.raises(InfraError, match="neither answers nor sleeps"):
        with_executor(none(qemu_binary), base, body)


@pytest.mark.qemu
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_real_qemu_that_somebody_ends_is_no_verdict(
    qemu_binary: str, base: Path, number: signal.Signals
) -> None:
    async def body(executor: LoadvmExecutor) -> Execution:
        os.kill(executor.pid or 0, number)
        await asyncio.sleep(0.2)
        return await executor.execute(executor.clean)

    with pytest.raises(InfraError, match="from outside"):
        with_executor(none(qemu_binary), base, body)


@pytest.mark.qemu
def test_a_machine_that_cannot_be_saved_is_a_usage_error(qemu_binary: str, base: Path) -> None:
    spec = MachineSpec(qemu_binary, "pc", devices=("nvme,serial=x",))
    with pytest.raises(UsageError, match="non-migratable device"):
        with_executor(spec, base, load)


@pytest.mark.qemu
def test_limits_and_environment_reach_qemu(qemu_binary: str, base: Path) -> None:
    async def main() -> None:
        spec = MachineSpec(
            qemu_binary, "none", environment=(("MALLOC_PERTURB_", "165"),), address_space_mb=2000
        )
        async with machine(spec, base) as executor:
            limits = Path(f"/proc/{executor.pid}/limits").read_text()
            assert f"{2000 << 20}" in limits
            environment = Path(f"/proc/{executor.pid}/environ").read_bytes()
            assert b"MALLOC_PERTURB_=165" in environment.split(b"\0")

    asyncio.run(main())


PROGRAM = """
import asyncio, sys
from pathlib import Path
from loadfuzz.qemu import instance
from loadfuzz.qemu.loadvm import loadvm_executor
from loadfuzz.qemu.machine import MachineSpec

async def main():
    instance.SHARED_MEMORY = Path(sys.argv[2])
    spec = MachineSpec(sys.argv[1], "none")
    async with loadvm_executor(spec, Path(sys.argv[2]), 1.0) as executor:
        while not executor._spares[0].monitor.waiting:
            await asyncio.sleep(0.01)
        executor._spares[0].settle()
        print(executor.pid, executor._spares[0].process.pid, flush=True)
        await asyncio.sleep(1000)

asyncio.run(main())
"""


@pytest.mark.qemu
def test_a_worker_that_is_killed_leaves_no_qemu_and_no_file(qemu_binary: str, base: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, qemu_binary, str(base)], stdout=subprocess.PIPE
    ) as worker:
        assert worker.stdout is not None
        pids = [int(word) for word in worker.stdout.readline().split()]
        worker.kill()
    assert len(pids) == 2
    assert all(gone(pid) for pid in pids)
    assert [path for path in base.iterdir() if path.name.startswith("loadfuzz-")] == []


LOOP = """
#include <time.h>
volatile unsigned long count;
__attribute__((noinline)) void step(void) { for (int n = 0; n < 1000; n++) count++; }
__attribute__((noinline)) void spin(void) { for (;;) step(); }
__attribute__((noinline)) void outer(void) { spin(); count++; }
int main(void) { outer(); return count; }
"""


@pytest.mark.skipif(
    shutil.which("gdb") is None or shutil.which("cc") is None, reason="needs gdb and cc"
)
def test_where_a_program_loops_is_found_from_outside(tmp_path: Path) -> None:
    (tmp_path / "loop.c").write_text(LOOP)
    subprocess.run(["cc", "-g", "-O0", "-o", "loop", "loop.c"], cwd=tmp_path, check=True)
    with subprocess.Popen([tmp_path / "loop"]) as process:
        try:
            stacks = asyncio.run(backtraces(process.pid, 5))
        finally:
            process.kill()
    if not stacks:
        pytest.skip("gdb may not attach here")
    assert len(stacks) == 5
    calls = [frame.rpartition(":")[0] for frame in common_calls(stacks)]
    assert "loop.c:spin" in calls
    assert calls.index("loop.c:main") < calls.index("loop.c:outer") < calls.index("loop.c:spin")
