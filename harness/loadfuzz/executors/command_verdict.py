"""From how a command ended to what it did with its stream."""

import re
import signal
from typing import Final

from loadfuzz.errors import InfraError, UsageError
from loadfuzz.execution import Depth, Escape, Execution, ExitKind, Refusal
from loadfuzz.executors.attending import Run
from loadfuzz.executors.command_spec import CommandSpec
from loadfuzz.executors.guard import MESSAGE_MAX
from loadfuzz.executors.sanitizers import (
    NO_SHADOW,
    Report,
    assertion_report,
    python_fault,
    python_report,
    sanitizer_report,
    says_out_of_memory,
)

CANNOT_RUN: Final = 126
"""With this and the next one a shell says that it could not run a command at all."""
SHELL_SIGNAL: Final = 128
"""A shell adds the number of the signal that ended a command (POSIX, 2.8.2)."""
SIGNAL_MAX: Final = 64
"""Highest signal; an exit status above is a small negative number, such as ``-EINVAL``."""
UNCAUGHT: Final = 1
"""Exit status of Python when an exception leaves a program."""
HANG: Final = "HangError"
"""The same word as for a loader in our own process."""

_FROM_OUTSIDE: Final = frozenset({signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP})


def verdict_of(spec: CommandSpec, run: Run) -> Execution:
    """What the loader did.

    In this order: we ended it, so it hangs; a sanitizer, a pattern, a signal, a Python
    traceback or an exit status of its own says that it crashed, or ran out of memory; its exit
    status says accepted or refused.  Statuses that the user did not name: 126 and 127 are a
    shell that found no loader, 129 to 192 one whose loader a signal ended, all others refuse,
    or are a crash where ``reject=`` names those that refuse.

    Raises:
        UsageError: the command has a sanitizer that its limit of memory leaves no room for.
        InfraError: it was ended from outside, or could not be run: the program was there when
            the executor was opened, so it is being built anew, or the machine is short of
            something.
    """
    if run.failed:
        raise InfraError(
            f"cannot run {spec.command!r}: {run.failed}; is it a program, is it being built anew, "
            "or does the machine lack memory or processes?"
        )
    if NO_SHADOW in run.stderr:
        raise UsageError(
            f"{spec.command!r} has a sanitizer that needs terabytes of addresses; give the target "
            "memory=0, so that its address space is not limited"
        )
    if run.stopped == "slow":
        raise InfraError(
            "the machine is too busy: a load neither ran nor slept, it stood in line for a "
            "processor, waited for a disk or was stopped; use fewer workers"
        )
    report = sanitizer_report(run.stderr)
    if run.stopped:
        return _hang(run, report)
    ended_by = _signal_of(spec, run)
    if report is None and ended_by in _FROM_OUTSIDE:
        raise InfraError(
            f"the loader was ended by {_name_of(ended_by)} from outside, probably because the "
            "machine ran out of memory; use fewer workers or a lower memory limit (memory=MIB)"
        )
    if ended_by == signal.SIGXCPU:
        return _hang(run, report)
    return _crash(spec, run, report, ended_by) or _answer(spec, run)


def _hang(run: Run, report: Report | None) -> Execution:
    at = report or python_fault(run.stderr)
    said = "slept without end" if run.stopped == "sleep" else f"used {run.cpu_s:.1f} s of CPU time"
    escape = Escape(HANG, said, at.frames if at is not None else ())
    return Execution(ExitKind.TIMED_OUT, Depth.NOTHING, None, escape, run.cpu_s)


def _crash(spec: CommandSpec, run: Run, report: Report | None, ended_by: int) -> Execution | None:
    """The crash, or the exhausted memory, that it says; ``None`` if it says none."""
    text = run.stderr
    failed = assertion_report(text)
    uncaught = _uncaught(spec, run)
    if report is not None:
        if report.kind == "ABRT" and failed is not None:
            report = Report(report.tool, failed.kind, failed.message, report.frames)
        return _died(run, report.escape(), starved=report.out_of_memory)
    for pattern in spec.crash_patterns:
        for line in text.splitlines():
            if re.search(pattern, line):
                # Not the line: it may quote the stream, and each would be another bug.
                frames = (failed or uncaught or _NOTHING).frames
                return _died(run, Escape(f"/{pattern}/", line.strip()[:MESSAGE_MAX], frames))
    if uncaught is not None:
        return _died(run, uncaught.escape(), starved=uncaught.out_of_memory)
    if ended_by:
        said = failed or python_fault(text) or _NOTHING
        message = said.message or _last_line(text) or "it said nothing"
        escape = Escape(_name_of(ended_by), message[:MESSAGE_MAX], said.frames)
        return _died(run, escape, starved=says_out_of_memory(text))
    if run.status in spec.crash:
        frames = (failed or python_report(text) or _NOTHING).frames
        return _died(run, Escape(f"exit status {run.status}", _last_line(text), frames))
    return None


def _answer(spec: CommandSpec, run: Run) -> Execution:
    """Accepted or refused, as the exit status says."""
    status = run.status
    assert status is not None, "a signal was dealt with"
    if status in spec.accept:
        return Execution(ExitKind.ACCEPTED, Depth.ACCEPTED, cpu_s=run.cpu_s)
    if status not in spec.reject:
        if status in (CANNOT_RUN, CANNOT_RUN + 1):
            raise InfraError(
                f"{spec.command!r} exits with {status}, as a shell does that cannot run a command; "
                f"if it is an answer, name it: reject={status}. "
                f"It said: {_last_line(run.stderr) or 'nothing'}"
            )
        if spec.reject:
            # No way to end that the loader's user knows of. To ask would end a campaign.
            return _died(run, Escape(f"exit status {status}", _last_line(run.stderr), ()))
    return Execution(
        ExitKind.REJECTED,
        Depth.NOTHING,
        Refusal(_last_line(run.stderr) or f"exit status {status}", status, None, ()),
        cpu_s=run.cpu_s,
    )


def _signal_of(spec: CommandSpec, run: Run) -> int:
    """The signal that ended it, or ended what a shell ran for it; 0 for none."""
    if run.signal is not None:
        return run.signal
    status = run.status or 0
    if status in (*spec.accept, *spec.reject, *spec.crash):
        return 0
    return status - SHELL_SIGNAL if 0 < status - SHELL_SIGNAL <= SIGNAL_MAX else 0


def _uncaught(spec: CommandSpec, run: Run) -> Report | None:
    """The exception that left a loader in Python, unless it is an answer."""
    if run.status != UNCAUGHT or UNCAUGHT in spec.accept:
        return None
    report = python_report(run.stderr)
    return None if report is None or report.kind in spec.refusals else report


def _died(run: Run, escape: Escape, *, starved: bool = False) -> Execution:
    kind = ExitKind.OUT_OF_MEMORY if starved else ExitKind.CRASHED
    return Execution(kind, Depth.NOTHING, None, escape, run.cpu_s)


def _last_line(text: str) -> str:
    line = next((line for line in reversed(text.splitlines()) if line.strip()), "")
    return line.strip()[:MESSAGE_MAX]


def _name_of(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


_NOTHING: Final = Report("", "", "", ())
