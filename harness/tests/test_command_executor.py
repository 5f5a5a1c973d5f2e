"""A command as a loader: what its end means, how it gets the stream, and that nothing is left."""

from __future__ import annotations

import asyncio
import shlex
import shutil
import signal
import sys
import time
from pathlib import Path

import pytest

from loadfuzz.errors import InfraError, UsageError
from loadfuzz.execution import Depth, Escape, Execution, ExitKind
from loadfuzz.executors.attending import HEAD_SIZE_MAX, TAIL_SIZE_MAX, Run
from loadfuzz.executors.command import CommandExecutor, CommandSpec, environment_of, has_shadow
from loadfuzz.executors.command_verdict import verdict_of
from loadfuzz.oracles import clean_error, no_hang

LIMIT_S = 20.0
"""A limit for hangs, far beyond a slow machine."""
SHORT_S = 0.3
"""A limit for what is known to hang."""
WAIT_S = 20.0
"""Longest wait for something that is bound to happen."""


def python(program: str, *arguments: str) -> str:
    """A command that runs ``program``."""
    return shlex.join([sys.executable, "-c", program, *arguments])


def execute(
    folder: Path, spec: CommandSpec, *streams: bytes, limit_s: float = LIMIT_S
) -> list[Execution]:
    async def body() -> list[Execution]:
        async with CommandExecutor.open(spec, folder, limit_s) as executor:
            return [await executor.execute(stream) for stream in streams]

    return asyncio.run(body())


def once(folder: Path, command: str, stream: bytes = b"QEVM", **more: float) -> Execution:
    return execute(folder, CommandSpec(command), stream, **more)[0]


def gone(pid: int) -> bool:
    """Whether a process ends within :data:`WAIT_S`."""
    until = time.monotonic() + WAIT_S
    while time.monotonic() < until:
        if not Path(f"/proc/{pid}").exists():
            return True
        time.sleep(0.02)
    return False


# -- how the stream gets there -------------------------------------------------------------

LONG = bytes(range(256)) * 4096
"""A MiB: more than a pipe or a socket holds."""
SIZE_OF_FILE = "import os, sys; sys.exit(str(os.path.getsize(sys.argv[1])))"
SIZE_OF_STDIN = "import sys; sys.exit(str(len(sys.stdin.buffer.read())))"
SIZE_OF_SOCKET = """
import socket, sys
peer = socket.socket(socket.AF_UNIX)
peer.connect(sys.argv[1])
sys.exit(str(sum(map(len, iter(lambda: peer.recv(5000), b"")))))
"""


@pytest.mark.parametrize(
    "command",
    [
        python(SIZE_OF_FILE, "{input}"),
        python(SIZE_OF_STDIN),
        python(SIZE_OF_SOCKET, "{socket}"),
    ],
    ids=["file", "stdin", "socket"],
)
def test_all_of_the_stream_comes_and_then_its_end(tmp_path: Path, command: str) -> None:
    results = execute(tmp_path, CommandSpec(command), LONG, b"", b"QEVM")
    texts = [result.refusal.text if result.refusal else "" for result in results]
    assert texts == [str(len(LONG)), "0", "4"]


def test_a_socket_lies_elsewhere_when_the_folder_has_too_long_a_name(tmp_path: Path) -> None:
    folder = tmp_path / ("long" * 40)
    folder.mkdir()
    result = once(folder, python(SIZE_OF_SOCKET, "{socket}"), b"12345")
    assert result.refusal is not None
    assert result.refusal.text == "5"


def test_a_loader_that_does_not_read_its_stream_is_not_waited_for(tmp_path: Path) -> None:
    assert once(tmp_path, "true {socket}", LONG).kind is ExitKind.ACCEPTED
    assert once(tmp_path, "true", LONG).kind is ExitKind.ACCEPTED


def test_a_command_is_split_as_by_a_shell_but_not_run_by_one(tmp_path: Path) -> None:
    result = once(tmp_path, python("import sys; sys.exit(sys.argv[1])", "a b;$HOME"))
    assert result.refusal is not None
    assert result.refusal.text == "a b;$HOME"


# -- exit statuses -------------------------------------------------------------------------


def test_status_0_accepts_and_another_refuses_with_the_last_line_of_stderr(
    tmp_path: Path,
) -> None:
    good = once(tmp_path, "true")
    assert (good.kind, good.depth) == (ExitKind.ACCEPTED, Depth.ACCEPTED)
    bad = once(tmp_path, "sh -c 'echo first >&2; echo  bad magic >&2; echo >&2; exit 3'")
    assert bad.kind is ExitKind.REJECTED
    assert bad.refusal is not None
    assert (bad.refusal.text, bad.refusal.errno, bad.refusal.path) == ("bad magic", 3, ())


