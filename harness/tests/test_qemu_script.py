"""A finding of a QEMU target is rerun with nothing but that QEMU: by ``sh``, as anyone would."""

import asyncio
import os
import resource
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import pytest

from loadfuzz.execution import Depth, Escape, Execution, ExitKind
from loadfuzz.findings import Earlier, Finding, Violation
from loadfuzz.inputs import Input, digest_of
from loadfuzz.qemu import qcow2
from loadfuzz.qemu.capture import capture
from loadfuzz.qemu.closer import NOT_RUN
from loadfuzz.qemu.machine import MachineSpec
from loadfuzz.qemu.profiles import profiles
from loadfuzz.repro.folder import SCRIPT, read_finding, write_finding
from loadfuzz.repro.qemu_script import (
    HEXDUMP,
    IMAGE,
    STREAMS_MAX,
    machine_arguments,
    qemu_files,
    stable_part,
    version_words,
    write_script,
)

NONE = MachineSpec("qemu-system-x86_64", "none")
CRASH = Violation("clean-error", "it died", "accepted or refused", "SIGABRT: as was found")
REFUSAL = Violation("idempotent", "refused after other loads", "taken", "Error -22")
ABORTED = "killed by signal 6 (SIGABRT)"
DIED = Execution(ExitKind.CRASHED, Depth.FIRST_SECTION, escape=Escape("SIGABRT", "", ()))

SCRIPTED = """#!/bin/sh
while read -r line; do
    case $line in
        'info status') echo 'VM status: paused' ;;
        loadvm*) {action} ;;
        quit) exit ;;
    esac
done
"""

WRAPPER = '''#!{python}
"""A QEMU to which something happens when it is to load for the n-th time."""
import os, signal, subprocess, sys
REAL, COUNT, WHAT, PID = {real!r}, {count}, {what!r}, {pid!r}
qemu = subprocess.Popen([REAL, *sys.argv[1:]], stdin=subprocess.PIPE)
with open(PID, "a") as file:
    print(qemu.pid, file=file)
loads = 0
for line in sys.stdin.buffer:
    if line.startswith(b"loadvm"):
        loads += 1
        if loads == COUNT:
            if WHAT == "refuse":
                line = b"loadvm missing\\n"
            elif WHAT == "stop":
                qemu.send_signal(signal.SIGSTOP)
            elif WHAT.startswith("exit"):
                line = b"quit\\n"
            elif WHAT == "abort":
                qemu.send_signal(signal.SIGABRT)
                qemu.wait()
                signal.signal(signal.SIGABRT, signal.SIG_DFL)
                os.kill(os.getpid(), signal.SIGABRT)
    qemu.stdin.write(line)
    qemu.stdin.flush()
    if line == b"quit\\n":
        break
sys.exit(qemu.wait() or int(WHAT.partition(" ")[2] or 0))
'''


@cache
def saved(spec: MachineSpec) -> bytes:
    """What a machine saves of itself when it was just started."""
    return asyncio.run(capture(spec))


def finding_of(
    *streams: bytes, violation: Violation = CRASH, execution: Execution = DIED
) -> Finding:  # fmt: skip
    """A finding that takes these streams, none of which says where it came from."""
    *before, last = streams
    return Finding(
        "qemu:none", Input(last, before=tuple(before)), violation, execution,
        earlier=tuple(Earlier() for _ in before), reliability=(4, 5),
    )  # fmt: skip


def kept(out: Path, spec: MachineSpec, finding: Finding) -> Path:
    """The finding's folder."""
    place = write_finding(out, finding, qemu_files(spec, finding))
    assert place is not None
    return out / place


