"""A worker process: ``python -m loadfuzz.engines.worker BATCH.json``.

Does one batch and tells about it, one event a line, on the stdout it was
started with.  SIGTERM and SIGINT end it after the present execution.  Exit
code 0 when it did what it was asked, 3 when our machinery failed; the last
event then says why.

For Atheris there are two stages.  What to instrument, the target says; but to
ask it, it must be imported, and what is imported cannot be instrumented any
more.  So the first stage asks, writes the wrapper (see
:mod:`loadfuzz.engines.wrapper`) and becomes it; the second stage gets the
answer as an argument and imports everything under Atheris's hook.  That is why
nothing here may import ``savevm`` at module level.
"""

import ctypes
import faulthandler
import os
import resource
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Final, NoReturn

from loadfuzz import codec
from loadfuzz.campaign.batch import Batch, BatchResult, Engine
from loadfuzz.channel import Channel
from loadfuzz.errors import InfraError, LoadfuzzError, UsageError
from loadfuzz.events import Event, WorkerEnded, WorkerStarted, encode
from loadfuzz.exitcodes import ExitCode

if TYPE_CHECKING:  # they import the loader
    from loadfuzz.abc import RemoteTarget, Target
    from loadfuzz.engines.account import Account
    from loadfuzz.engines.session import Session

INSTRUMENT: Final = "--instrument"

ADDRESS_SPACE_EXTRA: Final = 1 << 29
"""Bytes of address space that a worker may take beyond what it has when it is
ready: inputs are at most 2 MiB and what we keep of them takes some 100 MiB, so a load
that wants half a GiB believes a lie; and every such load takes the time to clear what it
was given."""


M_MMAP_THRESHOLD: Final = -3
"""From glibc's <malloc.h>."""
MMAP_THRESHOLD: Final = 8192
"""Bytes from which on a block is one of the larger ones: two pages."""


def run_batch(
    batch: Batch,
    emit: Callable[[Event], None],
    *,
    stopped: Callable[[], bool] = lambda: False,
    arguments: Sequence[str] = (),
    session_type: "type[Session] | None" = None,
) -> BatchResult:
    """Do one batch.

    With Atheris this ends the process, after the last events were emitted; it
    must be called in a process of its own in which the target's packages were
    imported under :func:`~loadfuzz.engines.atheris_engine.instrumented_import`.

    Args:
        batch: what is to be done.
        emit: hears every event of the worker, :class:`WorkerEnded` last.
        stopped: somebody wants the worker to end; asked after every execution.
        arguments: further flags for libFuzzer.
        session_type: what does the work of one input, for measurements.

    Raises:
        UsageError: there is no such target.
        InfraError: our machinery or its surroundings failed.
    """
    from loadfuzz.abc import RemoteTarget
    from loadfuzz.engines.last_input import LastInput
    from loadfuzz.engines.session import Session
    from loadfuzz.executors.watchdog import SUSPICION_SHARE, Watchdog
    from loadfuzz.oracles import ALL
    from loadfuzz.plugins import load_any_target
    from loadfuzz.repro.folder import write_finding
    from loadfuzz.storage import explain

    target = load_any_target(batch.target)
    if isinstance(target, RemoteTarget):
        return _run_remote(batch, target, emit, stopped)
    try:
        last_input = LastInput(Path(batch.out), batch)
    except OSError as error:
        raise explain(error, "making the worker's folder") from error
    with last_input, Watchdog(batch.load_timeout_s / SUSPICION_SHARE) as watchdog:
        session = (session_type or Session)(
            batch, target, ALL, emit, write_finding, watchdog, last_input, stopped
        )
        if batch.engine is Engine.ATHERIS:
            _run_atheris(session, arguments, last_input.close)
        reason = _run_native(session)
        return _finish(session, reason)


def _run_remote(
    batch: Batch,
    target: "RemoteTarget",
    emit: Callable[[Event], None],
    stopped: Callable[[], bool],
) -> BatchResult:
    import asyncio

    from loadfuzz.engines.remote_loop import run_remote
    from loadfuzz.repro.folder import write_finding

    _unguard_memory()
    session, reason = asyncio.run(run_remote(batch, target, emit, write_finding, stopped))
    return _finish(session, reason)


def _run_native(session: "Session") -> str:
    from loadfuzz.engines.native import NativeEngine
    from loadfuzz.rng import Rng

    return NativeEngine(session, Rng(session.batch.seed)).run()


def _run_atheris(
    session: "Session", arguments: Sequence[str], close: Callable[[], None]
) -> NoReturn:
    from loadfuzz.engines.account import worker_folder
    from loadfuzz.engines.atheris_engine import AtherisEngine
    from loadfuzz.engines.wrapper import NAME
    from loadfuzz.rng import Rng

    def finish(reason: str) -> NoReturn:
        code = ExitCode.MACHINERY
        try:
            result = _finish(session, reason)
            if result.reason in _GOOD_REASONS:
                code = ExitCode.CLEAN
            close()
            sys.stderr.flush()
        finally:
            # libFuzzer's own way out would call Python's exit handlers on a torn-down state.
            os._exit(code)

    engine = AtherisEngine(session, Rng(session.batch.seed), finish)
    engine.start(worker_folder(session.batch) / NAME, arguments)


_GOOD_REASONS: Final = frozenset({"budget", "stopped"})


def _finish(session: "Account", reason: str) -> BatchResult:
    session.report()
    session.emit(
        WorkerEnded(session.batch.worker, session.tally.executions, reason, restarted=False)
    )
    return session.result(reason)


