"""A campaign on a cluster of any size, as a mean-field simulation.

What is simulated.  ``workers`` machines do batches of so many seconds.  The corpus has
*behaviours*, each found by one execution in so many; those of the measured campaign tell how
many executions (:func:`rates_of_growth`).  A batch knows what was known when it began.  What
two batches of one generation find is sent twice and kept once: of streams that claim the
same behaviour only the first is run by the one process that admits.  Each batch costs the
supervisor its packing and unpacking, for which workers wait; for the admission they do not,
so it may fall behind.  Bugs are found like behaviours, each at the rate at which the measured
campaign found it.

Expected values are computed, not samples, so two runs give the same numbers.

What it leaves out: that a larger corpus breeds better (so large clusters look worse than they
are), that new behaviours make further ones reachable (so they look better), and networks.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import exp, inf, log
from typing import Final

DETECTED: Final = 0.5
"""A bug counts as found once it is found with this probability."""
GENERATIONS_MAX: Final = 10_000
"""A simulation ends after so many, whatever is left to be found."""
_NOTHING: Final = 1e-9


@dataclass(frozen=True, slots=True)
class Costs:
    """What was measured.

    Attributes:
        rate: executions per second of one worker.
        start_s: seconds that a batch takes before its first execution.
        batch_s: seconds that it lasts after that.
        pack_s: CPU seconds of the supervisor for one batch.
        admit_s: seconds to run one stream that comes back.
        batch_bytes: of the streams that one batch gets, as they travel.
        stream_bytes: of one stream that comes back, as it travels.
    """

    rate: float
    start_s: float
    batch_s: float
    pack_s: float
    admit_s: float
    batch_bytes: float
    stream_bytes: float


@dataclass(frozen=True, slots=True)
class Outcome:
    """One size of cluster.

    Attributes:
        workers: machines.
        supervisor: share of a core that the supervisor and the admission use.
        bytes_per_s: sent and received.
        duplicates: share of what came back that another batch had sent already.
        idle: share of the workers' time in which they wait for the supervisor.
        behind_s: seconds that the admission is behind at most.
        seconds_half: seconds to find half of all bugs.
        seconds_all: seconds to find each bug, with the probability :data:`DETECTED`;
            infinite where the simulation ended before.
        speed_up: of that, against one worker.
    """

    workers: int
    supervisor: float
    bytes_per_s: float
    duplicates: float
    idle: float
    behind_s: float
    seconds_half: float
    seconds_all: float
    speed_up: float


def rates_of_growth(growth: Sequence[tuple[int, int]], behaviours: int) -> list[float]:
    """How likely each behaviour is in one execution, from how a corpus grew.

    The k-th stream was kept after n executions, so a behaviour of its kind comes about once in
    n; between two points that were measured, and beyond the last, the power law that the
    last half of them follows goes on.

    Args:
        growth: (executions, streams kept by then), both growing.
        behaviours: how many there are to be.
    """
    points = [(n, k) for n, k in growth if n > 0 and k > 0]
    if len(points) < 2:
        raise ValueError("a campaign that kept nothing tells nothing")
    first = points[len(points) // 2]
    last = points[-1]
    if last[1] <= first[1] or last[0] <= first[0]:
        first = points[0]
    power = log(last[0] / first[0]) / log(last[1] / max(first[1], 1)) if last[1] > first[1] else 1.0
    rates = []
    at = 0
    for number in range(1, behaviours + 1):
        while at < len(points) - 1 and points[at][1] < number:
            at += 1
        n, k = points[at]
        executions = n * (number / k) ** power if number > k else n
        rates.append(1.0 / max(executions, 1.0))
    return rates


def simulate(
    workers: int,
    costs: Costs,
    behaviours: Sequence[float],
    bugs: Sequence[float],
    *,
    horizon_s: float,
) -> Outcome:
    """One size of cluster, until all bugs are found or ``horizon_s`` seconds are over.

    Args:
        workers: machines.
        costs: what was measured.
        behaviours, bugs: how likely each is in one execution.
        horizon_s: for this long numbers are added up.
    """
    unknown = [1.0] * len(behaviours)
    missing = [1.0] * len(bugs)
    found_at = [inf] * len(bugs)
    executions = costs.rate * costs.batch_s
    clock = busy = moved = received = fresh = waited = queue = behind = 0.0
    for _ in range(GENERATIONS_MAX):
        came = new = 0.0
        for index, rate in enumerate(behaviours):
            left = unknown[index]
            if left < _NOTHING:
                continue
            one = 1.0 - exp(-rate * executions)
            everyone = 1.0 - exp(-rate * executions * workers)
            came += left * one * workers
            new += left * everyone
            unknown[index] = left * (1.0 - everyone)
        generation_s = costs.start_s + costs.batch_s
        # A worker waits for its next batch to be packed, not for what it sent to be admitted.
        lasted_s = max(generation_s, workers * costs.pack_s)
        waited += (lasted_s - generation_s) * workers
        queue += new * costs.admit_s
        done_s = min(queue, lasted_s)
        queue -= done_s
        behind = max(behind, queue)
        for index, rate in enumerate(bugs):
            if found_at[index] == inf:
                # Findings are sent while the batch goes on.
                together = rate * costs.rate * workers
                needs_s = log(missing[index] / (1.0 - DETECTED)) / together
                if needs_s <= costs.batch_s:
                    found_at[index] = clock + costs.start_s + needs_s
                missing[index] *= exp(-together * costs.batch_s)
        clock += lasted_s
        busy += workers * costs.pack_s + done_s
        moved += workers * costs.batch_bytes + came * costs.stream_bytes
        received += came
        fresh += new
        if clock >= horizon_s and inf not in found_at:
            break
    in_order = sorted(found_at)
    return Outcome(
        workers=workers,
        supervisor=busy / clock,
        bytes_per_s=moved / clock,
        duplicates=1.0 - fresh / received if received else 0.0,
        idle=waited / (clock * workers),
        behind_s=behind,
        seconds_half=in_order[(len(in_order) - 1) // 2],
        seconds_all=in_order[-1],
        speed_up=1.0,
    )