def test_statuses_mean_what_the_user_says(tmp_path: Path) -> None:
    spec = CommandSpec("sh -c 'exit $(cat)'", accept=(7,), reject=(0, 2), crash=(70,))
    kinds = [result.kind for result in execute(tmp_path, spec, b"7", b"0", b"2", b"70")]
    assert kinds == [ExitKind.ACCEPTED, ExitKind.REJECTED, ExitKind.REJECTED, ExitKind.CRASHED]


def test_a_status_that_is_not_named_where_others_are_is_a_crash(tmp_path: Path) -> None:
    spec = CommandSpec("sh -c 'echo so >&2; exit $(cat)'", reject=(2,))
    result, good = execute(tmp_path, spec, b"9", b"0")
    assert (result.kind, result.escape) == (ExitKind.CRASHED, Escape("exit status 9", "so", ()))
    assert good.kind is ExitKind.ACCEPTED


def test_a_small_negative_status_is_a_refusal(tmp_path: Path) -> None:
    result = once(tmp_path, "sh -c 'exit 234'")  # -EINVAL
    assert result.kind is ExitKind.REJECTED


def test_a_shell_that_finds_no_loader_is_no_verdict(tmp_path: Path) -> None:
    with pytest.raises(InfraError, match=r"exits with 127, .* reject=127"):
        once(tmp_path, "sh -c 'no-such-loader {input}'")
    with pytest.raises(InfraError, match="exits with 126"):
        verdict_of(CommandSpec("x", reject=(1,)), Run(status=126))


def test_a_program_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"cannot run '\./no-such-loader'"):
        once(tmp_path, "./no-such-loader {input}")


def test_a_file_that_is_no_program_is_named(tmp_path: Path) -> None:
    program = tmp_path / "loader"
    program.write_bytes(b"\x7fELF nothing")
    program.chmod(0o755)
    with pytest.raises(InfraError, match="Exec format error"):
        once(tmp_path, f"{program} {{input}}")


def test_a_program_that_is_being_built_anew_is_no_usage_error(tmp_path: Path) -> None:
    program = tmp_path / "loader"
    shutil.copy(sys.executable, program)
    with program.open("ab"), pytest.raises(InfraError, match="Text file busy"):
        once(tmp_path, f"{program} -c pass")


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ({"command": ""}, "there is no command"),
        ({"command": "a 'b"}, "cannot be split"),
        ({"command": "a {input} {socket}"}, "both"),
        (
            {"command": "a {inputt}"},
            r"\{inputt\}, and the placeholders are \{input\} and \{socket\}",
        ),
        ({"command": "a --in={Input} {input}"}, r"write \{\{Input\}\} for braces"),
        ({"command": "a", "reject": (0,)}, "named twice"),
        ({"command": "a", "crash": (256,)}, "from 0 to 255"),
        ({"command": "a", "crash_patterns": ("(",)}, "no regular expression"),
    ],
)
def test_a_command_that_makes_no_sense_is_said_at_once(spec: dict[str, object], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        CommandSpec(**spec)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("word", "becomes"),
    [
        ("'{\"file\": \"{input}\", \"ports\": {}}'", '{"file": "/in", "ports": {}}'),
        ("'{{input}}={input}'", "{input}=/in"),
        ("'{ echo ${HOME} ${input}; }'", "{ echo ${HOME} ${input}; }"),
        ("'{{print}}'", "{print}"),
        ("'{{\"a\": {\"b\": 1}}}'", '{{"a": {"b": 1}}}'),
    ],
)  # fmt: skip
def test_braces_that_are_no_placeholder_stay(word: str, becomes: str) -> None:
    assert CommandSpec(f"sh {word}").argv("/in", "/socket")[1:] == [becomes]


def test_a_placeholder_in_two_pairs_of_braces_is_none() -> None:
    spec = CommandSpec("loader {{input}} {{socket}}")
    assert spec.wants_stdin
    assert not spec.wants_socket


# -- crashes -------------------------------------------------------------------------------


def test_a_signal_is_a_crash_by_its_name(tmp_path: Path) -> None:
    for command in ("sh -c 'kill -SEGV $$'", "sh -c 'sh -c \"kill -SEGV \\$\\$\"; exit $?'"):
        result = once(tmp_path, command)
        assert result.kind is ExitKind.CRASHED
        assert result.escape is not None
        assert result.escape.type_name == "SIGSEGV"
        assert clean_error.alarm(result) is not None


def test_a_failed_assertion_is_told_by_its_function(tmp_path: Path) -> None:
    said = "loader: rtc.c:12: load_rtc: Assertion `index < 128' failed.\\n"
    result = once(tmp_path, python(f'import os; os.write(2, b"{said}"); os.abort()'))
    violation = clean_error.alarm(result)
    assert violation is not None
    assert violation.path == "SIGABRT at rtc.c:load_rtc"


