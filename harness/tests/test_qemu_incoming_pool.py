"""The incoming executor: verdicts of a real QEMU with a true end of file, and of one that
misbehaves on command."""

import asyncio
import contextlib
import os
import signal
import sys
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from functools import cache
from pathlib import Path

import pytest

from loadfuzz.errors import InfraError, UsageError
from loadfuzz.execution import Depth, Escape, Execution, ExitKind, Refusal
from loadfuzz.qemu import instance, template
from loadfuzz.qemu.capture import capture
from loadfuzz.qemu.incoming_pool import READY_MAX, IncomingExecutor, incoming_executor
from loadfuzz.qemu.incoming_verdicts import judge_end, judge_refusal, mumbled
from loadfuzz.qemu.loadvm import loadvm_executor
from loadfuzz.qemu.machine import MachineSpec
from loadfuzz.qemu.process import Ending

LOAD_TIMEOUT_S = 0.5
FAKE = """#!{python}
import json, os, signal, socket, sys, time
fd = next(word for word in sys.argv if word.startswith("socket,id=qmp,fd="))
channel = socket.socket(fileno=int(fd.rpartition("=")[2]))
channel.sendall(b'{{"QMP": {{}}}}\\n')
count = 0
for line in channel.makefile("rb"):
    if not line.strip():
        continue
    command = json.loads(line)["execute"]
    value = {{"status": "completed"}} if command == "query-migrate" else {{}}
    reply = {{"return": value}}
    if command == "{command}":
        count += 1
        {body}
    channel.sendall(json.dumps(reply).encode() + b"\\n")
"""
ASK = "query-migrate"
SAY = "print('{}', file=sys.stderr, flush=True); "
ASSERTION = (
    SAY.format("fake: ../hw/fake.c:12: fake_load: Assertion `n < limit` failed.") + "os.abort()"
)
MANNERS = {
    "deaf": ("getfd", "reply = {'error': {'desc': 'No file descriptor supplied'}}"),
    "busy": (ASK, "while True: pass"),
    "silent": (ASK, "time.sleep(600)"),
    "for-ever-active": (ASK, "reply = {'return': {'status': 'active'}}"),
    "patient": (ASK, "reply = {'return': {'status': 'active'} if count < 9 else value}"),
    "failed-and-alive": (ASK, "reply = {'return': {'status': 'failed', 'error-desc': 'No peek'}}"),
    "assertion": (ASK, ASSERTION),
    "memory": (
        ASK,
        SAY.format("(process:7): GLib-ERROR **: failed to allocate 99 bytes")
        + "os.kill(os.getpid(), signal.SIGTRAP)",
    ),
    "killed": (ASK, "os.kill(os.getpid(), signal.SIGKILL)"),
    "dies-running": ("stop", ASSERTION),
    "hangs-stopping": ("query-status", "while True: pass"),
}
"""What it does when it gets a command."""