class Scene:
    """A finding's folder, and a place for temporary files with a name that is hard on shells.

    Args:
        root: for all of it.
        spec: the machine.
        finding: what was found.
    """

    def __init__(self, root: Path, spec: MachineSpec, finding: Finding) -> None:
        self.root = root
        self.folder = kept(root, spec, finding)
        self.temporary = root / "it's, a $HOME"
        self.temporary.mkdir()
        self.environment: Mapping[str, str] = {
            **{name: value for name, value in os.environ.items() if name != "QEMU"},
            "TMPDIR": str(self.temporary),
            "LOADFUZZ_TIMEOUT": "30",
        }

    def run(self, *arguments: str, **environment: str) -> tuple[int, list[str]]:
        """Exit status and lines of the script, run from elsewhere; it leaves nothing behind."""
        done = subprocess.run(
            ["sh", str(self.folder / SCRIPT), *arguments],
            cwd=self.temporary, env={**self.environment, **environment}, timeout=60,
            stdin=subprocess.DEVNULL, capture_output=True, check=False,
        )  # fmt: skip
        assert list(self.temporary.iterdir()) == []
        assert done.stderr == b""
        return done.returncode, done.stdout.decode("ascii").splitlines()

    def wrapper(self, real: str, count: int, what: str) -> str:
        """Path of a QEMU to which ``what`` happens at load ``count``."""
        path = self.root / "qemu wrapper"
        path.write_text(WRAPPER.format(
            python=sys.executable, real=real, count=count, what=what, pid=str(self.pids)
        ))  # fmt: skip
        path.chmod(0o755)
        return str(path)

    @property
    def pids(self) -> Path:
        """File with the process ids of the real QEMUs."""
        return self.root / "pids"

    def gone(self) -> bool:
        """Whether the real QEMUs are, within a while."""
        for _ in range(500):
            if not any(Path("/proc", pid).exists() for pid in self.pids.read_text().split()):
                return True
            time.sleep(0.01)
        return False


# -- with a real QEMU --------------------------------------------------------------------------


@pytest.mark.qemu
@pytest.mark.parametrize("profile", ["none", "pc"])
@pytest.mark.parametrize("depth", [Depth.FIRST_SECTION, Depth.ACCEPTED])
def test_a_harmless_sequence_is_not_reproduced(
    tmp_path: Path, qemu_binary: str, profile: str, depth: Depth
) -> None:
    spec = profiles()[profile].spec()
    stream = saved(spec)
    escape = Escape("SIGSEGV", "deleting what was saved", ())
    execution = Execution(ExitKind.CRASHED, depth, escape=escape)
    finding = finding_of(stream[:-1], stream, stream, execution=execution)
    scene = Scene(tmp_path, spec, finding)
    status, lines = scene.run(qemu_binary)
    assert (status, lines[-1]) == (0, "not reproduced: QEMU goes on after all loads")
    assert lines[0] == "found: SIGABRT: as was found (in 4 of 5 runs)"
    loads = [line for line in lines if "loadvm s" in line]
    assert loads == ["(qemu) loadvm s1", "(qemu) loadvm s2", "(qemu) loadvm s3"]
    closely = [
        "(qemu) cont", "VM status: running", "(qemu) stop", "(qemu) savevm again",
        "(qemu) loadvm again", "(qemu) delvm again",
    ]  # fmt: skip
    looked = [line for line in lines if line in closely]
    assert looked == (closely if depth is Depth.ACCEPTED else [])


@pytest.mark.qemu
def test_every_snapshot_of_the_image_is_the_stream_that_was_loaded(
    tmp_path: Path, qemu_binary: str
) -> None:
    spec = MachineSpec(qemu_binary, "none")
    good = saved(spec)
    scene = Scene(tmp_path, spec, finding_of(b"QEVM\0\0\0\7", b"", good))
    status, lines = scene.run()
    assert status == 0
    at = [lines.index(f"(qemu) loadvm s{number}") for number in (1, 2, 3)]
    assert "Unsupported migration stream version" in "\n".join(lines[at[0] : at[1]])
    assert "Not a migration stream" in "\n".join(lines[at[1] : at[2]])
    assert "Error" not in "\n".join(lines[at[2] :])


