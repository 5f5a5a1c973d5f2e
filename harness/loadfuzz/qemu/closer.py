"""A closer look at a load that was accepted: does the guest run, and can it be saved again?

Nearly all damage that a stream does is loaded without complaint and shows only when the
guest runs on it, or when the machine is saved.
"""

import asyncio
from typing import Final

from loadfuzz.qemu.asking import Ask
from loadfuzz.qemu.instance import AGAIN
from loadfuzz.qemu.monitor import Reply, encode, encode_hmp

RUNNING: Final = "running the guest"
STOPPING: Final = "stopping the guest"
RESETTING: Final = "resetting the machine"
SAVING: Final = "saving again"
LOADING: Final = "loading again"
DELETING: Final = "deleting what was saved"

NOT_RUN: Final = "guest not run"
"""Event of a look that leaves that out."""

_STATUS: Final = encode("query-status")
_NEEDS_RESET: Final = frozenset({"shutdown", "internal-error", "guest-panicked", "io-error"})
"""States in which a guest may not go on before a reset (``runstate_needs_reset`` in
softmmu/runstate.c), and one in which its disk had an error."""
_TEXT_MAX: Final = 200
"""Characters of QEMU's words in an event."""


async def look_closer(ask: Ask, guest_run_s: float | None) -> list[str]:
    """Let the guest run for a while, then save, load and delete the machine's state.

    Args:
        ask: speaks to a QEMU that has just accepted a stream.
        guest_run_s: wall seconds that the guest runs, ``None`` for not at all.

    Returns:
        Events: what QEMU refused to do.

    Raises:
        loadfuzz.qemu.asking.FailedError: it died or hangs.
    """
    events: list[str] = []
    if guest_run_s is not None:
        events += await _run_guest(ask, guest_run_s)
    status = (await ask([_STATUS], STOPPING))[0]
    if status_of(status) in _NEEDS_RESET:
        events.append(f"guest {status_of(status)}")
    for command, doing in (("savevm", SAVING), ("loadvm", LOADING)):
        answer = (await ask([encode_hmp(f"{command} {AGAIN}"), _STATUS], doing))[0]
        if _refuses(answer):
            events.append(f"reload refused: {_short(answer)}")
            break
    # What savevm left halfway is deleted too; "no such snapshot" is no news.
    await ask([encode_hmp(f"delvm {AGAIN}"), _STATUS], DELETING)
    if status_of(status) in _NEEDS_RESET:
        await ask([encode("system_reset"), _STATUS], RESETTING)
    return events


async def _run_guest(ask: Ask, guest_run_s: float) -> list[str]:
    started = (await ask([encode("cont")], RUNNING))[0]
    if started.error:
        return [f"run refused: {_short(started)}"]
    await asyncio.sleep(guest_run_s)
    await ask([encode("stop")], RUNNING)
    return []


def status_of(reply: Reply) -> str:
    """The run state in an answer to ``query-status``, "" if it is none."""
    match reply.value:
        case {"status": str(status)}:
            return status
        case _:
            return ""


def _refuses(reply: Reply) -> bool:
    return bool(reply.error) or any(line.startswith("Error") for line in reply.text.splitlines())


def _short(reply: Reply) -> str:
    lines = [line.strip() for line in reply.text.splitlines() if line.strip()]
    return " / ".join(lines[-2:])[:_TEXT_MAX]