@pytest.fixture(autouse=True)
def base(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """A place of the test's own instead of shared memory; empty at the end."""
    folder = tmp_path / "base"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    monkeypatch.setattr(instance, "SHARED_MEMORY", folder)
    yield folder
    assert list(folder.iterdir()) == []


@pytest.fixture
def faking(tmp_path: Path) -> Callable[[str], MachineSpec]:
    """Makes a QEMU that misbehaves in one of :data:`MANNERS`."""

    def fake(manner: str) -> MachineSpec:
        path = tmp_path / "fake-qemu"
        command, body = MANNERS[manner]
        path.write_text(FAKE.format(python=sys.executable, command=command, body=body))
        path.chmod(0o755)
        return MachineSpec(str(path), "none")

    return fake


def gone(pid: int) -> bool:
    """Whether a child was ended and collected."""
    return not Path(f"/proc/{pid}").exists()


def with_pool(
    spec: MachineSpec, base: Path, body: Callable[[IncomingExecutor], Awaitable[Execution]]
) -> Execution:
    """What ``body`` makes of a pool."""

    async def run() -> Execution:
        async with incoming_executor(spec, base, LOAD_TIMEOUT_S, copies=True) as executor:
            return await body(executor)

    return asyncio.run(run())


def load(spec: MachineSpec, base: Path, stream: bytes, *, closely: bool = False) -> Execution:
    """The verdict on one stream."""
    return with_pool(spec, base, lambda executor: executor.execute(stream, closely=closely))


@cache
def captured(binary: str, machine: str) -> bytes:
    return asyncio.run(capture(MachineSpec(binary, machine)))


# -- what QEMU says --------------------------------------------------------------------------------


def test_a_refusal_has_errno_and_path_of_what_qemu_printed() -> None:
    judged = judge_refusal(
        "qemu-system-x86_64: Failed to load globalstate:runstate\n"
        "qemu-system-x86_64: error while loading state for instance 0x0 of device 'globalstate'\n"
        "qemu-system-x86_64: load of migration failed: Input/output error\n"
    )
    assert judged.refusal == Refusal(
        "globalstate: runstate: Error -5 while loading VM state", 5, None,
        ("globalstate", "runstate"),
    )  # fmt: skip
    assert judged.depth is Depth.FIRST_SECTION


def test_a_release_that_says_all_in_one_line_is_understood() -> None:
    judged = judge_refusal(
        "qemu-system-x86_64: load of migration failed: Invalid argument: Not a migration stream\n"
    )
    assert judged.refusal == Refusal("header: Not a migration stream", 22, None, ("header",))
    assert judged.depth is Depth.NOTHING


def test_a_warning_is_no_reason() -> None:
    judged = judge_refusal(
        "qemu-system-x86_64: warning: UUID is received, but local uuid isn't set\n"
        "qemu-system-x86_64: Unknown savevm section type 132\n"
        "qemu-system-x86_64: load of migration failed: Invalid argument\n"
    )
    assert judged.refusal == Refusal("Unknown savevm section type 132", 22, None, ())


def test_an_exit_with_a_reason_is_a_refusal_and_a_sanitizer_is_not() -> None:
    said = "qemu: load of migration failed: Operation not permitted\n"
    refused = judge_end(Ending(1, said))
    assert refused.refusal is not None
    assert (refused.kind, refused.refusal.errno) == (ExitKind.REJECTED, 1)
    found = judge_end(Ending(1, "SUMMARY: AddressSanitizer: heap-use-after-free (/usr/bin/x)\n"))
    assert found.kind is ExitKind.CRASHED
    assert judge_end(Ending(99, said)).kind is ExitKind.CRASHED


def test_an_end_while_the_guest_runs_is_no_refusal() -> None:
    end = judge_end(Ending(1, "qemu: hw error\n"), "running the guest")
    assert (end.kind, end.refusal, end.depth) == (ExitKind.CRASHED, None, Depth.ACCEPTED)


def test_what_is_mumbled_over_an_accepted_stream_has_no_program_in_front() -> None:
    printed = "/usr/bin/qemu-system-x86_64: Expected vmdescription section, but got 0\n"
    assert mumbled(printed) == ("Expected vmdescription section, but got #",)


# -- one that misbehaves ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("manner", "kind", "escape"),
    [
        ("busy", ExitKind.TIMED_OUT, Escape("hang", "busy", ())),
        ("silent", ExitKind.TIMED_OUT, Escape("hang", "blocked", ())),
        ("for-ever-active", ExitKind.TIMED_OUT, Escape("hang", "blocked", ())),
        ("patient", ExitKind.ACCEPTED, None),
        (
            "assertion", ExitKind.CRASHED,
            Escape("SIGABRT", "Assertion `n < limit` failed.", ("fake.c:fake_load:12",)),
        ),
        (
            "memory", ExitKind.OUT_OF_MEMORY,
            Escape("SIGTRAP", "GLib-ERROR **: failed to allocate # bytes", ()),
        ),
    ],
)  # fmt: skip
def test_a_death_and_a_hang_are_told_apart(
    manner: str,
    kind: ExitKind,
    escape: Escape | None,
    base: Path,
    faking: Callable[[str], MachineSpec],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")  # no gdb: the frames would be the interpreter's
    execution = load(faking(manner), base, b"QEVM")
    assert (execution.kind, execution.escape) == (kind, escape)


@pytest.mark.parametrize(
    ("manner", "kind", "message"),
    [
        ("dies-running", ExitKind.CRASHED, "running the guest: Assertion `n < limit` failed."),
        ("hangs-stopping", ExitKind.TIMED_OUT, "stopping the guest: busy"),
    ],
)
def test_what_goes_wrong_at_a_close_look_says_what_was_being_done(
    manner: str,
    kind: ExitKind,
    message: str,
    base: Path,
    faking: Callable[[str], MachineSpec],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")  # no gdb
    execution = load(faking(manner), base, b"QEVM", closely=True)
    assert execution.escape is not None
    assert (execution.kind, execution.escape.message) == (kind, message)
    assert execution.depth is Depth.ACCEPTED
    assert load(faking(manner), base, b"QEVM").kind is ExitKind.ACCEPTED


def test_a_cancelled_load_leaves_no_process_and_the_next_one_is_done(
    base: Path, faking: Callable[[str], MachineSpec]
) -> None:
    async def body(executor: IncomingExecutor) -> Execution:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.5):
                await executor.execute(b"QEVM")
        faking("patient")  # what is started from now on
        for _ in range(3):  # those that wait are of the old kind
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.5):
                    return await executor.execute(b"QEVM")
        return await executor.execute(b"QEVM")

    assert with_pool(faking("silent"), base, body).kind is ExitKind.ACCEPTED