@pytest.mark.qemu
@pytest.mark.parametrize(
    ("what", "count", "status", "last"),
    [
        ("abort", 2, 1, "REPRODUCED: killed by signal 6 (SIGABRT)"),
        ("abort", 1, 1, "REPRODUCED: killed by signal 6 (SIGABRT)"),
        ("exit 7", 2, 0, f"ends otherwise: ended with exit status 7, expected {ABORTED}"),
        ("exit 255", 2, 0, f"ends otherwise: ended with exit status 255, expected {ABORTED}"),
        ("stop", 2, 0, f"ends otherwise: does not end, expected {ABORTED}"),
        ("refuse", 2, 0, "not reproduced: QEMU goes on after all loads"),
        ("abort", 3, 0, "not reproduced: QEMU goes on after all loads"),
    ],
)
def test_what_happens_to_a_qemu_is_told(
    tmp_path: Path, qemu_binary: str, what: str, count: int, status: int, last: str
) -> None:
    stream = saved(MachineSpec(qemu_binary, "none"))
    scene = Scene(tmp_path, NONE, finding_of(stream, stream))
    wrapper = scene.wrapper(qemu_binary, count, what)
    limit = "3" if what == "stop" else "30"
    done, lines = scene.run(wrapper, LOADFUZZ_TIMEOUT=limit)
    assert (done, lines[-1]) == (status, last)
    assert ("(qemu) loadvm s1" in lines) is (count > 1)
    assert scene.gone()


@pytest.mark.qemu
@pytest.mark.parametrize(
    ("what", "count", "status", "last"),
    [
        # The first load of all is that of the last snapshot alone, in a QEMU of its own.
        ("refuse", 2, 1, "REPRODUCED: s2 is refused after other loads"),
        ("refuse", 1, 0, "not reproduced: s2 is refused by a fresh QEMU too"),
        ("refuse", 9, 0, "not reproduced: s2 is taken after the other loads"),
        ("abort", 2, 0, f"ends otherwise: {ABORTED}, expected that it refuses"),
        ("abort", 1, 0, "not reproduced: s2 fails in a fresh QEMU too"),
    ],
)
def test_a_good_stream_that_is_refused_after_others_is_tried_alone_first(
    tmp_path: Path, qemu_binary: str, what: str, count: int, status: int, last: str
) -> None:
    stream = saved(MachineSpec(qemu_binary, "none"))
    # That the first is refused makes no difference.
    finding = finding_of(b"QEVM", stream, violation=REFUSAL)
    scene = Scene(tmp_path, NONE, finding)
    done, lines = scene.run(scene.wrapper(qemu_binary, count, what))
    assert (done, lines[-1]) == (status, last)
    assert scene.gone()


@pytest.mark.qemu
def test_the_binary_comes_from_the_argument_the_environment_or_the_finding(
    tmp_path: Path, qemu_binary: str
) -> None:
    stream = saved(MachineSpec(qemu_binary, "none"))
    scene = Scene(tmp_path, MachineSpec("/nowhere/found", "none"), finding_of(stream))
    assert scene.run()[1][-1].startswith("cannot be run: there is no /nowhere/found")
    assert scene.run(QEMU=qemu_binary)[0] == 0
    status, lines = scene.run("/nowhere/argument", QEMU=qemu_binary)
    assert (status, len(lines)) == (3, 1)
    assert lines[0].startswith("cannot be run: there is no /nowhere/argument; name a QEMU")


@pytest.mark.qemu
def test_a_machine_that_qemu_does_not_know_cannot_be_run_and_qemu_says_why(
    tmp_path: Path, qemu_binary: str
) -> None:
    spec = MachineSpec(qemu_binary, "it's; exit 0")
    status, lines = Scene(tmp_path, spec, finding_of(b"QEVM")).run()
    assert status == 3
    assert lines[-1] == f"cannot be run: {qemu_binary} ended with exit status 1 before it took " \
        "a command"  # fmt: skip
    assert any("unsupported machine type" in line for line in lines)


