"""Copies of a program that stands before its first instruction."""

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from loadfuzz.qemu import template as template_module
from loadfuzz.qemu.ptrace import Tracee, TraceError
from loadfuzz.qemu.template import Copy, Places, Template

NOTHING = [b"", b""]
WAIT_S = 20.0
"""Longest wait for something that is bound to happen."""

pytestmark = pytest.mark.usefixtures("copying")


def python(code: str) -> list[str]:
    return [sys.executable, "-I", "-S", "-c", textwrap.dedent(code)]


async def started(code: str) -> Template:
    """A Python that will run ``code``, with the numbers of its descriptors as arguments."""

    def command(places: Places) -> Sequence[str]:
        return [*python(code), *(str(number) for number in places.all)]

    return await Template.start(command, 2, dict(os.environ))


def ended(copy: Copy) -> int:
    """Its exit status."""
    until = time.monotonic() + WAIT_S
    while (code := copy.poll()) is None:
        assert time.monotonic() < until, "it does not end"
        time.sleep(0.002)
    return code


@contextlib.contextmanager
def descriptors() -> Iterator[tuple[socket.socket, int, int, list[int]]]:
    """Our end of a channel, and of a copy its other end, an output and two files."""
    ours, theirs = socket.socketpair()
    made = [os.memfd_create("made") for _ in range(3)]
    ours.settimeout(WAIT_S)
    with ours, theirs:
        yield ours, theirs.fileno(), made[0], made[1:]
    for descriptor in made:
        os.close(descriptor)


def check_no_child_is_left() -> None:
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


def run(code: str, count: int = 1) -> list[tuple[int, bytes, list[bytes]]]:
    """Exit statuses, outputs and files of copies of one template."""

    async def main() -> list[tuple[int, bytes, list[bytes]]]:
        template = await started(code)
        found: list[tuple[int, bytes, list[bytes]]] = []
        try:
            for _ in range(count):
                with descriptors() as (_, theirs, output, files):
                    status = ended(template.copy(theirs, output, files))
                    said, *written = (os.pread(number, 999, 0) for number in (output, *files))
                    found.append((status, said, written))
        finally:
            template.end()
        return found

    return asyncio.run(main())


def test_a_copy_has_its_own_descriptors_and_output() -> None:
    found = run(
        """
        import os, sys
        channel, output, log, image = map(int, sys.argv[1:])
        open(f"/proc/self/fd/{log}", "w").write("logged")
        os.write(image, b"stored")
        os.write(1, b"printed ")
        os.write(2, b"and complained")
        """,
        count=3,
    )
    assert found == [(0, b"printed and complained", [b"logged", b"stored"])] * 3


def test_a_copy_has_no_descriptor_that_it_was_not_given() -> None:
    (found,) = run(
        """
        import os, sys
        given = {0, 1, 2, *map(int, sys.argv[1:])}
        open_ones = {number for number in range(1024) if os.path.exists(f"/proc/self/fd/{number}")}
        print(sorted(open_ones - given), sorted(given - open_ones))
        """
    )
    assert found == (0, b"[] []\n", NOTHING)


def test_a_script_that_opens_a_descriptor_and_becomes_the_program_is_copied(tmp_path: Path) -> None:
    script = tmp_path / "wrapper"
    script.write_text('#!/bin/sh\nexec 3>>"$0.log" 4>&1\nexec "$@"\n')
    script.chmod(0o755)

    async def main() -> None:
        said = python("import os, sys; os.write(int(sys.argv[1]), b'here')")
        template = await Template.start(
            lambda places: [str(script), *said, str(places.channel)], 0, dict(os.environ)
        )
        try:
            with descriptors() as (ours, theirs, output, _):
                copy = template.copy(theirs, output, [])
                assert ours.recv(99) == b"here"
                assert ended(copy) == 0
        finally:
            template.end()

    asyncio.run(main())


def test_a_copy_whose_end_the_kernel_does_not_tell_has_ended(tmp_path: Path) -> None:
    code = """
        import asyncio, os, signal, socket, sys, time
        from loadfuzz.qemu.template import Template
        async def main():
            program = [sys.executable, "-c", ""]
            template = await Template.start(lambda places: program, 0, dict(os.environ))
            ours, theirs = socket.socketpair()
            signal.signal(signal.SIGCHLD, signal.SIG_IGN)
            copy = template.copy(theirs.fileno(), 2, [])
            while copy.poll() is None:
                time.sleep(0.01)
            template.end()
            print("ended", copy.poll())
        asyncio.run(main())
        """
    argv = [sys.executable, "-c", textwrap.dedent(code)]
    done = subprocess.run(argv, capture_output=True, text=True, cwd=tmp_path, timeout=WAIT_S)
    assert done.stdout == "ended 0\n", done.stderr


def test_copies_can_be_spoken_to_apart_from_each_other() -> None:
    async def main() -> None:
        template = await started(
            """
            import os, socket, sys
            with socket.socket(fileno=int(sys.argv[1])) as channel:
                channel.sendall(channel.recv(99) + str(os.getpid()).encode())
            """
        )
        with contextlib.ExitStack() as stack:
            stack.callback(template.end)
            talks = [stack.enter_context(descriptors()) for _ in range(3)]
            copies = [template.copy(theirs, output, files) for _, theirs, output, files in talks]
            for number, (talk, copy) in reversed(list(enumerate(zip(talks, copies, strict=True)))):
                talk[0].sendall(b"number %d of " % number)
                assert talk[0].recv(99) == b"number %d of %d" % (number, copy.pid)
                assert ended(copy) == 0

    asyncio.run(main())


