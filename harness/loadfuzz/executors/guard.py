"""Runs a target's own code so that nothing it does can hurt us.

Whatever leaves it becomes data: a refusal, an escape, a hang, exhausted
memory.  Only a Ctrl-C that Python itself turned into an exception passes, since
it is meant for us.
"""

import signal
import time
from collections.abc import Callable
from os.path import basename
from types import TracebackType
from typing import Final, TypeAlias, TypeVar

from loadfuzz.abc import Subject, TakesFaults
from loadfuzz.errors import LoadfuzzError, UsageError
from loadfuzz.execution import Escape, ExitKind, Refusal
from loadfuzz.executors.watchdog import HangError, Watchdog
from loadfuzz.inputs import Input
from savevm import LoadError
from savevm.trace import Trace

T = TypeVar("T")

FRAMES_MAX: Final = 6
"""Innermost frames that are kept of an escape: enough to know the place, and a
recursion's thousand frames tell no more."""

MESSAGE_MAX: Final = 300
"""Characters of an exception's text that are kept; it may quote the stream."""

HIDE: Final = "__tracebackhide__"
"""A function with a local variable of this name is no place where something went
wrong, as with pytest: a model of ``memcpy``, say, which many bugs have in common."""

Ended: TypeAlias = tuple[ExitKind, Refusal | None, Escape | None, float]
"""How a load ended: kind, refusal, escape, CPU seconds."""


class SubjectError(LoadfuzzError):
    """A subject failed in something other than a load, such as a save.

    That is the target's fault, not ours: whoever judges makes a violation of it.

    Args:
        doing: what it was asked to do.
        kind: how that ended.
        escape: what left it.
    """

    def __init__(self, doing: str, kind: ExitKind, escape: Escape) -> None:
        super().__init__(f"{doing}: {escape.type_name}: {escape.message}")
        self.doing = doing
        self.kind = kind
        self.escape = escape


def guarded_load(subject: Subject, item: Input, trace: Trace | None, watchdog: Watchdog) -> Ended:
    """Load ``item`` and say how it ended; raises nothing that the target raises.

    Raises:
        UsageError: the input has faults, and the subject cannot be done any to.
    """
    start = time.thread_time()
    try:
        try:
            watchdog.serial += 1
            watchdog.armed = True
            if item.faults:
                _under_faults(subject, item, trace)
            else:
                subject.load(item.stream, item.delivery, trace)
            watchdog.armed = False
        except LoadError as error:
            watchdog.armed = False
            used = time.thread_time() - start
            return ExitKind.REJECTED, Refusal.of(error), None, used
    except UsageError:
        watchdog.armed = False
        raise
    except BaseException as error:
        watchdog.armed = False
        kind, escape = _classify(error)
        return kind, None, escape, time.thread_time() - start
    return ExitKind.ACCEPTED, None, None, time.thread_time() - start


def _under_faults(subject: Subject, item: Input, trace: Trace | None) -> None:
    if not isinstance(subject, TakesFaults):
        raise UsageError(
            f"nothing can go wrong around this loader but its bytes; drop {item.faults} from the "
            "input, or give the target's subject a load_under()"
        )
    subject.load_under(item.stream, item.delivery, item.faults, trace)


def guarded_call(doing: str, call: Callable[[], T], watchdog: Watchdog) -> T:
    """The result of ``call``.

    Raises:
        SubjectError: it raised anything, or did not end.
    """
    try:
        watchdog.serial += 1
        watchdog.armed = True
        result = call()
        watchdog.armed = False
    except BaseException as error:
        watchdog.armed = False
        raise SubjectError(doing, *_classify(error)) from None
    return result


def _classify(error: BaseException) -> tuple[ExitKind, Escape]:
    if isinstance(error, KeyboardInterrupt):
        # Where somebody else handles SIGINT, only the target can have raised this one.
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            raise error
    frames = frames_of(error.__traceback__)
    if isinstance(error, HangError):
        kind = ExitKind.TIMED_OUT
        frames = _looping(error.frames, frames)
    elif isinstance(error, MemoryError):
        kind = ExitKind.OUT_OF_MEMORY
    else:
        kind = ExitKind.CRASHED
    return kind, Escape(type(error).__name__, _message_of(error), frames)


def _looping(stack: tuple[str, ...], raised: tuple[str, ...]) -> tuple[str, ...]:
    """The target's part of what the watchdog saw each time; where it saw nothing
    of the target in common, the place of the interruption."""
    ours = max((at for at, frame in enumerate(stack) if frame.startswith(_OUR_FRAMES)), default=-1)
    return stack[ours + 1 :][-FRAMES_MAX:] or raised


def _message_of(error: BaseException) -> str:
    try:
        return str(error)[:MESSAGE_MAX]
    except Exception:
        return "(its text cannot be had)"


def frames_of(trace: TracebackType | None) -> tuple[str, ...]:
    """``file.py:function:line`` of the innermost frames of a traceback; ours, the
    watchdog's, and those of functions that ask for it left out."""
    frames: list[str] = []
    while trace is not None:
        code = trace.tb_frame.f_code
        if code.co_filename not in _OURS and HIDE not in code.co_varnames:
            frames.append(f"{basename(code.co_filename)}:{code.co_qualname}:{trace.tb_lineno}")
        trace = trace.tb_next
    return tuple(frames[-FRAMES_MAX:])


_OUR_FRAMES: Final = ("guard.py:guarded_load:", "guard.py:guarded_call:")
_OURS: Final = frozenset(
    {guarded_load.__code__.co_filename, Watchdog.__enter__.__code__.co_filename}
)