class _Stop:
    """Set by SIGTERM or SIGINT from when it is made."""

    def __init__(self) -> None:
        self.asked = False
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._ask)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self.asked = True

    def __call__(self) -> bool:
        return self.asked


def main(arguments: Sequence[str]) -> int:
    """Entry point.

    Args:
        arguments: ``[--instrument a,b] BATCH.json [libFuzzer flags]``.
    """
    rest = list(arguments)
    instrument: list[str] | None = None
    if rest[:1] == [INSTRUMENT]:
        instrument = [name for name in rest[1].split(",") if name]
        rest = rest[2:]
    if not rest:
        print("usage: python -m loadfuzz.engines.worker BATCH.json", file=sys.stderr)
        return ExitCode.USAGE
    path, flags = Path(rest[0]), rest[1:]
    try:
        batch = codec.decode(path.read_bytes(), Batch)
    except (OSError, codec.DamagedError) as error:
        print(f"{path} holds no batch: {error}", file=sys.stderr)
        return ExitCode.USAGE
    first_stage = batch.engine is Engine.ATHERIS and instrument is None
    failure = _become_wrapper(batch, path) if first_stage else None
    channel = Channel()

    def emit(event: Event) -> None:
        try:
            channel.send(encode(event))
        except BrokenPipeError:
            # The supervisor is gone, and with it whoever could want this worker's work.
            os._exit(ExitCode.MACHINERY)

    try:
        if failure is not None:
            raise failure
        if instrument is not None:
            import_instrumented(batch.target, instrument)
        emit(WorkerStarted(batch.worker, os.getpid()))
        _guard_process(batch)
        result = run_batch(batch, emit, stopped=_Stop(), arguments=flags)
    except Exception as error:
        text = str(error)
        if not isinstance(error, LoadfuzzError):
            text = f"{type(error).__name__}: {error}"
            sys.excepthook(type(error), error, error.__traceback__)
        emit(WorkerEnded(batch.worker, 0, text, restarted=False))
        return ExitCode.USAGE if isinstance(error, UsageError) else ExitCode.MACHINERY
    return ExitCode.CLEAN if result.reason in _GOOD_REASONS else ExitCode.MACHINERY


def _become_wrapper(batch: Batch, path: Path) -> Exception:
    """Find out what to instrument and start again with the answer; returns only
    with what went wrong."""
    sys.stdout.flush()
    # What the target prints when it is imported must not get among the events.
    stdout = os.dup(1)
    os.dup2(2, 1)
    try:
        from loadfuzz.engines.wrapper import write_wrapper
        from loadfuzz.plugins import load_target

        target: Target = load_target(batch.target)
        folder = Path(batch.out) / f"worker-{batch.worker}"
        folder.mkdir(parents=True, exist_ok=True)
        names = ",".join(target.instrument)
        wrapper = write_wrapper(folder, [INSTRUMENT, names, str(path.absolute())])
        sys.stdout.flush()
        sys.stderr.flush()
        os.dup2(stdout, 1)
        os.execv(wrapper, [str(wrapper)])
    except Exception as error:
        return error
    finally:
        sys.stdout.flush()
        os.dup2(stdout, 1)
        os.close(stdout)


def import_instrumented(name: str, packages: Sequence[str]) -> None:
    """Import everything that matters with the packages of a target instrumented.

    Raises:
        UsageError: no package is named; Atheris would take that for all of them,
            ours included.
        InfraError: Atheris is missing, or a package was imported before.
    """
    if not packages:
        raise UsageError(f"target {name!r} names no package to instrument; use --engine native")
    try:
        import atheris
    except ImportError as error:
        raise InfraError(
            f"Atheris cannot be imported ({error}); install loadfuzz[atheris], or use "
            "--engine native"
        ) from error
    early = [name for name in packages if name in sys.modules]
    if early:
        raise InfraError(f"{', '.join(early)} was imported before it could be instrumented")
    with atheris.instrument_imports(include=list(packages)):
        from loadfuzz import oracles  # noqa: F401
        from loadfuzz.engines import atheris_engine  # noqa: F401
        from loadfuzz.plugins import load_target
        from loadfuzz.repro import folder  # noqa: F401

        target = load_target(name)
        # What is imported only when it is opened is instrumented, too; if it fails, it fails
        # again where that is told.
        with suppress(Exception):
            target.open()


def _guard_process(batch: Batch) -> None:
    """Bound the process's memory, and have its stack written when a signal kills it."""
    from loadfuzz.engines.account import worker_folder
    from loadfuzz.engines.last_input import STACK_NAME

    # Not closed: it has to be open when the signal comes.
    stack = os.open(
        worker_folder(batch) / STACK_NAME, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
    )
    faulthandler.enable(stack, all_threads=False)
    guard_memory()
    keep_heap_whole()


def keep_heap_whole() -> None:
    """Have glibc give larger blocks pages of their own, which it returns when they are freed.

    Streams come and go by the million, of all sizes, and some are kept for ever: in between
    those the heap is full of holes that nothing fits into, and grows for hours.
    """
    with suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, MMAP_THRESHOLD)


def _unguard_memory() -> None:
    """Lift that bound: what this process starts would inherit it, and has one of its own."""
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (hard, hard))


def guard_memory() -> None:
    """Bound what this process may take from now on."""
    limit = _address_space_bytes() + ADDRESS_SPACE_EXTRA
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    if hard == resource.RLIM_INFINITY or limit < hard:
        resource.setrlimit(resource.RLIMIT_AS, (limit, hard))


def _address_space_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    return pages * resource.getpagesize()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
