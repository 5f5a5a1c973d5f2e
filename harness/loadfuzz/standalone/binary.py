"""A fuzz target as a libFuzzer binary.

``python -m loadfuzz_targets.section_types [FLAGS] [CORPUS...] [FILES...]`` takes
libFuzzer's flags, so that OSS-Fuzz and ClusterFuzzLite can take it.  Files are run
once each; otherwise it fuzzes until an oracle rings, writes the input to
``crash-<sha1>`` and exits with 77.

With Atheris there are two stages, for what is imported cannot be instrumented any
more: the first writes a program that starts the second (libFuzzer starts
``argv[0]`` again for ``-fork`` and ``-merge``) and becomes it.  Without Atheris our
own short loop does it, blind but for the seeds, and says so.
"""

import os
import shlex
import sys
import time
from collections.abc import Sequence
from hashlib import sha1
from pathlib import Path
from typing import TYPE_CHECKING, Final, NoReturn

from loadfuzz.errors import InfraError, LoadfuzzError, UsageError
from loadfuzz.exitcodes import ExitCode
from loadfuzz.standalone.flags import Flags, parse

if TYPE_CHECKING:  # it imports the loader
    from loadfuzz.abc import Target

CRASHED: Final = 77
"""libFuzzer's exit code when the target failed."""

_USAGE: Final = """\
The fuzz target {name} as a libFuzzer binary.  Arguments: [FLAGS] [CORPUS...] [FILES...]

Files are run once each.  Otherwise it fuzzes from its own seeds and the corpora until an
oracle rings; the input is then written to crash-<sha1>, and the exit code is 77.
Useful flags: -runs=N  -max_total_time=SECONDS  -seed=N  -artifact_prefix=DIR/
All others are libFuzzer's and need Atheris; -help=1 lists them."""

_PROGRAM: Final = "loadfuzz.standalone.binary"


def main(name: str) -> NoReturn:
    """Be the libFuzzer binary of the target called ``name``; ends the process.

    Arguments come from ``sys.argv``.
    """
    try:
        code = _first_stage(name, sys.argv[1:])
    except LoadfuzzError as error:
        print(f"{name}: {error}", file=sys.stderr)
        code = ExitCode.USAGE if isinstance(error, UsageError) else ExitCode.MACHINERY
    sys.exit(code)


def _first_stage(name: str, arguments: Sequence[str]) -> int:
    from loadfuzz.plugins import load_target

    if {"-h", "--help"} & set(arguments):
        print(_USAGE.format(name=name))
        return ExitCode.CLEAN
    flags = parse(arguments)
    target = load_target(name)
    if flags.files:
        return _run_files(target, flags)
    try:
        import atheris  # noqa: F401
    except ImportError:
        print(f"{name}: Atheris is not installed: no coverage guides this run", file=sys.stderr)
        return _run_blind(target, flags)
    else:
        _become_program(target, flags)


def _become_program(target: "Target", flags: Flags) -> NoReturn:
    """Start the second stage in place of this process.

    Raises:
        InfraError: there is no folder for what it needs.
    """
    folder = _scratch(target.name)
    program = _write_program(folder, target.name, ",".join(target.instrument))
    # libFuzzer writes to the first folder: never to the seeds.
    own, seeds = folder / "corpus", folder / "seeds"
    try:
        own.mkdir(exist_ok=True)
        seeds.mkdir(exist_ok=True)
        for seed in target.seeds():
            name = sha1(seed.stream, usedforsecurity=False).hexdigest()
            (seeds / name).write_bytes(seed.stream)
    except OSError as error:
        raise InfraError(f"writing seeds to {folder} failed: {error.strerror}") from error
    folders = flags.folders or (own,)
    sys.stdout.flush()
    os.execv(program, [str(program), *flags.passed, *map(str, folders), str(seeds)])


def _run_files(target: "Target", flags: Flags) -> int:
    from loadfuzz.executors.inprocess import InProcessExecutor
    from loadfuzz.executors.watchdog import Watchdog
    from loadfuzz.inputs import STREAM_SIZE_MAX, Input
    from loadfuzz.standalone.loop import LOAD_TIMEOUT_S, judge

    code: int = ExitCode.CLEAN
    with Watchdog(LOAD_TIMEOUT_S) as watchdog:
        executor = InProcessExecutor(target, watchdog)
        for path in flags.files:
            print(f"Running: {path}", file=sys.stderr)
            try:
                with path.open("rb") as file:
                    stream = file.read(STREAM_SIZE_MAX)
            except OSError as error:
                raise UsageError(f"{path} cannot be read: {error.strerror}") from error
            violation = judge(executor.execute(Input(stream)), dear=True)
            if violation is not None:
                print(f"{path}: {violation.oracle}: {violation.title}", file=sys.stderr)
                code = CRASHED
    return code


def _run_blind(target: "Target", flags: Flags) -> int:
    from loadfuzz.campaign.settings import random_seed
    from loadfuzz.standalone.loop import fuzz

    start = time.monotonic()

    def stopped(done: int) -> bool:
        if done and done % 1000 == 0:
            print(f"#{done}", file=sys.stderr)
        return flags.seconds is not None and time.monotonic() - start >= flags.seconds

    seed = random_seed() if flags.seed is None else flags.seed
    runs = 1 << 62 if flags.runs is None else flags.runs
    alarm = fuzz(target, runs, seed, stopped=stopped)
    if alarm is None:
        return ExitCode.CLEAN
    name = f"{flags.artifacts}crash-{sha1(alarm.stream, usedforsecurity=False).hexdigest()}"
    try:
        Path(name).write_bytes(alarm.stream)
    except OSError as error:
        raise InfraError(f"writing {name} failed: {error.strerror}") from error
    print(f"{alarm.violation.oracle}: {alarm.violation.title}\nwritten to {name}", file=sys.stderr)
    return CRASHED


def _scratch(name: str) -> Path:
    """A folder of ours that is the same every time, so that nothing piles up."""
    cache = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    folder = Path(cache) / "loadfuzz" / "standalone" / name
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InfraError(
            f"{folder} cannot be made: {error.strerror}; set XDG_CACHE_HOME to a writable folder"
        ) from error
    return folder


def _write_program(folder: Path, name: str, packages: str) -> Path:
    command = [sys.executable, "-P", "-m", _PROGRAM, name, packages]
    program = folder / "run"
    part = folder / f"run.{os.getpid()}"
    try:
        part.write_text(f'#!/bin/sh\nexec {shlex.join(command)} "$@"\n')
        part.chmod(0o755)
        part.replace(program)
    except OSError as error:
        raise InfraError(f"writing {program} failed: {error.strerror}") from error
    return program


def _second_stage(name: str, packages: Sequence[str], arguments: Sequence[str]) -> NoReturn:
    import atheris

    with atheris.instrument_imports(include=list(packages)):
        from loadfuzz.plugins import load_target
        from loadfuzz.standalone.guided import Guided

        target = load_target(name)
    guided = Guided(target, parse(arguments).seed)
    # One mutation per execution, always of a unit whose tree is cached.
    flags = ["-mutate_depth=1", "-print_pcs=0", *arguments]
    atheris.Setup([sys.argv[0], *flags], guided.test_one_input, custom_mutator=guided.mutate)
    with guided:
        atheris.Fuzz()
    sys.exit(ExitCode.CLEAN)


if __name__ == "__main__":
    # argv[0] has to be what can be executed again.
    sys.argv[0] = str(_scratch(sys.argv[1]) / "run")
    _second_stage(sys.argv[1], sys.argv[2].split(","), sys.argv[3:])
