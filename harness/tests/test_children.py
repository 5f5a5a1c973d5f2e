"""Child processes: heard as they speak, ended when it is time, and never left behind."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from loadfuzz import children, launch
from loadfuzz.children import LINE_SIZE_MAX, TAIL_SIZE_MAX, Child, Exit, spawn

WAIT_S = 20.0
"""Longest wait for something that is bound to happen."""


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


def run(program: str, *, on_line: children.OnLine | None = None) -> tuple[Exit, list[bytes]]:
    """Run a Python program as a child to its end."""
    lines: list[bytes] = []

    async def body() -> Exit:
        async with spawn([sys.executable, "-c", program], on_line or lines.append) as child:
            return await child.wait()

    return asyncio.run(body()), lines


def test_lines_come_in_order_and_the_exit_status_is_known() -> None:
    end, lines = run("print('one'); print('two'); print('end', end=''); raise SystemExit(7)")
    assert lines == [b"one", b"two", b"end"]
    assert (end.status, end.signal, end.returncode) == (7, None, 7)
    assert str(end) == "exit status 7"


def test_a_signal_that_ended_a_child_is_named() -> None:
    end, _ = run("import os; os.kill(os.getpid(), 11)")
    assert (end.status, end.signal, end.returncode) == (None, 11, -11)
    assert str(end) == "signal SIGSEGV"


def test_only_the_end_of_a_flood_on_stderr_is_kept() -> None:
    end, _ = run("import sys; sys.stderr.write('x' * 1_000_000 + 'the end')")
    assert len(end.stderr) == TAIL_SIZE_MAX
    assert end.stderr.endswith("xthe end")


def test_a_line_without_end_is_dropped_and_the_next_one_is_heard() -> None:
    lines: list[bytes] = []

    async def body() -> int:
        program = f"print('x' * {3 * LINE_SIZE_MAX}); print('next')"
        async with spawn([sys.executable, "-c", program], lines.append) as child:
            await child.wait()
            return child.lines_too_long

    assert asyncio.run(body()) == 1
    assert lines == [b"next"]


def test_a_child_has_no_stdin_and_leads_a_session_of_its_own() -> None:
    _, lines = run(
        "import os, sys; print(repr(sys.stdin.read())); print(os.getsid(0) == os.getpid())"
    )
    assert lines == [b"''", b"True"]


def test_a_child_is_dead_when_its_block_is_left() -> None:
    program = (
        "import signal, time; signal.signal(15, signal.SIG_IGN);print(flush=True); time.sleep(1000)"
    )

    async def body() -> int:
        ready = asyncio.Event()
        async with spawn([sys.executable, "-c", program], lambda line: ready.set()) as child:
            await ready.wait()
            return child.pid

    assert gone(asyncio.run(body()))


def test_a_child_is_dead_when_its_block_is_cancelled() -> None:
    pids: list[int] = []

    async def body() -> None:
        async with spawn([sys.executable, "-c", "import time; time.sleep(1000)"], print) as child:
            pids.append(child.pid)
            async with asyncio.timeout(0.1):
                await child.wait()

    with pytest.raises(TimeoutError):
        asyncio.run(body())
    assert gone(pids[0])


def test_what_a_child_started_ends_with_it_and_does_not_hold_up_its_end() -> None:
    # The grandchild has the child's stdout: without its end there is no end of the pipe.
    end, lines = run(
        "import subprocess, sys\n"
        "p = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(1000)'])\n"
        "print(p.pid)"
    )
    assert end.status == 0
    assert gone(int(lines[0]))


def stop(program: str, grace_s: float) -> Exit:
    """Start a program, wait until it says something, and stop it."""

    async def body() -> Exit:
        ready = asyncio.Event()
        async with spawn([sys.executable, "-c", program], lambda line: ready.set()) as child:
            await ready.wait()
            return await child.stop(grace_s)

    return asyncio.run(body())


def test_a_child_that_is_asked_to_stop_may_do_so_in_its_own_way() -> None:
    program = (
        "import signal, sys, time\n"
        "signal.signal(15, lambda *_: sys.exit(5))\n"
        "print(flush=True); time.sleep(1000)"
    )
    assert stop(program, WAIT_S).status == 5


def test_a_child_that_does_not_want_to_stop_is_ended() -> None:
    program = "import signal, time; signal.signal(15, signal.SIG_IGN); print(flush=True)\n"
    assert stop(program + "time.sleep(1000)", 0.1).signal == signal.SIGKILL


def test_an_error_of_the_listener_ends_the_child_and_is_raised() -> None:
    pids: list[int] = []

    def refuse(line: bytes) -> None:
        raise OSError(28, "No space left on device")

    async def body() -> None:
        program = "import time; print(flush=True); time.sleep(1000)"
        async with spawn([sys.executable, "-c", program], refuse) as child:
            pids.append(child.pid)
            await child.wait()

    with pytest.raises(OSError, match="No space"):
        asyncio.run(body())
    assert gone(pids[0])


def test_a_program_that_is_not_there_is_said_so() -> None:
    async def body() -> Exit:
        async with spawn(["/no/such/program"], print) as child:
            return await child.wait()

    end = asyncio.run(body())
    assert end.status == launch.NO_PROGRAM
    assert "cannot run /no/such/program" in end.stderr


def test_without_pidfds_the_end_is_noticed_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(children, "_open_pidfd", lambda pid: None)
    end, lines = run("print('here')")
    assert (end.status, lines) == (0, [b"here"])


def test_nothing_stays_open_after_many_children() -> None:
    async def body() -> list[int]:
        counts = []
        for _ in range(30):
            async with spawn(["true"], print) as child:
                await child.wait()
            counts.append(len(os.listdir("/proc/self/fd")))
        return counts

    counts = asyncio.run(body())
    assert counts[-1] == counts[0]


PARENT = """\
import asyncio, sys
from loadfuzz.children import spawn

async def body():
    ready = asyncio.Event()
    program = "import os, time; print(os.getpid(), flush=True); time.sleep(1000)"
    def hear(line):
        print(line.decode(), flush=True)
    async with spawn([sys.executable, "-c", program], hear) as child:
        await child.wait()

asyncio.run(body())
"""


def test_no_child_survives_a_parent_that_is_killed() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PARENT],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(item for item in sys.path if item)},
    ) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        os.kill(pid, 0)
        parent.kill()
    assert gone(pid)


def test_a_child_whose_parent_is_gone_already_does_not_start() -> None:
    done = subprocess.run(
        [sys.executable, "-I", "-S", launch.__file__, "1", "echo", "started"],
        capture_output=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (launch.ORPHANED, b"")


def test_a_child_may_be_asked_to_stop_after_its_end() -> None:
    async def body() -> Child:
        async with spawn(["true"], print) as child:
            await child.wait()
            child.terminate()
            child.kill()
        return child

    child = asyncio.run(body())
    child.kill()
