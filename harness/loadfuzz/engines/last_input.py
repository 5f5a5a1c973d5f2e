"""The input that a worker runs now, where it can be read after the worker's death.

A loader may take its process with it: a signal, ``os._exit``, the kernel's
out-of-memory killer.  So each input is written to a small memory-mapped file
before it is run, marked when it has been run, and again when it has been judged;
two copies of some kB, no system call.  From what a dead worker left,
:func:`describe_death` makes the finding, or says that no input was under way and
the death is our own fault.
"""

import mmap
import os
import signal
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Final

from loadfuzz import codec
from loadfuzz.campaign.batch import Batch
from loadfuzz.execution import Depth, Escape, Execution, ExitKind
from loadfuzz.exitcodes import ExitCode
from loadfuzz.findings import Finding, Violation
from loadfuzz.inputs import STREAM_SIZE_MAX, Input

NAME: Final = "last-input"
STACK_NAME: Final = "fatal-stack"
"""Where the interpreter writes its stack when a signal kills it."""

_BATCH_SIZE_MAX: Final = 4096
"""Room for the worker's batch as JSON; it holds one path."""
_AT_LENGTH: Final = 8
_AT_EXECUTIONS: Final = 16
_AT_BATCH_LENGTH: Final = 24
_AT_BATCH: Final = 32
_AT_STREAM: Final = _AT_BATCH + _BATCH_SIZE_MAX
_SIZE: Final = _AT_STREAM + STREAM_SIZE_MAX
_IDLE: Final = 0
_RUNNING: Final = 1
_JUDGING: Final = 2

_WHERE: Final = {
    _RUNNING: "inside a load",
    _JUDGING: "after a load, while oracles looked closer",
}
_EXPECTED: Final = {
    _RUNNING: "the stream is accepted, or refused with a LoadError",
    _JUDGING: "what was loaded can be looked at, saved and loaded again",
}

_LIBFUZZER_TIMEOUT: Final = 70
_LIBFUZZER_OUT_OF_MEMORY: Final = 71
_LIBFUZZER_CRASH: Final = 77
_OWN_FAILURES: Final = frozenset({ExitCode.USAGE, ExitCode.MACHINERY})
"""Exit statuses of a worker that failed by itself; no load ended it."""
_FRAMES_MAX: Final = 6
_STACK_CHARS_MAX: Final = 100_000