def test_one_that_fails_and_lives_on_has_refused(
    base: Path, faking: Callable[[str], MachineSpec]
) -> None:
    execution = load(faking("failed-and-alive"), base, b"QEVM")
    assert execution.kind is ExitKind.REJECTED
    assert execution.refusal is not None
    assert execution.refusal.text == "No peek"


def test_a_qemu_that_somebody_killed_is_no_verdict(
    base: Path, faking: Callable[[str], MachineSpec]
) -> None:
    with pytest.raises(InfraError, match="ended from outside"):
        load(faking("killed"), base, b"QEVM")


def test_one_that_takes_no_descriptor_is_not_ours_to_judge(
    base: Path, faking: Callable[[str], MachineSpec]
) -> None:
    with pytest.raises(InfraError, match="No file descriptor supplied"):
        load(faking("deaf"), base, b"QEVM")


# -- the pool --------------------------------------------------------------------------------------


@pytest.mark.parametrize("ready", [-1, READY_MAX + 1])
def test_a_pool_of_an_impossible_size_is_refused(ready: int, base: Path) -> None:
    async def run() -> None:
        async with incoming_executor(MachineSpec("qemu", "none"), base, 1.0, ready=ready):
            raise AssertionError("it was made")

    with pytest.raises(UsageError, match=f"{ready} processes"):
        asyncio.run(run())


def test_a_binary_that_is_not_there_is_the_users_to_mend(base: Path) -> None:
    with pytest.raises(UsageError, match="No such file"):
        load(MachineSpec("/nonexistent/qemu", "none"), base, b"")


@pytest.mark.usefixtures("copying")
def test_where_copies_do_not_come_up_processes_are_started(
    faking: Callable[[str], MachineSpec], base: Path
) -> None:
    spec = faking("patient")
    program = Path(spec.binary)
    refuses = "if '/proc/self/fd/' in sys.argv[-1]: sys.exit(9)\nfd = next("
    program.write_text(program.read_text().replace("fd = next(", refuses))

    async def body(executor: IncomingExecutor) -> Execution:
        found = await executor.execute(b"QEVM")
        assert not executor._starter.copies
        return found

    assert with_pool(spec, base, body).kind is ExitKind.ACCEPTED


@pytest.mark.usefixtures("copying")
def test_a_template_that_somebody_killed_is_replaced(
    faking: Callable[[str], MachineSpec], base: Path
) -> None:
    async def body(executor: IncomingExecutor) -> Execution:
        await executor.execute(b"QEVM")
        template = executor._starter._template
        assert template is not None
        os.kill(template._popen.pid, signal.SIGKILL)
        for _ in range(4):  # more than were ready
            found = await executor.execute(b"QEVM")
        assert executor._starter._template is not template
        return found

    assert with_pool(faking("patient"), base, body).kind is ExitKind.ACCEPTED


