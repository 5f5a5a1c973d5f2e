"""Violation, signature, finding: from an alarm to something that is kept."""

import re
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Final

from loadfuzz.campaign.batch import LOAD_TIMEOUT_S
from loadfuzz.execution import Execution
from loadfuzz.inputs import Input
from loadfuzz.mutation import Mutation

_NUMBERS: Final = re.compile(r"0x[0-9a-fA-F]+|\d+")


@dataclass(frozen=True, slots=True)
class Violation:
    """An oracle's alarm.

    Attributes:
        oracle: which promise was broken.
        title: one line for people.
        expected: what should have been.
        actual: what was seen.
        path: the field, section or source line that tells this alarm from
            another of the same oracle; numbers in it are ignored.
    """

    oracle: str
    title: str
    expected: str
    actual: str
    path: str = ""

    @property
    def signature(self) -> str:
        """Equal for alarms that are one bug: oracle and place, without numbers."""
        return f"{self.oracle}:{_NUMBERS.sub('#', self.path)}"


def folder_name(signature: str) -> str:
    """A file name for a signature: readable start, unique end."""
    readable = re.sub(r"[^A-Za-z0-9_.-]+", "-", signature).strip("-")[:60]
    return f"{readable}-{sha256(signature.encode()).hexdigest()[:8]}"


@dataclass(frozen=True, slots=True)
class Earlier:
    """Where a stream of :attr:`~loadfuzz.inputs.Input.before` came from.

    Attributes:
        parent_stream: the stream it was made from; ``b""`` when nobody knows, the stream
            itself when it is a good one.
        mutations: what was changed.
    """

    parent_stream: bytes = b""
    mutations: tuple[Mutation, ...] = ()


@dataclass(frozen=True, slots=True)
class Finding:
    """A violation with everything that is needed to see it again.

    Attributes:
        target: name of the target it was found on.
        input: the input itself.
        violation: what the oracle said.
        execution: what the loader did.
        parent: digest of the stream it was mutated from, "" for a seed.
        parent_stream: that stream, for the report.
        mutations: what was changed, in order.
        seed: campaign seed, for the record only.
        worker: index of the worker.
        executions: of that worker when it was found.
        reliability: of (n) re-runs in a fresh executor, (k) did it again.
        load_timeout_s: CPU seconds after which a load counted as a hang.
        earlier: of each stream that has to be loaded before, where it came from.
        fault_words: the faults of the input for people, a line each, where somebody knew
            what is at their places.
        again: the command that shows it where ``loadfuzz replay`` cannot; "" where it can.
    """

    target: str
    input: Input
    violation: Violation
    execution: Execution
    parent: str = ""
    parent_stream: bytes = b""
    mutations: tuple[Mutation, ...] = ()
    seed: int = 0
    worker: int = 0
    executions: int = 0
    reliability: tuple[int, int] = field(default=(0, 0))
    load_timeout_s: float = LOAD_TIMEOUT_S
    earlier: tuple[Earlier, ...] = ()
    fault_words: tuple[str, ...] = ()
    again: str = ""

    @property
    def signature(self) -> str:
        """What findings are told apart by."""
        return self.violation.signature