def test_a_pattern_on_stderr_is_a_crash_whatever_the_status(tmp_path: Path) -> None:
    spec = CommandSpec("sh -c 'cat >&2'", crash_patterns=("BUG: .*at",))
    bad, good = execute(tmp_path, spec, b"x\nBUG: 17 at 4\ny\n", b"BUG-free\n")
    assert (bad.kind, good.kind) == (ExitKind.CRASHED, ExitKind.ACCEPTED)
    assert bad.escape is not None
    assert bad.escape.message == "BUG: 17 at 4"


def test_an_exception_that_leaves_a_python_program_is_a_crash(tmp_path: Path) -> None:
    program = "def load():\n  return [1][5]\nload()"
    result = once(tmp_path, python(program))
    assert result.kind is ExitKind.CRASHED
    violation = clean_error.alarm(result)
    assert violation is not None
    assert violation.path == "IndexError at <string>:load"


def test_an_exception_may_be_the_way_to_refuse(tmp_path: Path) -> None:
    program = "class BadStream(Exception): pass\nraise BadStream('no magic')"
    spec = CommandSpec(python(program), refusals=("BadStream",))
    result = execute(tmp_path, spec, b"")[0]
    assert result.kind is ExitKind.REJECTED
    assert result.refusal is not None
    assert result.refusal.text.endswith("BadStream: no magic")


# -- hangs ---------------------------------------------------------------------------------


def test_a_loader_that_computes_without_end_hangs_where_it_computes(tmp_path: Path) -> None:
    program = "def spin():\n  while True: pass\nspin()"
    result = once(tmp_path, python(program), limit_s=SHORT_S)
    assert result.kind is ExitKind.TIMED_OUT
    assert result.cpu_s >= SHORT_S
    violation = no_hang.alarm(result)
    assert violation is not None
    assert violation.path == "<string>:spin"


def test_a_loader_that_waits_without_end_hangs_though_it_uses_no_processor(
    tmp_path: Path,
) -> None:
    result = once(tmp_path, "sleep 1000", limit_s=SHORT_S)
    assert result.kind is ExitKind.TIMED_OUT
    assert result.escape is not None
    assert result.escape.message == "slept without end"


def test_a_loader_that_is_stopped_is_no_hang(tmp_path: Path) -> None:
    with pytest.raises(InfraError, match="was stopped"):
        once(tmp_path, "sh -c 'kill -STOP $$'", limit_s=0.1)


def test_what_a_shell_starts_may_take_as_long_as_a_loader(tmp_path: Path) -> None:
    program = "import time; end = time.process_time() + 0.2\nwhile time.process_time() < end: pass"
    result = once(tmp_path, f"sh -c {shlex.quote(python(program) + '; exit 4')}")
    assert result.kind is ExitKind.REJECTED


def test_a_loader_that_does_not_die_of_its_abort_is_killed(tmp_path: Path) -> None:
    result = once(tmp_path, "sh -c 'trap : ABRT; while :; do :; done'", limit_s=SHORT_S)
    assert result.kind is ExitKind.TIMED_OUT


def test_a_machine_that_is_too_busy_is_no_hang() -> None:
    with pytest.raises(InfraError, match="too busy"):
        verdict_of(CommandSpec("x"), Run(signal=signal.SIGABRT, stopped="slow"))


# -- memory --------------------------------------------------------------------------------


def test_a_python_loader_that_asks_for_too_much_runs_out_of_memory(tmp_path: Path) -> None:
    spec = CommandSpec(python("bytearray(1 << 40)"), memory_bytes=1 << 30)
    result = execute(tmp_path, spec, b"")[0]
    assert result.kind is ExitKind.OUT_OF_MEMORY
    assert result.escape is not None
    assert result.escape.type_name == "MemoryError"


def test_the_limit_of_memory_is_that_of_the_command(tmp_path: Path) -> None:
    program = "import resource, sys; sys.exit(str(resource.getrlimit(resource.RLIMIT_AS)[0]))"
    for size, said in ((1 << 30, str(1 << 30)), (0, "-1")):
        result = execute(tmp_path, CommandSpec(python(program), memory_bytes=size), b"")[0]
        assert result.refusal is not None
        assert result.refusal.text == said


def test_a_thrown_bad_alloc_is_exhausted_memory() -> None:
    said = "terminate called after throwing an instance of 'std::bad_alloc'\n"
    run = Run(signal=signal.SIGABRT, stderr=said)
    assert verdict_of(CommandSpec("x"), run).kind is ExitKind.OUT_OF_MEMORY


def test_a_loader_that_is_killed_from_outside_is_no_verdict(tmp_path: Path) -> None:
    with pytest.raises(InfraError, match="SIGKILL from outside"):
        once(tmp_path, "sh -c 'kill -KILL $$'")