def test_a_copy_leads_a_session_and_is_our_child() -> None:
    (found,) = run("import os; print(os.getsid(0) == os.getpid(), os.getppid(), flush=True)")
    assert found == (0, b"True %d\n" % os.getpid(), NOTHING)


def test_a_copy_is_not_traced() -> None:
    (found,) = run("print(next(x for x in open('/proc/self/status') if 'TracerPid' in x))")
    assert found[1].split() == [b"TracerPid:", b"0"]


def test_a_copy_knows_its_own_thread() -> None:
    # What glibc keeps of it shows in a lock that is owned by a thread's id, and in abort().
    (found,) = run(
        """
        import ctypes, os, threading
        for _ in range(3):
            thread = threading.Thread(target=lambda: os.write(1, b"ran "))
            thread.start()
            thread.join()
        libc = ctypes.CDLL(None)
        attribute, mutex = ctypes.create_string_buffer(64), ctypes.create_string_buffer(64)
        libc.pthread_mutexattr_init(attribute)
        libc.pthread_mutexattr_settype(attribute, 2)  # PTHREAD_MUTEX_ERRORCHECK
        libc.pthread_mutex_init(mutex, attribute)
        libc.pthread_mutex_lock(mutex)
        assert int.from_bytes(mutex.raw[8:12], "little") == os.getpid()
        os.abort()
        """
    )
    assert found == (-signal.SIGABRT, b"ran ran ran ", NOTHING)


def test_what_a_copy_changes_no_other_copy_sees() -> None:
    found = run("import sys; print(len(sys.argv)); sys.argv.append('x'); sys.exit(7)", count=2)
    assert found == [(7, b"5\n", NOTHING)] * 2


def test_a_copy_ends_when_we_do(tmp_path: Path) -> None:
    code = """
        import asyncio, os, socket, sys, time
        from loadfuzz.qemu.template import Template
        async def main():
            program = [sys.executable, "-c", "import time; time.sleep(99)"]
            template = await Template.start(lambda places: program, 0, dict(os.environ))
            ours, theirs = socket.socketpair()
            copy = template.copy(theirs.fileno(), 2, [])
            print(template._popen.pid, copy.pid, flush=True)
            time.sleep(99)
        asyncio.run(main())
        """
    argv = [sys.executable, "-c", textwrap.dedent(code)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, cwd=tmp_path) as owner:
        assert owner.stdout is not None
        pids = [int(word) for word in owner.stdout.readline().split()]
        assert len(pids) == 2
        assert all(Path(f"/proc/{pid}").exists() for pid in pids)
        owner.kill()
    until = time.monotonic() + WAIT_S
    while any(Path(f"/proc/{pid}").exists() and not _zombie(pid) for pid in pids):
        assert time.monotonic() < until, "one outlived us"
        time.sleep(0.02)


def _zombie(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    return True


def test_a_template_that_somebody_killed_says_so_and_leaves_no_copy() -> None:
    async def main() -> None:
        template = await started("pass")
        try:
            os.kill(template._popen.pid, signal.SIGKILL)
            with descriptors() as (_, theirs, output, files), pytest.raises(TraceError):
                template.copy(theirs, output, files)
        finally:
            template.end()
        template.end()
        check_no_child_is_left()

    asyncio.run(main())


def test_a_copy_that_got_something_else_is_put_down() -> None:
    async def main() -> None:
        template = await started("pass")
        try:
            template._control.send(b"no descriptors")
            with (
                descriptors() as (_, theirs, output, files),
                pytest.raises(TraceError, match="did not get 4 descriptors"),
            ):
                template.copy(theirs, output, files)
        finally:
            template.end()
        check_no_child_is_left()

    asyncio.run(main())


def test_a_copy_that_is_only_half_made_is_put_down(monkeypatch: pytest.MonkeyPatch) -> None:
    def late(tracee: Tracee) -> Tracee:
        raise TraceError("planted")

    async def main() -> None:
        template = await started("pass")
        monkeypatch.setattr(Tracee, "child", late)
        with descriptors() as (_, theirs, output, files), pytest.raises(TraceError):
            template.copy(theirs, output, files)
        check_no_child_is_left()  # nor the template

    asyncio.run(main())


def test_a_program_of_another_c_library_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    read = Tracee.read

    def without_id(tracee: Tracee, address: int, size: int) -> bytes:
        return bytes(size) if size == 4 else read(tracee, address, size)

    monkeypatch.setattr(Tracee, "read", without_id)
    with pytest.raises(TraceError, match="only programs of glibc"):
        asyncio.run(started("pass"))
    check_no_child_is_left()


@pytest.mark.parametrize("command", [["/nonexistent/program"], ["/etc/passwd"]], ids=str)
def test_a_program_that_does_not_get_so_far_is_an_error(command: list[str]) -> None:
    with pytest.raises(TraceError, match="ended"):
        asyncio.run(Template.start(lambda places: command, 0, dict(os.environ)))
    check_no_child_is_left()


def test_another_kind_of_machine_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(template_module, "supported", lambda: False)
    with pytest.raises(TraceError, match="x86-64 Linux only"):
        asyncio.run(started("pass"))


def test_cancelling_the_start_leaves_nothing() -> None:
    async def main() -> None:
        before = len(os.listdir("/proc/self/fd"))
        for delay_s in (0.0, 0.001, 0.005, 0.01):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(delay_s):
                    (await started("pass")).end()
        check_no_child_is_left()
        assert len(os.listdir("/proc/self/fd")) == before

    asyncio.run(main())
