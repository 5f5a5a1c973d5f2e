"""invariants: after an accepted load the machine is possible, and its guest runs.

Sees: a state that a device says cannot be; a guest step that raises or does not end;
a state that is impossible some steps later, cannot be saved, or kills the loader when
it is loaded again.  Cannot see: a wrong state that is a possible one, and what only
happens after more steps.
Proved by the planted bugs ``virtio-queue-sel``, ``intc-count-after-array``,
``disk-sector-overflow``, ``rtc-index-off-by-one``, ``disk-transfer-relation``,
``sdcard-mode-bound``, ``intc-wide-masks``, ``intc-priority-trusted``,
``sdcard-positive-refusal``, ``cpu-exception-error-lost`` and ``fpu-format-unknown``.
"""

from typing import Final

from loadfuzz.abc import Cost, Oracle, Trial
from loadfuzz.execution import ExitKind
from loadfuzz.executors.guard import SubjectError
from loadfuzz.findings import Violation
from loadfuzz.inputs import WHOLE
from loadfuzz.oracles.clean_error import place_of

NAME: Final = "invariants"
STEPS: Final = 64
"""Guest steps after a load: once round the simulated guest's program, so that every
device is used."""
_EXPECTED: Final = "a possible state, whose guest runs, and which saves and loads again"


def quick(trial: Trial) -> Violation | None:
    """An alarm when the loaded state is impossible."""
    if trial.execution.kind is not ExitKind.ACCEPTED:
        return None
    return _impossible(trial.faults(), "an accepted state is impossible")


def judge(trial: Trial) -> Violation | None:
    """The same, and an alarm when the guest does not run on from it."""
    if trial.execution.kind is not ExitKind.ACCEPTED:
        return None
    violation = quick(trial)
    if violation is not None:
        return violation
    try:
        run = trial.guest_run(STEPS)
    except SubjectError as error:
        where = f"{error.escape.type_name} at {place_of(error.escape)}"
        return Violation(
            NAME, f"{error.doing} after the load: {where}", _EXPECTED,
            f"{error.escape.type_name}: {error.escape.message}", f"steps/{where}",
        )  # fmt: skip
    violation = _impossible(run.faults_ran, f"after {STEPS} guest steps the state is impossible")
    if violation is not None:
        return violation
    outcome = trial.repeat(run.saved, WHOLE)
    if outcome.kind in (ExitKind.ACCEPTED, ExitKind.REJECTED):
        return None  # a refusal is no-false-reject's
    return Violation(
        NAME, f"what was saved after {STEPS} guest steps is {outcome.kind} when loaded", _EXPECTED,
        outcome.text, f"reload/{outcome.text.partition(':')[0]}",
    )  # fmt: skip


def _impossible(faults: tuple[str, ...], title: str) -> Violation | None:
    if not faults:
        return None
    return Violation(NAME, title, _EXPECTED, "; ".join(faults[:4]), place_of_fault(faults[0]))


def place_of_fault(fault: str) -> str:
    """``device/field`` of a fault.

    >>> place_of_fault("nic: tx.head: expected 0 to 7, read 9")
    'nic/tx.head'
    """
    device, _, rest = fault.partition(": ")
    field, _, _ = rest.partition(": ")
    return f"{device}/{field}" if field else device


INVARIANTS: Final = Oracle(
    NAME, judge, Cost.DEAR, "after an accepted load the state is possible and the guest runs", quick
)
