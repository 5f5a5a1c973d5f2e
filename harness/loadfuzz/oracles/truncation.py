"""truncation: a stream that ends too early is refused.

Of an accepted stream some proper prefixes that end before its EOF byte are loaded:
those that end where a section begins, and some inside sections.  Which ones is derived
from the stream, so that the same input is judged the same way every time.

Sees: a prefix that is accepted.  Cannot see: cuts that it does not try, streams that
were refused, and sources that read as zeros behind their end.
Proved by the planted bug ``eof-at-boundary``.
"""

from hashlib import blake2b
from typing import Final

from loadfuzz.abc import Cost, Oracle, Trial
from loadfuzz.execution import ExitKind
from loadfuzz.findings import Violation
from loadfuzz.inputs import WHOLE
from loadfuzz.oracles.sections import eof_offset, has_package, sections_before_eof
from savevm.document import Document

NAME: Final = "truncation"
BOUNDARIES_MAX: Final = 6
"""Section boundaries that are tried; each costs a load."""
INSIDE_MAX: Final = 4
"""Offsets inside sections that are tried."""


def judge(trial: Trial) -> Violation | None:
    """An alarm for the first prefix that is accepted."""
    if trial.execution.kind is not ExitKind.ACCEPTED:
        return None
    stream, document = trial.input.stream, trial.document()
    for cut, where in cuts(stream, document):
        outcome = trial.repeat(stream[:cut], WHOLE)
        if outcome.kind is ExitKind.ACCEPTED:
            return Violation(
                NAME, f"a stream that ends {where} is accepted",
                f"a refusal: the first {cut} of {len(stream)} bytes have no end",
                "accepted", where.removeprefix("at the "),
            )  # fmt: skip
    return None


def cuts(stream: bytes, document: Document) -> list[tuple[int, str]]:
    """Where ``stream`` is cut, and how to say so."""
    end = eof_offset(document)
    if not end or has_package(document):
        return []
    bits = int.from_bytes(blake2b(stream, digest_size=8).digest(), "big")
    boundaries = sorted({section.start for section in sections_before_eof(document)} | {end})
    chosen: list[tuple[int, str]] = []
    for at in _some(boundaries, BOUNDARIES_MAX, bits):
        chosen.append((at, "at the boundary of a section"))
    for _ in range(INSIDE_MAX):
        bits, offset = divmod(bits, end)
        bits ^= bits << 13 | 0x9E37_79B9
        if offset not in boundaries:
            chosen.append((offset, "inside a section"))
    return [(cut, where) for cut, where in chosen if cut]


def _some(offsets: list[int], count: int, bits: int) -> list[int]:
    """``count`` of them, evenly spread from a place that ``bits`` decide; the last one
    always."""
    if len(offsets) <= count:
        return offsets
    first = bits % len(offsets)
    step = len(offsets) // (count - 1)
    taken = {offsets[(first + turn * step) % len(offsets)] for turn in range(count - 1)}
    return sorted(taken | {offsets[-1]})


TRUNCATION: Final = Oracle(
    NAME, judge, Cost.DEAREST, "no stream that ends before its EOF is accepted"
)
