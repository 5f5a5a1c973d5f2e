"""The unit of work of a campaign: one target, one engine, one budget.

A batch says everything a worker needs, as plain data that travels between
processes; :class:`BatchResult` is what it comes back with.  Inputs are content
addressed, so a batch that runs twice does no harm.
"""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

LOAD_TIMEOUT_S: Final = 2.0
"""CPU seconds after which a load counts as a hang, where nobody says otherwise: streams
are small, and a good loader takes milliseconds."""

DEAR_SHARE: Final = 512
"""Dear oracles judge one in so many executions, where nobody says otherwise."""


class Engine(StrEnum):
    """What drives the executions."""

    ATHERIS = "atheris"
    """libFuzzer's loop with the coverage of the Python loader as feedback."""
    NATIVE = "native"
    """Our own loop with novelty of trace events and verdicts as feedback."""


@dataclass(frozen=True, slots=True)
class Batch:
    """What one worker is to do.

    Attributes:
        target: name of the target.
        engine: what drives it.
        out: the campaign's folder; seeds are in ``out/corpus``, one file per
            stream named by its digest, and new entries go there too.
        worker: index of the worker, from 0.
        seed: random seed of this batch.
        seconds: wall-clock budget, ``None`` for no limit.
        executions: budget in executions, ``None`` for no limit.
        dear_share: dear oracles judge one in so many executions, beside all
            that show a new event, depth or verdict, and some that were accepted
            in spite of what was done to them.
        load_timeout_s: CPU seconds after which one load counts as a hang.
        operators: factors on weights of mutation operators, in place of the target's choice.
        ignore: signatures that are counted and are no findings.
    """

    target: str
    engine: Engine
    out: str
    worker: int
    seed: int
    seconds: float | None
    executions: int | None
    dear_share: int = DEAR_SHARE
    load_timeout_s: float = LOAD_TIMEOUT_S
    operators: dict[str, int] | None = None
    ignore: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class BatchResult:
    """What a batch came to.

    Attributes:
        executions: done.
        corpus: digests of the entries it added.
        findings: signatures it announced.
        depths, kinds: executions by depth and by exit kind.
        reason: why it ended: ``budget`` or ``stopped``.
        faults: times our own machinery failed on the way; each kind was
            reported as a warning.
    """

    executions: int
    corpus: tuple[str, ...]
    findings: tuple[str, ...]
    depths: dict[str, int] = field(default_factory=dict)
    kinds: dict[str, int] = field(default_factory=dict)
    reason: str = "budget"
    faults: int = 0
