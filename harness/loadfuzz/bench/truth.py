"""Ground truth: which known bugs a target has, and which of them were met.

A target with known bugs implements :class:`KnowsBugs`.  What it knows reaches the
bench on a channel of its own and never a fuzzer: engines, oracles and mutators
see such a target like any other.

A bug is *reached* when the flawed code ran, *triggered* when it ran with what
makes it go wrong, and *detected* when, in an execution that triggered it, the
oracle of its row rang and named the right place.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from loadfuzz.findings import Violation


@dataclass(frozen=True, slots=True)
class BugRow:
    """One known bug: a row of the manifest.

    Attributes:
        name: unique among the target's bugs.
        bug_class: ``B01`` to ``B46``, a class that loaders really had.
        device: section it is in, ``*`` for all.
        field: what of it is not checked or goes wrong.
        trigger: the streams that show it, in a phrase.
        oracle: name of the oracle that should fire.
        evidence: regular expression that the alarm's path must contain.
        mirrors: the CVE or QEMU commit that it is modelled on.
    """

    name: str
    bug_class: str
    device: str
    field: str
    trigger: str
    oracle: str
    evidence: str
    mirrors: str

    def detected_by(self, violation: Violation) -> bool:
        """Whether an alarm names this bug: right oracle, right place."""
        return (
            violation.oracle == self.oracle and re.search(self.evidence, violation.path) is not None
        )


@dataclass(frozen=True, slots=True)
class Met:
    """Names of bugs that were met since somebody asked last."""

    reached: frozenset[str]
    triggered: frozenset[str]


@runtime_checkable
class KnowsBugs(Protocol):
    """A target whose bugs are known: optional."""

    def bug_rows(self) -> Sequence[BugRow]:
        """Every bug that it has."""

    def take_met(self) -> Met:
        """What was met by any subject of this very target object since the last
        call, and forget it."""
