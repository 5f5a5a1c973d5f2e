"""What a failure looks like, so that it can be told whether it is the same one again."""

import re
from dataclasses import dataclass
from typing import Final

from loadfuzz.execution import AFTERWARDS, Execution, ExitKind
from loadfuzz.oracles.clean_error import place_of

_NUMBERS: Final = re.compile(r"0x[0-9a-fA-F]+|\d+")
SILENCE: Final = "it said nothing"
"""Message of a program that died without a word."""
WORDS_MAX: Final = 160
"""Characters of a message that count: an abort line, not the dump behind it."""


@dataclass(frozen=True, slots=True)
class Symptom:
    """How a loader failed.

    Attributes:
        kind: how the execution ended.
        type_name: signal or error, ``""`` for a refusal.
        place: ``file.c:function`` where the loader said so, else what it said without
            its numbers, else ``""``: then only what was loaded tells failures apart.
        doing: what it was told to do after the load (:data:`loadfuzz.execution.AFTERWARDS`).
    """

    kind: ExitKind
    type_name: str
    place: str
    doing: str = ""

    @property
    def telling(self) -> bool:
        """Whether it says by itself which failure it is."""
        return bool(self.place)


def symptom_of(execution: Execution) -> Symptom:
    """The symptom that an execution shows."""
    escape, refusal = execution.escape, execution.refusal
    if escape is None:
        # Without its beginning, the device: what one does, all of its kind do.
        words = refusal.text if refusal is not None else ""
        device, _, rest = words.partition(": ")
        return Symptom(execution.kind, "", _words(rest or device))
    doing, _, said = escape.message.partition(": ")
    if doing not in AFTERWARDS:
        doing, said = "", escape.message
    if execution.kind is ExitKind.TIMED_OUT:
        # Where a loop happened to be is chance; that it does not end is what counts.
        return Symptom(execution.kind, escape.type_name, "", doing)
    place = place_of(escape) if escape.frames else _words("" if said == SILENCE else said)
    return Symptom(execution.kind, escape.type_name, place, doing)


def _words(text: str) -> str:
    return _NUMBERS.sub("#", text)[:WORDS_MAX].strip()