def test_where_nothing_can_be_copied_processes_are_started(
    faking: Callable[[str], MachineSpec], base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def body(executor: IncomingExecutor) -> Execution:
        assert not executor._starter.copies
        return await executor.execute(b"QEVM")

    monkeypatch.setattr(template, "supported", lambda: False)
    assert with_pool(faking("patient"), base, body).kind is ExitKind.ACCEPTED


@pytest.mark.qemu
def test_a_machine_that_does_not_come_up_says_why(qemu_binary: str, base: Path) -> None:
    with pytest.raises(UsageError, match="unsupported machine type"):
        load(MachineSpec(qemu_binary, "no-such-machine"), base, b"")


@pytest.mark.qemu
@pytest.mark.parametrize("machine", ["none", "pc"])
def test_each_load_has_a_machine_of_its_own(machine: str, qemu_binary: str, base: Path) -> None:
    stream = captured(qemu_binary, machine)
    pids: list[int] = []

    async def run() -> list[Execution]:
        async with incoming_executor(
            MachineSpec(qemu_binary, machine), base, 5.0, copies=True
        ) as executor:
            made = []
            for number, bad in enumerate((False, True, False)):
                made.append(await executor.execute(stream[:100] if bad else stream))
                assert executor.generation == number + 1
                assert executor.pid is None
                pids.extend(listener.process.pid for listener in executor._waiting)
            return made

    kinds = [execution.kind for execution in asyncio.run(run())]
    assert kinds == [ExitKind.ACCEPTED, ExitKind.REJECTED, ExitKind.ACCEPTED]
    assert len(pids) == 6
    assert all(map(gone, pids))


@pytest.mark.qemu
def test_a_stream_without_its_end_is_refused_as_eof_and_not_read_as_zeros(
    qemu_binary: str, base: Path
) -> None:
    stream = captured(qemu_binary, "none")
    end = stream.index(b"\0\x06\0\0", stream.index(b"globalstate"))  # EOF mark and vmdesc

    async def over_loadvm() -> Execution:
        spec = MachineSpec(qemu_binary, "none")
        async with loadvm_executor(spec, base, LOAD_TIMEOUT_S) as executor:
            return await executor.execute(stream[:end])

    execution = load(MachineSpec(qemu_binary, "none"), base, stream[:end])
    assert execution.kind is ExitKind.REJECTED
    assert execution.refusal is not None
    assert execution.refusal.errno == 5
    assert asyncio.run(over_loadvm()).kind is ExitKind.ACCEPTED


@pytest.mark.qemu
def test_a_refusal_reads_the_same_as_over_loadvm(qemu_binary: str, base: Path) -> None:
    stream = bytearray(captured(qemu_binary, "none"))
    at = stream.index(b"\x05timer") + len(b"\x05timer") + 4
    stream[at : at + 4] = (77).to_bytes(4, "big")

    async def over_loadvm() -> Execution:
        spec = MachineSpec(qemu_binary, "none")
        async with loadvm_executor(spec, base, LOAD_TIMEOUT_S) as executor:
            return await executor.execute(bytes(stream))

    ours = load(MachineSpec(qemu_binary, "none"), base, bytes(stream))
    theirs = asyncio.run(over_loadvm())
    assert ours.refusal is not None
    assert ours.refusal.path == ("timer", "version_id")
    assert (ours.refusal, ours.depth) == (theirs.refusal, theirs.depth)


@pytest.mark.qemu
@pytest.mark.parametrize("stream", [b"", b"QEV", b"QEVM", b"x" * 1_000_000])
def test_what_is_no_stream_is_refused(stream: bytes, qemu_binary: str, base: Path) -> None:
    execution = load(MachineSpec(qemu_binary, "none"), base, stream)
    assert execution.kind is ExitKind.REJECTED
    assert execution.refusal is not None
    assert execution.refusal.path == ("header",)


@pytest.mark.qemu
def test_a_close_look_runs_the_guest_and_tells_of_sections(qemu_binary: str, base: Path) -> None:
    stream = captured(qemu_binary, "pc")
    execution = load(MachineSpec(qemu_binary, "pc"), base, stream, closely=True)
    assert execution.kind is ExitKind.ACCEPTED
    assert [event for event in execution.events if event.startswith("vmstate_load ram")]
    assert [event for event in execution.events if "cpu_common" in event]
    cut = stream[: stream.rindex(b"globalstate\0")]
    refused = load(MachineSpec(qemu_binary, "pc"), base, cut, closely=True)
    assert refused.kind is ExitKind.REJECTED
    assert refused.events
