"""How fast streams get into a real QEMU, each way as a ratio inside one run.

All ways are given the same stream, the machine's own, and take turns of a second, so that what
else the machine does falls on all of them alike.  A rate is the median of its turns, a ratio
the median of the ratios within each round of turns.

========== ===============================================================================
bare       the same bytes written over the snapshot and ``loadvm`` sent, nothing else
persistent :class:`~loadfuzz.qemu.loadvm.LoadvmExecutor`; a campaign has spare processes beside
           it, which are for inputs that kill, and looks closely at what is new
fresh      a new process for each stream, started when the one before is gone
incoming   the pool of processes already started with ``-incoming``
========== ===============================================================================
"""

import asyncio
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from statistics import median
from typing import Final

from loadfuzz.abc import Executor
from loadfuzz.bench.results import Figure
from loadfuzz.errors import InfraError
from loadfuzz.execution import ExitKind
from loadfuzz.qemu.incoming_pool import incoming_executor
from loadfuzz.qemu.instance import INPUT, Instance, Plan, place_for
from loadfuzz.qemu.loadvm import loadvm_executor
from loadfuzz.qemu.machine import MachineSpec
from loadfuzz.qemu.monitor import encode_hmp

TURNS: Final = 11
TURN_S: Final = 1.0
"""Seconds of one turn: some hundred loads of the quick ways, some tens of the slow ones."""
LOAD_TIMEOUT_S: Final = 10.0
"""Never to be reached: the stream is a good one."""
READY: Final = 2
GOALS: Final = {"pc": 15.0, "microvm": 25.0}
"""How many times as fast as a fresh process the persistent executor is to be."""
BARE_GOAL: Final = 0.9
INCOMING_GOAL: Final = 2.0

_LOADVM: Final = encode_hmp(f"loadvm {INPUT}")


def measure(profile: str, spec: MachineSpec) -> list[Figure]:
    """Loads per second of a machine, by each way.

    Args:
        profile: its name, for the names of the figures.
        spec: how it is started.

    Raises:
        UsageError, InfraError: it cannot be started, or does not load what it saved.
    """
    return asyncio.run(_measure(profile, spec))


async def _measure(profile: str, spec: MachineSpec) -> list[Figure]:
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="loadfuzz-")))
        persistent = await stack.enter_async_context(
            loadvm_executor(spec, folder, LOAD_TIMEOUT_S, spares=0)
        )
        stream = persistent.clean
        plan = Plan(spec, place_for(folder, 4 * len(stream)), stream, 2 * len(stream))
        bare = Instance.start(plan, plan.starter())
        stack.push_async_callback(bare.end)
        await bare.ready()
        pool = await stack.enter_async_context(
            incoming_executor(spec, folder, LOAD_TIMEOUT_S, ready=READY, copies=True)
        )
        fresh = await stack.enter_async_context(
            incoming_executor(spec, folder, LOAD_TIMEOUT_S, ready=0)
        )

        async def bare_load() -> None:
            bare.image.write(INPUT, stream)
            answer = await bare.monitor.ask([_LOADVM], LOAD_TIMEOUT_S)
            if not answer or answer[0].text:
                raise InfraError("the bare loop's stream was not accepted")

        def load(executor: Executor) -> Callable[[], Awaitable[None]]:
            async def once() -> None:
                execution = await executor.execute(stream)
                if execution.kind is not ExitKind.ACCEPTED:
                    raise InfraError(f"the machine's own stream was {execution.kind}")

            return once

        ways = {
            "bare": bare_load,
            "persistent": load(persistent),
            "fresh": load(fresh),
            "incoming": load(pool),
        }
        rates: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(TURNS):
            for name, once in ways.items():
                rates[name].append(await _rate(once))
    return _figures(profile, rates)


async def _rate(once: Callable[[], Awaitable[None]]) -> float:
    """Loads per second over one turn; the first is not counted."""
    await once()
    count = 0
    start = time.monotonic()
    while (passed := time.monotonic() - start) < TURN_S:
        await once()
        count += 1
    return count / passed


def _figures(profile: str, rates: dict[str, list[float]]) -> list[Figure]:
    def figure(name: str, way: str, baseline: str, goal: float | None, note: str) -> Figure:
        pairs = zip(rates[way], rates[baseline], strict=True)
        return Figure(
            f"{profile}-{name}", median(rates[way]), "loads/s", median(rates[baseline]),
            median(one / other for one, other in pairs), goal, note,
        )  # fmt: skip

    fresh = "a fresh process for each stream"
    bare = "a loop that only writes the bytes and says loadvm"
    return [
        figure("persistent", "persistent", "fresh", GOALS.get(profile), fresh),
        figure("bare", "persistent", "bare", BARE_GOAL, bare),
        figure("incoming", "incoming", "fresh", INCOMING_GOAL, fresh),
    ]
