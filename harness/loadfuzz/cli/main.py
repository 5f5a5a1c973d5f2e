"""``loadfuzz``: the command line, its errors and its exit codes.

Commands are imported when they are called, so that ``--help`` is fast and a
missing extra costs only the command that needs it.
"""

import importlib
import os
import sys
import traceback
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Final, NoReturn

import click

from loadfuzz import __version__
from loadfuzz.errors import InfraError, LoadfuzzError, UsageError
from loadfuzz.exitcodes import ExitCode

DEBUG_VARIABLE: Final = "LOADFUZZ_DEBUG"
"""Set to anything but 0, it does what --debug does."""

LAZY: Final[Mapping[str, tuple[str, str]]] = {
    "run": ("loadfuzz.cli.run:command", "Fuzz a target until the budget is used up."),
    "status": ("loadfuzz.cli.status:command", "Show how a campaign goes, or how it went."),
    "report": ("loadfuzz.cli.report:command", "Say what a campaign found, and what it tried."),
    "replay": ("loadfuzz.cli.replay:command", "Run a finding or a stream again."),
    "sweep": ("loadfuzz.cli.sweep:command", "Let a fault strike at every place of a stream."),
    "diff": ("loadfuzz.cli.diff:command", "Compare the reference with a QEMU or your loader."),
    "migrate": ("loadfuzz.cli.migrate:command", "Migrate between two QEMUs while things fail."),
    "inspect": ("loadfuzz.cli.inspect:command", "Show what is in a stream, also a damaged one."),
    "seeds": ("loadfuzz.cli.seeds:command", "Make streams, or take them from a real QEMU."),
    "corpus": ("loadfuzz.cli.corpus:command", "Look after a collection of streams."),
    "bench": ("loadfuzz.cli.bench:command", "Measure, as ratios inside one run."),
    "coverage": ("loadfuzz.cli.coverage:command", "List what of a loader no stream reaches."),
    "targets": ("loadfuzz.cli.targets:command", "List what can be fuzzed."),
    "doctor": ("loadfuzz.cli.doctor:command", "Say what is installed and what is missing."),
}
"""Where each command is, and its line of help, which must not need the import."""

_HELP: Final = """\
Finds the streams and the faults that make a loadvm misbehave.

A loadvm reads a saved machine, or one that migrates in, from a stream that
somebody else may have written. loadfuzz changes such streams, watches what
the loader does with them, and keeps each stream that breaks a promise as a
folder that anyone can run again.

\b
Examples:
  loadfuzz run                           fuzz the reference loader for 60 s
  loadfuzz run planted --time 30s        see it find bugs that were put there
  loadfuzz run reference --seeds vm.bin  start from your own streams
  loadfuzz replay loadfuzz-out/planted-001/findings/NAME
  loadfuzz inspect vm.bin                what is in this stream?
  loadfuzz doctor                        is anything missing here?

\b
Exit codes of every command:
  0  done, nothing found         2  wrong arguments or input files
  1  done, there are findings    3  the harness or the machine failed
"""


class LazyGroup(click.Group):
    """A group whose commands are imported when they are called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All names, in the order of a first use."""
        return list(LAZY)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command, imported.

        Raises:
            InfraError: it cannot be imported.
        """
        entry = LAZY.get(cmd_name)
        if entry is None:
            return None
        module_name, _, attribute = entry[0].partition(":")
        try:
            module = importlib.import_module(module_name)
        except ImportError as error:
            missing = error.name or str(error)
            raise InfraError(
                f"'loadfuzz {cmd_name}' needs {missing}, which cannot be imported ({error}); "
                "reinstall with 'pip install loadfuzz', or see 'loadfuzz doctor'"
            ) from error
        command = getattr(module, attribute)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Names and their lines, without an import."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, help_line) for name, (_, help_line) in LAZY.items()])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Which command is meant.

        Raises:
            UsageError: there is none of that name.
        """
        name = args[0]
        if name not in LAZY and not name.startswith("-"):
            near = _near(name)
            hint = f"did you mean '{near}'?" if near else f"commands: {', '.join(LAZY)}"
            raise UsageError(f"no command {name!r}; {hint}")
        return super().resolve_command(ctx, args)


def _near(name: str) -> str:
    from difflib import get_close_matches

    return next(iter(get_close_matches(name, LAZY, n=1)), "")


@click.group(
    cls=LazyGroup,
    help=_HELP,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 80},
)
@click.version_option(__version__, message="loadfuzz %(version)s")
@click.option("--debug", is_flag=True, help="On an error of ours, print its traceback.")
@click.pass_context
def cli(context: click.Context, debug: bool) -> None:
    """Root of all commands."""
    context.obj = debug


def wants_debug(arguments: Sequence[str]) -> bool:
    """Whether tracebacks are to be shown."""
    return "--debug" in arguments or os.environ.get(DEBUG_VARIABLE, "0") not in {"", "0"}


def run_cli(arguments: Sequence[str]) -> int:
    """Run a command line; its exit code.  Prints errors to stderr, raises none."""
    debug = wants_debug(arguments)
    stdout, stderr = sys.stdout, sys.stderr
    # So that --debug may stand anywhere, also behind the command.
    arguments = [item for item in arguments if item != "--debug"]
    try:
        result = cli.main(list(arguments), prog_name="loadfuzz", standalone_mode=False)
        return result if isinstance(result, int) else ExitCode.CLEAN
    except UsageError as error:
        return _report(f"loadfuzz: {error}", ExitCode.USAGE)
    except InfraError as error:
        if debug:
            traceback.print_exc()
        return _report(f"loadfuzz: {error}", ExitCode.MACHINERY)
    except click.UsageError as error:
        where = error.ctx.command_path if error.ctx is not None else "loadfuzz"
        text = error.format_message().rstrip(".")
        return _report(f"loadfuzz: {text}\nsee '{where} --help'", ExitCode.USAGE)
    except click.ClickException as error:
        return _report(f"loadfuzz: {error.format_message()}", ExitCode.USAGE)
    except (click.exceptions.Abort, KeyboardInterrupt):
        return ExitCode.INTERRUPTED
    except BrokenPipeError:
        return _hush()
    except SystemExit:
        # click takes a closed pipe for its own business: it replaces stdout and stderr, and
        # ends with what means findings here.
        if sys.stdout is stdout:
            raise
        sys.stdout, sys.stderr = stdout, stderr
        return _hush()
    except LoadfuzzError as error:
        return _report(f"loadfuzz: {error}", ExitCode.MACHINERY)
    except Exception as error:
        if debug:
            traceback.print_exc()
        return _report(
            f"loadfuzz: internal error: {type(error).__name__}: {error}\n"
            "this is a bug of loadfuzz; run it again with --debug and report what it prints",
            ExitCode.MACHINERY,
        )


def _report(text: str, code: ExitCode) -> ExitCode:
    with suppress(OSError):
        print(text, file=sys.stderr, flush=True)
    return code


def _hush() -> ExitCode:
    """Nobody reads our output any more; leave without the interpreter's complaint."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return ExitCode.MACHINERY


def main() -> NoReturn:
    """Entry point of the program."""
    for stream in (sys.stdout, sys.stderr):
        # A name out of a stream must never end a run because a terminal cannot show it.
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    code = run_cli(sys.argv[1:])
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        code = _hush()
    sys.exit(int(code))