class LastInput:
    """A worker's side of the file.

    Args:
        out: the campaign's folder; the worker's own is made in it.
        batch: of the worker, kept in the file.

    Raises:
        OSError: the file cannot be made.
    """

    __slots__ = ("_map",)

    def __init__(self, out: Path, batch: Batch) -> None:
        folder = out / f"worker-{batch.worker}"
        folder.mkdir(parents=True, exist_ok=True)
        # What a finding needs of it: lists of any length have no room here.
        encoded = codec.encode(replace(batch, operators=None, ignore=()))
        if len(encoded) > _BATCH_SIZE_MAX:
            raise OSError(f"the path of {out} is too long")
        descriptor = os.open(folder / NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            # Sparse: the disk holds only what the longest input needed.
            os.ftruncate(descriptor, _SIZE)
            self._map = mmap.mmap(descriptor, _SIZE)
        finally:
            os.close(descriptor)
        self._map[0] = _IDLE
        self._map[_AT_BATCH : _AT_BATCH + len(encoded)] = encoded
        self._map[_AT_BATCH_LENGTH:_AT_BATCH] = len(encoded).to_bytes(8, "little")

    def begin(self, stream: bytes, executions: int) -> None:
        """``stream`` is about to be run."""
        view = self._map
        size = min(len(stream), STREAM_SIZE_MAX)
        view[_AT_STREAM : _AT_STREAM + size] = stream if size == len(stream) else stream[:size]
        view[_AT_LENGTH:_AT_BATCH_LENGTH] = (size | executions << 64).to_bytes(16, "little")
        view[0] = _RUNNING

    def loaded(self) -> None:
        """It has been run, and is about to be judged."""
        self._map[0] = _JUDGING

    def end(self) -> None:
        """It has been run and judged."""
        self._map[0] = _IDLE

    def close(self) -> None:
        """No input is under way any more."""
        self._map[0] = _IDLE
        self._map.close()

    def __enter__(self) -> "LastInput":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def executions_of(out: Path, worker: int) -> int:
    """Inputs that the process of a worker had run when it wrote last; 0 where it left
    nothing."""
    try:
        with (out / f"worker-{worker}" / NAME).open("rb") as file:
            head = file.read(_AT_BATCH_LENGTH)
    except OSError:
        return 0
    if len(head) < _AT_BATCH_LENGTH:
        return 0
    begun = int.from_bytes(head[_AT_EXECUTIONS:], "little")
    return begun - (head[0] == _RUNNING) if begun else 0


def forget(out: Path, worker: int) -> None:
    """Remove what an earlier process of a worker has left, before another takes its
    place: should that one fail before it gets going, nobody must blame the input
    that was run before.

    Raises:
        OSError: it cannot be removed.
    """
    (out / f"worker-{worker}" / NAME).unlink(missing_ok=True)


def describe_death(
    out: Path, worker: int, returncode: int, *, stalled: bool = False
) -> Finding | None:
    """The finding that a worker's death is.

    Args:
        out: the campaign's folder.
        worker: index of the worker.
        returncode: as :attr:`subprocess.Popen.returncode` has it, negative for
            a signal.
        stalled: the supervisor killed it because nothing was heard of it.

    Returns:
        ``None`` when no input was under way, or the worker ended with a status of
        ours: then the target did not do it.
    """
    if not stalled and returncode in _OWN_FAILURES:
        return None
    folder = out / f"worker-{worker}"
    try:
        data = (folder / NAME).read_bytes()
    except OSError:
        return None
    if len(data) != _SIZE or data[0] not in _WHERE:
        return None
    state = data[0]
    numbers = [
        int.from_bytes(data[at : at + 8], "little")
        for at in (_AT_LENGTH, _AT_EXECUTIONS, _AT_BATCH_LENGTH)
    ]
    length, executions, batch_length = numbers
    try:
        batch = codec.decode(data[_AT_BATCH : _AT_BATCH + batch_length], Batch)
    except codec.DamagedError:
        return None
    stream = data[_AT_STREAM : _AT_STREAM + min(length, STREAM_SIZE_MAX)]
    kind, cause = _cause_of(returncode, stalled)
    frames = _frames_in(folder / STACK_NAME)
    place = frames[-1].rpartition(":")[0] if frames else ""
    execution = Execution(
        kind, Depth.NOTHING, escape=Escape(cause, f"the process ended {_WHERE[state]}", frames)
    )
    where = f" at {place}" if place else ""
    return Finding(
        target=batch.target,
        input=Input(stream),
        violation=Violation(
            _ORACLES[kind],
            f"{cause} ended the process {_WHERE[state]}{where}",
            _EXPECTED[state],
            " < ".join((cause, *reversed(frames))),
            f"{cause}{where}" if kind is ExitKind.CRASHED else f"process ended{where}",
        ),
        execution=execution,
        seed=batch.seed,
        worker=worker,
        executions=executions,
        load_timeout_s=batch.load_timeout_s,
    )


_ORACLES: Final = {
    ExitKind.CRASHED: "clean-error",
    ExitKind.OUT_OF_MEMORY: "clean-error",
    ExitKind.TIMED_OUT: "no-hang",
}
"""Which promise each kind of death breaks; names of :data:`loadfuzz.oracles.ALL`."""


def _cause_of(returncode: int, stalled: bool) -> tuple[ExitKind, str]:
    if stalled or returncode == _LIBFUZZER_TIMEOUT:
        return ExitKind.TIMED_OUT, "a hang"
    if returncode == _LIBFUZZER_OUT_OF_MEMORY:
        return ExitKind.OUT_OF_MEMORY, "the memory limit"
    if returncode < 0:
        try:
            return ExitKind.CRASHED, signal.Signals(-returncode).name
        except ValueError:
            return ExitKind.CRASHED, f"signal {-returncode}"
    if returncode == _LIBFUZZER_CRASH:
        return ExitKind.CRASHED, "a deadly signal"
    return ExitKind.CRASHED, f"exit status {returncode}"


def _frames_in(path: Path) -> tuple[str, ...]:
    """Frames that :mod:`faulthandler` wrote, innermost last; ours are left out."""
    try:
        text = path.read_text(errors="replace")[:_STACK_CHARS_MAX]
    except OSError:
        return ()
    frames: list[str] = []
    for line in _first_stack(text.splitlines()):
        # File "/a/b.py", line 12 in name
        where, comma, rest = line.strip().removeprefix('File "').partition('", line ')
        number, found, name = rest.partition(" in ")
        if not comma or not found:
            continue
        frames.append(f"{os.path.basename(where)}:{name}:{number}")
        if name in _GUARDS:
            frames.pop()
            break
    return tuple(reversed(frames[:_FRAMES_MAX]))


_GUARDS: Final = frozenset({"guarded_load", "guarded_call"})
"""Functions of ours that call the target's; see :mod:`loadfuzz.executors.guard`."""


def _first_stack(lines: Iterable[str]) -> Iterable[str]:
    inside = False
    for line in lines:
        if "most recent call first" in line:
            if inside:
                return
            inside = True
        elif inside:
            if not line.startswith("  File"):
                return
            yield line