def test_a_sanitizer_without_room_for_its_shadow_says_what_to_do() -> None:
    said = "==1==ReserveShadowMemoryRange failed while trying to map 0x1 bytes.\n"
    with pytest.raises(UsageError, match="memory=0"):
        verdict_of(CommandSpec("x"), Run(status=1, stderr=said))


def test_settings_of_sanitizers_that_a_user_has_come_last_and_so_win(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("ASAN_OPTIONS", "detect_leaks=1")
    environment = environment_of(CommandSpec("x", environment={"UBSAN_OPTIONS": "a=b"}))
    assert environment["ASAN_OPTIONS"].startswith("detect_leaks=0:")
    assert environment["ASAN_OPTIONS"].endswith(":detect_leaks=1")
    assert environment["UBSAN_OPTIONS"].endswith(":a=b")


def test_a_program_without_a_sanitizer_has_no_shadow(tmp_path: Path) -> None:
    program = tmp_path / "program"
    for content, shadow in ((b"\x7fELF main", False), (b"\x7fELF __asan_init", True), (b"", False)):
        program.write_bytes(content)
        assert has_shadow(program) is shadow


# -- nothing is left -----------------------------------------------------------------------


def test_what_a_load_has_started_is_dead_after_it_even_outside_its_session(
    tmp_path: Path,
) -> None:
    pids = tmp_path / "pids"
    file = shlex.quote(str(pids))
    sleeper = f"echo $$ >> {file}; exec sleep 999"
    program = (
        f"setsid sh -c '{sleeper}' & sh -c '{sleeper}' & touch {file}; "
        f"while test $(wc -l < {file}) -lt 2; do sleep 0.01; done; exit 5"
    )
    result = once(tmp_path, f"sh -c {shlex.quote(program)}")
    assert result.kind is ExitKind.REJECTED
    started = [int(line) for line in pids.read_text().split()]
    assert len(started) == 2
    assert all(gone(pid) for pid in started)


def test_a_cancelled_load_is_dead_when_the_executor_is(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    command = f"sh -c {shlex.quote(f'echo $$ > {shlex.quote(str(pids))}; exec sleep 999')}"

    async def body() -> None:
        async with CommandExecutor.open(CommandSpec(command), tmp_path, LIMIT_S) as executor:
            async with asyncio.TaskGroup() as group:
                load = group.create_task(executor.execute(b""))
                # There is no event: another process writes the file.
                while not (pids.exists() and pids.read_text().strip()):  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
                load.cancel()
            with pytest.raises(InfraError, match="renewed"):
                await executor.execute(b"")
            await executor.renew()
            assert gone(int(pids.read_text()))

    asyncio.run(body())


def test_a_renewed_executor_loads_again(tmp_path: Path) -> None:
    async def body() -> None:
        command = "sh -c 'test -s {input}'"
        async with CommandExecutor.open(CommandSpec(command), tmp_path, LIMIT_S) as executor:
            await executor.renew()
            assert (await executor.execute(b"x")).kind is ExitKind.ACCEPTED
            assert (await executor.execute(b"")).kind is ExitKind.REJECTED

    asyncio.run(body())


def test_a_starter_that_is_gone_is_no_verdict(tmp_path: Path) -> None:
    with pytest.raises(InfraError, match="is gone"):
        once(tmp_path, python("import os, time; os.kill(os.getppid(), 9); time.sleep(999)"))


def test_of_a_flood_on_stderr_the_first_and_the_last_is_kept(tmp_path: Path) -> None:
    program = "import sys; sys.stderr.write('IN\\n' + 'x\\n' * 3_000_000 + 'OUT\\n'); sys.exit(2)"
    result = once(tmp_path, python(program))
    assert result.refusal is not None
    assert result.refusal.text == "OUT"
    assert HEAD_SIZE_MAX + TAIL_SIZE_MAX < 1 << 16


def test_a_loader_that_closes_its_stderr_is_waited_for(tmp_path: Path) -> None:
    result = once(tmp_path, "sh -c 'exec 2>&-; sleep 0.2; exit 6'")
    assert result.refusal is not None
    assert result.refusal.errno == 6


def test_a_loader_gets_the_signals_that_python_ignores(tmp_path: Path) -> None:
    # A process that ignores SIGPIPE sees an error instead of a signal.
    result = once(tmp_path, "sh -c 'kill -PIPE $$; exit 3'")
    assert result.kind is ExitKind.CRASHED


def test_no_descriptor_of_ours_is_passed_on(tmp_path: Path) -> None:
    program = "import os, sys; sys.exit(','.join(sorted(os.listdir('/proc/self/fd'))))"
    result = once(tmp_path, python(program))
    assert result.refusal is not None
    # The last one is of the folder that is listed.
    assert result.refusal.text == "0,1,2,3"
