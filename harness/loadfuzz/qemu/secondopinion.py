"""Whether a QEMU that ended without a word had no memory left.

GLib says so before it gives up, but QEMU prints that to the monitor whose command runs
(``qemu_log_func`` in util/error-report.c), and what an HMP command has printed dies with it.
A newer GLib then ends by SIGABRT, as a plain ``abort()`` in a device does.  So the input
is loaded once more, in a fresh process and by a job: a job has no monitor, and whatever is said
goes to where it is heard.  That process gets little memory, since the other one had used some.
"""

import asyncio
import resource
from contextlib import suppress
from typing import Final

from loadfuzz.execution import Depth, Execution, ExitKind
from loadfuzz.qemu.instance import INPUT, Instance
from loadfuzz.qemu.monitor import Reply, encode
from loadfuzz.qemu.process import REAP_DEADLINE_S
from loadfuzz.qemu.verdicts import Death, judge_death
from loadfuzz.qemu.vitals import address_space_bytes

DEADLINE_S: Final = 5.0
"""Wall seconds for that load; it takes milliseconds, and an answer that is not there by then is
none."""
ROOM: Final = 256 << 20
"""Bytes that it may take beside what a fresh process has; a load of a good stream takes some
MiB, and what did not fit in the other process was more."""
_PAUSE_S: Final = 0.01
"""How often to look whether the job has come to its end."""
_NODE: Final = "disk0"
"""As :func:`loadfuzz.qemu.qcow2.blockdev` has it."""
_JOB: Final = "again"
_LOAD: Final = encode("snapshot-load", job_id=_JOB, tag=INPUT, vmstate=_NODE, devices=[_NODE])
_JOBS: Final = encode("query-jobs")
_OVER: Final = frozenset({"concluded", "null"})


def is_silent(execution: Execution) -> bool:
    """Whether a load ended in a way that may mean that there was no memory left."""
    escape = execution.escape
    return (
        execution.kind is ExitKind.CRASHED
        and execution.depth is not Depth.ACCEPTED
        and escape is not None
        and (escape.type_name, escape.message) == ("SIGABRT", "")
    )


async def without_memory(fresh: Instance, stream: bytes) -> Death | None:
    """How a QEMU ends over ``stream`` if it is for want of memory, otherwise ``None``.

    Cancellation leaves a process that is only good for being ended.

    Args:
        fresh: just started, and good for nothing else afterwards.
        stream: the input; whether what was loaded before matters is not asked.

    Raises:
        UsageError, InfraError: it does not start, or was ended from outside.
    """
    await fresh.ready()
    fresh.process.news()
    _tighten(fresh.process.pid)
    fresh.image.write(INPUT, stream)
    loop = asyncio.get_running_loop()
    until = loop.time() + DEADLINE_S
    command = _LOAD
    while (left_s := until - loop.time()) > 0:
        answers = await fresh.monitor.ask([command], left_s)
        if answers is None or (answers and _is_over(answers[0])):
            return None
        if not answers:
            code = await fresh.process.wait(REAP_DEADLINE_S)
            if code is None:
                return None
            death = judge_death(fresh.process.ending(code))
            return death if death.kind is ExitKind.OUT_OF_MEMORY else None
        command = _JOBS
        await asyncio.sleep(_PAUSE_S)
    return None


def _tighten(pid: int) -> None:
    # Where it is not allowed, or the process is gone, the limit stays what it is.
    with suppress(OSError, ValueError):
        soft, hard = resource.prlimit(pid, resource.RLIMIT_AS)
        space = address_space_bytes(pid) + ROOM
        if soft == resource.RLIM_INFINITY or space < soft:
            resource.prlimit(pid, resource.RLIMIT_AS, (space, hard))


def _is_over(reply: Reply) -> bool:
    match reply.value:
        case [{"status": str(status)}, *_]:
            return status in _OVER
        case _:
            return bool(reply.error)