@pytest.mark.qemu
def test_environment_and_address_space_are_those_of_the_campaign(
    tmp_path: Path, qemu_binary: str
) -> None:
    wrapper = tmp_path / "qemu"
    wrapper.write_text(
        '#!/bin/sh\necho "space $(ulimit -v) core $(ulimit -c) $A_VARIABLE"\n'
        f'exec {qemu_binary} "$@"\n'
    )
    wrapper.chmod(0o755)
    spec = MachineSpec(
        str(wrapper), "none", environment=(("A_VARIABLE", "it's $HOME"),), address_space_mb=3000
    )
    stream = saved(MachineSpec(qemu_binary, "none"))
    scene = Scene(tmp_path, spec, finding_of(stream))
    soft, hard = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (hard, hard))
    try:
        status, lines = scene.run()
    finally:
        resource.setrlimit(resource.RLIMIT_CORE, (soft, hard))
    assert status == 0
    assert "space 3072000 core 0 it's $HOME" in lines


@pytest.mark.qemu
def test_what_is_interrupted_leaves_nothing_behind(tmp_path: Path, qemu_binary: str) -> None:
    stream = saved(MachineSpec(qemu_binary, "none"))
    scene = Scene(tmp_path, NONE, finding_of(stream))
    running = subprocess.Popen(
        ["sh", str(scene.folder / SCRIPT), scene.wrapper(qemu_binary, 1, "stop")],
        env=scene.environment, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    for _ in range(1000):
        outputs = list(scene.temporary.glob("*/output"))
        if outputs and b"VM status" in outputs[0].read_bytes():
            break
        time.sleep(0.01)
    running.send_signal(signal.SIGTERM)
    assert running.wait(30) == 128 + signal.SIGTERM
    assert scene.gone()
    assert list(scene.temporary.iterdir()) == []


@pytest.mark.qemu
def test_nothing_that_a_stream_says_reaches_the_terminal(tmp_path: Path, qemu_binary: str) -> None:
    good = saved(MachineSpec(qemu_binary, "none"))
    at = good.index(b"\x05timer")
    evil = good[:at] + b"\x05\x1b[2J\xff" + good[at + 6 :]
    scene = Scene(tmp_path, MachineSpec(qemu_binary, "none"), finding_of(evil))
    status, lines = scene.run()
    assert status == 0
    assert any("'[2J?'" in line for line in lines)
    assert all(line.isprintable() for line in lines)


# -- without one -------------------------------------------------------------------------------


def died(
    name: str, message: str = "", kind: ExitKind = ExitKind.CRASHED, depth: Depth = Depth.NOTHING
) -> Execution:
    return Execution(kind, depth, escape=Escape(name, message, ()))


ASSERTION = "index_load: Assertion `n < 9' failed."
HANG = died("hang", "busy", ExitKind.TIMED_OUT)
STARVED = died("SIGTRAP", "GLib gave up without a word", ExitKind.OUT_OF_MEMORY)
SAYS = "echo '{}'; kill -{} $$"
NO_MEMORY = "g: failed to allocate 77 bytes"
SEGMENT = "killed by signal 11 (SIGSEGV)"


@pytest.mark.parametrize(
    ("execution", "action", "status", "last"),
    [
        (died("SIGSEGV"), "kill -SEGV $$", 1, f"REPRODUCED: {SEGMENT}"),
        (died("SIGSEGV"), "kill -ABRT $$", 0, f"ends otherwise: {ABORTED}, expected {SEGMENT}"),
        *(
            (died("SIGSEGV"), f"kill -{name} $$", 3,
             f"cannot tell: killed by signal {number} (SIG{name}), from outside; see whether "
             "memory ran out (dmesg)")
            for name, number in (("HUP", 1), ("INT", 2), ("KILL", 9), ("TERM", 15))
        ),
        (died("SIGSEGV"), "echo 'x: terminating on signal 15 from pid 3'; exit", 3,
         "cannot tell: ended with exit status 0, since somebody told it to end"),
        (died("SIGABRT"), SAYS.format(NO_MEMORY, "ABRT"), 3,
         f"cannot tell: {ABORTED} for want of memory; give it more, or see what else runs"),
        (died("SIGSEGV"), SAYS.format(NO_MEMORY, "TRAP"), 3,
         "cannot tell: killed by signal 5 (SIGTRAP) for want of memory; give it more, or see what "
         "else runs"),
        (STARVED, SAYS.format(NO_MEMORY, "ABRT"), 1, f"REPRODUCED: {ABORTED}"),
        (STARVED, "kill -TRAP $$", 1, "REPRODUCED: killed by signal 5 (SIGTRAP)"),
        (STARVED, "kill -SEGV $$", 0,
         f"ends otherwise: {SEGMENT}, expected killed by signal 5 (SIGTRAP) for want of memory"),
        (died("SIGABRT", "Assertion `n < #' failed: x.c:5"),
         "echo \"q: x.c:5: Assertion \\`n < 17' failed: x.c:5\"; kill -ABRT $$", 1,
         f"REPRODUCED: {ABORTED}"),
        (died("SIGABRT", f"loading again: {ASSERTION}"),
         f"echo \"q: i.c:5: {ASSERTION}\"; kill -ABRT $$".replace("`", "\\`"), 1,
         f"REPRODUCED: {ABORTED}"),
        (died("SIGABRT", ASSERTION), "echo 'y.c:5: f: Assertion other'; kill -ABRT $$", 0,
         f'ends otherwise: {ABORTED}, expected {ABORTED} after "{ASSERTION}"'),
        (died("exit status 3"), "exit 3", 1, "REPRODUCED: ended with exit status 3"),
        (died("signal 35"), "exit 163", 1, None),
        (HANG, "kill -SEGV $$", 0, f"ends otherwise: {SEGMENT}, expected that it does not end"),
        (HANG, "exec sleep 60", 1, "REPRODUCED: does not end"),
        (died("SIGSEGV"), "exec sleep 60", 0, f"ends otherwise: does not end, expected {SEGMENT}"),
        (HANG, "yes 2>&-; exec sleep 60", 3, "cannot tell: it printed more than there is room for"),
        (HANG, ":", 0, "not reproduced: QEMU goes on after all loads"),
    ],
)  # fmt: skip
def test_only_the_end_that_was_found_is_reproduced(
    tmp_path: Path, execution: Execution, action: str, status: int, last: str | None
) -> None:
    program = tmp_path / "scripted"
    program.write_text(SCRIPTED.replace("{action}", action))
    program.chmod(0o755)
    scene = Scene(tmp_path, NONE, finding_of(b"QEVM", execution=execution))
    limit = "3" if "sleep" in action else "30"
    done, lines = scene.run(str(program), LOADFUZZ_TIMEOUT=limit)
    assert done == status
    assert last is None or lines[-1] == last


@pytest.mark.parametrize("message", ["", "saving again", "saving again: busy", "#, # and #", "é"])
def test_a_line_of_which_little_is_stable_is_not_expected(message: str) -> None:
    assert stable_part(message) == ""


def test_what_qemu_may_take_and_print_is_limited_by_the_stricter_limit(tmp_path: Path) -> None:
    program = tmp_path / "scripted"
    program.write_text(
        '#!/bin/sh\necho "space $(ulimit -v) files $(ulimit -f)"\n'
        + SCRIPTED.partition("\n")[2].replace("{action}", ":")
    )
    program.chmod(0o755)
    spec = MachineSpec(str(program), "none", address_space_mb=3000)
    scene = Scene(tmp_path, spec, finding_of(b"QEVM"))
    script = scene.folder / SCRIPT
    blocks = script.read_text().partition("file_blocks=")[2].split()[0]
    for limit in (2_000_000, 4_000_000):
        done = subprocess.run(
            ["sh", "-c", f"ulimit -v {limit}; exec sh '{script}'"], env=scene.environment,
            capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip
        assert done.returncode == 0
        assert f"space {min(limit, 3000 << 10)} files {blocks}\n" in done.stdout


def test_a_program_that_never_takes_a_command_is_no_qemu(tmp_path: Path) -> None:
    idle = tmp_path / "idle"
    idle.write_text("#!/bin/sh\necho I am no QEMU\nexec sleep 60\n")
    idle.chmod(0o755)
    status, lines = Scene(tmp_path, NONE, finding_of(b"QEVM")).run(str(idle), LOADFUZZ_TIMEOUT="1")
    assert status == 3
    assert lines[1] == "waiting for at most 1 s (LOADFUZZ_TIMEOUT)"
    assert lines[2:] == ["I am no QEMU", f"cannot be run: {idle} took no command within 1 s"]


def test_a_folder_without_its_image_cannot_be_run(tmp_path: Path) -> None:
    scene = Scene(tmp_path, NONE, finding_of(b"QEVM"))
    (scene.folder / IMAGE).unlink()
    done = subprocess.run(
        ["sh", str(scene.folder / SCRIPT), "true"], env=scene.environment, capture_output=True,
        check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 3
    assert b"cannot be run: image.qcow2 cannot be copied from" in done.stdout


@pytest.mark.parametrize("limit", ["0", "-1", "soon", "1.5"])
def test_a_time_limit_that_is_none_is_refused(tmp_path: Path, limit: str) -> None:
    scene = Scene(tmp_path, NONE, finding_of(b"QEVM"))
    assert scene.run("true", LOADFUZZ_TIMEOUT=limit) == (
        3, ["cannot be run: LOADFUZZ_TIMEOUT is no number of seconds"]
    )  # fmt: skip


def test_the_script_starts_a_machine_as_the_executor_does_but_with_its_own_monitor() -> None:
    spec = MachineSpec("qemu", "pc", 8, ("a,b='c d'",), ("-chardev", "null,id=x", "-cpu", "qemu64"))
    assert machine_arguments(spec) == [
        "-machine", "pc", "-m", "8", "-S", "-nodefaults", "-display", "none",
        "-device", "a,b='c d'", "-chardev", "null,id=x", "-cpu", "qemu64",
        "-accel", "tcg,tb-size=32", "-no-shutdown", "-monitor", "stdio",
    ]  # fmt: skip
    text = write_script(spec, finding_of(b"QEVM"))
    assert f"-device {shlex.quote(spec.devices[0])} \\\n" in text
    _, options = qcow2.blockdev("IMAGE")
    assert options.removesuffix("IMAGE") + '"$image_option"\n' in text


def test_a_binary_is_found_from_any_folder_or_by_its_name() -> None:
    finding = finding_of(b"QEVM")
    there = shlex.quote(str(Path.cwd() / "build" / "qemu"))
    assert f"\nfound_with={there}\n" in write_script(MachineSpec("build/qemu", "none"), finding)
    assert "\nfound_with=qemu-x\n" in write_script(MachineSpec("qemu-x", "none"), finding)


def test_the_script_says_which_version_it_was_found_with(tmp_path: Path) -> None:
    program = tmp_path / "qemu-x"
    program.write_text("#!/bin/sh\necho QEMU emulator version 1.2.3\necho more\n")
    program.chmod(0o755)
    words = version_words(str(program))
    assert words == f"QEMU emulator version 1.2.3, {program}"
    assert f"\n# found with {words}\n" in write_script(NONE, finding_of(b"QEVM"), words)
    assert version_words(str(tmp_path / "gone")) == ""
    program.write_text("#!/bin/sh\nexit 1\n")
    assert version_words(str(program)) == ""


@pytest.mark.parametrize("shell", [["sh"], ["bash", "--posix"]])
def test_a_script_is_good_for_any_shell_whatever_it_speaks_of(
    tmp_path: Path, shell: list[str]
) -> None:
    evil = "'\"\\$(touch evil)`touch evil`\n*\x1b"
    spec = MachineSpec(evil, evil, 1, (evil,), (evil,), ((evil, evil),))
    violation = Violation("clean-error", evil, evil, evil, evil)
    path = tmp_path / "script"
    path.write_text(write_script(spec, finding_of(b"QEVM", violation=violation)))
    subprocess.run([*shell, "-n", str(path)], check=True)
    done = subprocess.run([*shell, str(path)], cwd=tmp_path, capture_output=True, check=False)
    assert done.returncode == 3
    assert [item.name for item in tmp_path.iterdir()] == ["script"]


@pytest.mark.parametrize(
    ("message", "steps"),
    [
        ("running the guest: busy", "ask cont && sleep 0.1 && ask stop"),
        ("stopping the guest", "ask cont && sleep 0.1 && ask stop"),
        ("saving again: no", "ask cont && sleep 0.1 && ask stop && ask 'savevm again'"),
        ("resetting the machine", "ask cont && sleep 0.1 && ask stop && ask 'savevm again' "
         "&& ask 'loadvm again' && ask 'delvm again' && ask system_reset"),
    ],
)  # fmt: skip
def test_a_closer_look_goes_as_far_as_what_failed(message: str, steps: str) -> None:
    escape = Escape("SIGABRT", message, ())
    execution = Execution(ExitKind.CRASHED, Depth.ACCEPTED, escape=escape)
    text = write_script(NONE, finding_of(b"QEVM", execution=execution))
    assert f"look_closer() {{\n    {steps}\n}}\n" in text


def test_a_guest_that_did_not_run_then_does_not_run_now() -> None:
    escape = Escape("SIGABRT", "loading again", ())
    execution = Execution(ExitKind.CRASHED, Depth.ACCEPTED, escape=escape, events=(NOT_RUN,))
    text = write_script(NONE, finding_of(b"QEVM", execution=execution))
    assert "look_closer() {\n    ask 'savevm again' && ask 'loadvm again'\n}\n" in text


def test_of_more_streams_than_an_image_takes_the_last_ones_are_there(tmp_path: Path) -> None:
    streams = [f"QEVM{number}".encode() for number in range(STREAMS_MAX + 2)]
    files = qemu_files(NONE, finding_of(*streams))
    (tmp_path / "image").write_bytes(files[IMAGE])
    with qcow2.Image.open(tmp_path / "image") as image:
        assert len(image.slots) == STREAMS_MAX
        assert image.read("s1").rstrip(b"\0") == streams[2]
        assert image.read(f"s{STREAMS_MAX}").rstrip(b"\0") == streams[-1]
    text = files[SCRIPT].decode()
    assert f"# The last {STREAMS_MAX} of {STREAMS_MAX + 2} streams" in text
    assert "# s1 is the file before-3, 5 bytes" in text


def test_the_same_finding_makes_the_same_files() -> None:
    finding = finding_of(b"QEVM1", b"QEVM2")
    assert qemu_files(NONE, finding) == qemu_files(NONE, finding)


def test_a_finding_with_its_script_is_read_back_as_it_was(tmp_path: Path) -> None:
    stream = b"QEVM" + bytes(100)
    finding = Finding(
        "qemu:none", Input(stream, before=(stream,)), CRASH, DIED, digest_of(stream), stream,
        earlier=(Earlier(stream),),
    )  # fmt: skip
    folder = kept(tmp_path, NONE, finding)
    assert read_finding(folder) == finding
    assert {IMAGE, SCRIPT, HEXDUMP} < {path.name for path in folder.iterdir()}
    assert os.access(folder / SCRIPT, os.X_OK)
    assert not os.access(folder / IMAGE, os.X_OK)
    assert "\n   sh reproduce.sh " in (folder / "report.txt").read_text()
