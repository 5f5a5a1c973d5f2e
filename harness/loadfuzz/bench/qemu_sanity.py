"""Good streams, thousands of times: a loader that is well takes all of them and does not grow.

What a machine saved of itself is loaded into one process again and again, and now and then
looked at closely, as a campaign does it.  Whatever goes wrong here would be a false alarm, a
leak or a process left behind in each campaign.
"""

import asyncio
import os
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from loadfuzz.bench.results import Figure
from loadfuzz.execution import ExitKind
from loadfuzz.qemu.loadvm import loadvm_executor
from loadfuzz.qemu.profiles import profiles
from loadfuzz.qemu.vitals import resident_bytes

PROFILES: Final = ("none", "microvm", "isapc", "pc", "q35")
"""Those that one binary has, that of x86."""
CLOSELY_EVERY: Final = 256
"""One load in so many is looked at closely, as accepted loads of a campaign are."""
LOAD_TIMEOUT_S: Final = 10.0
"""Never to be reached: the stream is a good one."""
QEMU_GROWTH_MIB: Final = 64.0
"""What a QEMU may grow by: code that it translates for the guest fills a buffer of 32 MiB, and
the C library keeps some of what was freed.  A leak of a stream's size in each load is more."""
OWN_GROWTH_MIB: Final = 8.0
"""What our own process may grow by; it keeps nothing of a load."""
_MIB: Final = 1 << 20


@dataclass(slots=True)
class _Run:
    """One machine's loads.

    Attributes:
        refused: loads that were not accepted.
        seconds: wall time of all loads.
        qemu_before, qemu_after: resident bytes of QEMU at a tenth of the loads and at the end.
        own_before, own_after: ours.
        left: processes of ours that were not there before.
        first: how the first load that was not accepted ended, "" if all were.
    """

    refused: int = 0
    seconds: float = 0.0
    qemu_before: int = 0
    qemu_after: int = 0
    own_before: int = 0
    own_after: int = 0
    left: int = 0
    first: str = ""


def measure(loads: int, binary: str | None) -> list[Figure]:
    """Load each profile's own stream so many times.

    Args:
        loads: of each profile, at least 10.
        binary: of QEMU, that of the profile where there is none.

    Raises:
        UsageError, InfraError: a machine cannot be started, or nothing can be said about it.
    """
    figures: list[Figure] = []
    for name in PROFILES:
        before = _children()
        run = asyncio.run(_run(name, loads, binary))
        run.left = len(_children() - before)
        figures += _figures(name, loads, run)
    return figures


async def _run(name: str, loads: int, binary: str | None) -> _Run:
    spec = profiles()[name].spec()
    if binary is not None:
        spec = replace(spec, binary=binary)
    run = _Run()
    with tempfile.TemporaryDirectory(prefix="loadfuzz-") as folder:
        async with loadvm_executor(
            spec, Path(folder), LOAD_TIMEOUT_S, spares=0, loads_max=loads + 1
        ) as executor:
            start_s = time.monotonic()
            for number in range(1, loads + 1):
                closely = number % CLOSELY_EVERY == 0
                found = await executor.execute(executor.clean, closely=closely)
                if found.kind is not ExitKind.ACCEPTED:
                    run.refused += 1
                    run.first = run.first or f"load {number}: {found.kind}"
                fresh = found.kind.ends_process
                if fresh:
                    await executor.renew()
                if fresh or number == max(loads // 10, 1):
                    run.qemu_before = resident_bytes(executor.pid or 0)
                    run.own_before = run.own_before or resident_bytes(os.getpid())
            run.seconds = time.monotonic() - start_s
            run.qemu_after = resident_bytes(executor.pid or 0)
            run.own_after = resident_bytes(os.getpid())
    return run


def _figures(name: str, loads: int, run: _Run) -> list[Figure]:
    accepted = loads - run.refused
    return [
        Figure(
            f"{name}-loads", loads / run.seconds, "loads/s", float(loads), accepted / loads, 1.0,
            f"loads, of which all are to be accepted{f'; {run.first}' if run.first else ''}",
        ),
        Figure(
            f"{name}-refused", float(run.refused), "loads", float(loads), accepted / loads, 1.0,
            "loads; those accepted are the ratio",
        ),
        _growth(f"{name}-qemu-growth", run.qemu_before, run.qemu_after, QEMU_GROWTH_MIB),
        _growth(f"{name}-own-growth", run.own_before, run.own_after, OWN_GROWTH_MIB),
        Figure(
            f"{name}-left", float(run.left), "processes", 0.0, float(not run.left), 1.0,
            "none may be left behind",
        ),
    ]  # fmt: skip


def _growth(name: str, before: int, after: int, allowed_mib: float) -> Figure:
    grown_mib = (after - before) / _MIB
    return Figure(
        name, grown_mib, "MiB", allowed_mib, allowed_mib / max(grown_mib, 1.0), 1.0,
        "what it may grow by from the first tenth of the loads on; a MiB is noise",
    )  # fmt: skip


def _children() -> frozenset[int]:
    """Process ids of our children, the dead that nobody has waited for among them."""
    ours = str(os.getpid())
    found: set[int] = set()
    for entry in os.listdir("/proc"):
        if entry.isdecimal():
            with suppress(OSError, IndexError):
                stat = Path("/proc", entry, "stat").read_text(errors="replace")
                if stat.rpartition(")")[2].split()[1] == ours:
                    found.add(int(entry))
    return frozenset(found)
