"""The command line as a whole: help, errors, exit codes."""

import os
import re
import subprocess
import sys
from pathlib import Path

import click
import pytest

import loadfuzz
from loadfuzz.cli import main as module
from loadfuzz.cli.main import LAZY, cli, run_cli
from loadfuzz.cli.params import duration_s, number_within
from loadfuzz.errors import InfraError, UsageError
from loadfuzz.exitcodes import ExitCode


def python(program: str) -> str:
    """What a Python program prints."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(item for item in sys.path if item)}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    )
    return done.stdout


def test_help_imports_neither_the_loader_nor_a_command() -> None:
    program = (
        "import sys\nfrom loadfuzz.cli.main import run_cli\nrun_cli(['--help'])\n"
        "print([name for name in sys.modules if name.startswith(('savevm', 'rich', 'msgspec'))"
        " or name.startswith('loadfuzz.cli.') and name != 'loadfuzz.cli.main'])"
    )
    assert python(program).splitlines()[-1] == "[]"


def test_help_of_run_does_not_import_the_loader() -> None:
    program = (
        "import sys\nfrom loadfuzz.cli.main import run_cli\nrun_cli(['run', '--help'])\n"
        "print([name for name in sys.modules if name.startswith(('savevm', 'rich'))])"
    )
    assert python(program).splitlines()[-1] == "[]"


def test_the_version_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_cli(["--version"]) == ExitCode.CLEAN
    assert capsys.readouterr().out == f"loadfuzz {loadfuzz.__version__}\n"


@pytest.mark.parametrize("arguments", [["--help"], *([name, "--help"] for name in LAZY)])
def test_every_help_fits_80_columns_and_tells_exit_codes(
    arguments: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert run_cli(arguments) == ExitCode.CLEAN
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= 80
    if not isinstance(cli.get_command(click.Context(cli), arguments[0]), click.Group):
        assert re.search("[Ee]xit codes", text)


def test_without_a_command_help_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_cli([]) == ExitCode.USAGE
    captured = capsys.readouterr()
    assert "Examples:" in captured.out + captured.err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["rnu"], "no command 'rnu'; did you mean 'run'?"),
        (["zzzzzz"], "no command 'zzzzzz'; commands: run, status, "),
        (["--nonsense"], "--nonsense"),
        (["run", "--nonsense"], "--nonsense"),
        (["run", "--time"], "Option '--time' requires an argument"),
        (["run", "--time", "soon"], "'soon' is no time; write for example 90s, 10m or 1h30m"),
        (["run", "--time", "0s"], "'0s' must be more than 0"),
        (["run", "--time", "-5"], "'-5' is no time"),
        (["run", "--time", "nan"], "'nan' is no time"),
        (["run", "--time", "9999d"], "'9999d' must be more than 0 and at most 366d"),
        (["run", "--execs", "0"], "0 is not within 1 to"),
        (["run", "--execs", "many"], "'many' is no whole number"),
        (["run", "--workers", "0"], "0 is not within 1 to 256"),
        (["run", "--workers", "1.5"], "'1.5' is no whole number"),
        (["run", "--seed", "-1"], "-1 is not within 0 to"),
        (["run", "--seed", "9" * 5000], "is no whole number"),
        (["run", "--engine", "warp"], "'warp' is not one of 'atheris', 'native', 'auto'"),
        (["run", "--seeds"], "Option '--seeds' requires an argument"),
        (["run", "one", "two"], "unexpected extra argument (two)"),
        (["run", "no-such-target"], "no target 'no-such-target'"),
        (["replay"], "Missing argument 'FOLDER|FILE'"),
        (["replay", "/no/such/folder"], "/no/such/folder does not exist"),
        (["replay", "/dev/null"], "/dev/null is a character device, not a file"),
        (["replay", "x", "-n", "0"], "0 is not within 1 to 1000"),
        (["targets", "extra"], "unexpected extra argument (extra)"),
        (["doctor", "--nonsense"], "--nonsense"),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, list) else "",
)
def test_wrong_arguments_are_explained_in_a_line_or_two(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert run_cli(arguments) == ExitCode.USAGE
    captured = capsys.readouterr()
    assert captured.out == ""
    assert words in captured.err
    assert captured.err.startswith("loadfuzz: ")
    assert captured.err.count("\n") <= 2
    assert os.listdir(tmp_path) == []


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> list[BaseException]:
    """A command ``fails`` that raises what the test puts into the list."""
    errors: list[BaseException] = []

    @click.command(name="fails")
    def fails() -> None:
        raise errors[0]

    monkeypatch.setattr(module, "LAZY", {**LAZY, "fails": ("x:y", "")})
    monkeypatch.setattr(module.LazyGroup, "get_command", lambda self, ctx, name: fails)
    return errors


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (UsageError("do that"), 2, "loadfuzz: do that"),
        (InfraError("do this"), 3, "loadfuzz: do this"),
        (ValueError("oops"), 3, "internal error: ValueError: oops\nthis is a bug of loadfuzz"),
        (KeyboardInterrupt(), 130, ""),
        (click.Abort(), 130, ""),
        (BrokenPipeError(), 3, ""),
    ],
    ids=repr,
)
def test_every_error_has_its_exit_code(
    command: list[BaseException], error: BaseException, code: int, words: str,
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    command.append(error)
    saved = os.dup(1)
    try:
        assert run_cli(["fails"]) == code
    finally:
        os.dup2(saved, 1)
        os.close(saved)
    err = capfd.readouterr().err
    assert words in err
    assert "Traceback" not in err


@pytest.mark.parametrize("arguments", [["--debug", "fails"], ["fails", "--debug"]])
def test_a_traceback_is_shown_to_those_who_ask(
    command: list[BaseException], arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    command.append(InfraError("do this"))
    assert run_cli(arguments) == ExitCode.MACHINERY
    assert "Traceback" in capsys.readouterr().err


def test_the_environment_can_ask_for_tracebacks_too(
    command: list[BaseException],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("LOADFUZZ_DEBUG", "1")
    command.append(ValueError("oops"))
    run_cli(["fails"])
    assert "Traceback" in capsys.readouterr().err


def test_a_command_whose_library_is_missing_says_which(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(module, "LAZY", {"run": ("no_such_library.run:command", "")})
    assert run_cli(["run"]) == ExitCode.MACHINERY
    err = capsys.readouterr().err
    assert "'loadfuzz run' needs no_such_library, which cannot be imported" in err
    assert "loadfuzz doctor" in err


def test_a_reader_that_goes_away_is_no_crash() -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(item for item in sys.path if item)}
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "wb") as closed:
        done = subprocess.run(
            [sys.executable, "-m", "loadfuzz", "--help"],
            stdout=closed, stderr=subprocess.PIPE, env=environment, check=False,
        )  # fmt: skip
    assert done.stderr == b""
    assert done.returncode == ExitCode.MACHINERY


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 90), ("1.5", 1.5), ("60s", 60), ("10m", 600), ("1h30m", 5400), ("250ms", 0.25),
     (" 2H ", 7200), ("1d", 86400)],
)  # fmt: skip
def test_times_are_read_as_people_write_them(text: str, seconds: float) -> None:
    assert duration_s(text) == seconds


@pytest.mark.parametrize(("text", "number"), [("5", 5), ("10k", 10_000), ("2M", 2 * 10**6),
                                              ("1_000", 1000), (" 7 ", 7)])  # fmt: skip
def test_numbers_are_read_as_people_write_them(text: str, number: int) -> None:
    assert number_within(1, 10**9)(text) == number


@pytest.mark.parametrize("text", ["", "s", "1x", "1h 30m", "h1", "1e9", "inf", "٣s", "1,5s"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(click.BadParameter):
        duration_s(text)


@pytest.mark.parametrize("text", ["", "k", "1.0", "0x10", "٣", "1e3", "--", "1k1"])
def test_what_is_no_number_is_refused(text: str) -> None:
    with pytest.raises(click.BadParameter):
        number_within(0, 10**9)(text)
