"""chunking: in whatever pieces a stream arrives, the verdict is the same.

The pieces are derived from the stream alone, so that the same input is judged
the same way every time: one byte at a time over a stretch of it, small prime
sizes, and a single cut.

Sees: another verdict, another error or another state.  Cannot see: cuts it
does not try, and a stream whose load ended in no verdict.
Proved by the planted bug ``peek-fills-once``.
"""

import re
from hashlib import blake2b
from typing import Final

from loadfuzz.abc import Cost, Oracle, Trial
from loadfuzz.execution import ExitKind, Outcome
from loadfuzz.findings import Violation
from loadfuzz.inputs import WHOLE, Delivery
from loadfuzz.oracles.digests import differing

NAME: Final = "chunking"
PIECES_MAX: Final = 1024
"""Pieces of a delivery, more or less: each costs as much as loading a whole
field, so a long stream is cut small over a stretch or here and there only."""
PRIMES: Final = (2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37)
_QUOTED: Final = re.compile("'[^']*'")
VERDICTS: Final = frozenset({ExitKind.ACCEPTED, ExitKind.REJECTED})


def judge(trial: Trial) -> Violation | None:
    """An alarm when another delivery of the stream has another outcome."""
    execution, stream = trial.execution, trial.input.stream
    if execution.kind not in VERDICTS or not stream:
        return None
    text = execution.refusal.text if execution.refusal is not None else ""
    first = Outcome(execution.kind, text, trial.digest_after)
    for delivery in deliveries(stream):
        outcome = trial.repeat(stream, delivery)
        # Pieces may take more memory than a whole; that is nobody's mistake.
        if outcome == first or outcome.kind is ExitKind.OUT_OF_MEMORY:
            continue
        # The trial's subject may have had a past; a fresh one has none.
        whole = trial.repeat(stream, WHOLE)
        if outcome != whole:
            return _alarm(whole, outcome, delivery)
    return None


def deliveries(stream: bytes) -> tuple[Delivery, ...]:
    """The pieces in which ``stream`` is tried."""
    size = len(stream)
    bits = int.from_bytes(blake2b(stream, digest_size=8).digest(), "big")
    bits, at = divmod(bits, size)
    single = min(PIECES_MAX, size - at)
    rest = size - at - single
    primes = []
    for _ in range(3):
        bits, turn = divmod(bits, len(PRIMES))
        primes.append(PRIMES[turn])
    return (
        Delivery(tuple(piece for piece in (at, *(1,) * single, rest) if piece)),
        Delivery(_cycle(primes, size)),
        Delivery((1 + bits % size, size)),
    )


def _cycle(primes: list[int], size: int) -> tuple[int, ...]:
    """Sizes whose repetition cuts a stream at ever new places: the primes, with
    long pieces between them where there would be too many."""
    if size * len(primes) <= PIECES_MAX * sum(primes):
        return tuple(primes)
    long = 2 * size // PIECES_MAX
    return tuple(piece for prime in primes for piece in (prime, long + prime))


def _alarm(whole: Outcome, pieces: Outcome, delivery: Delivery) -> Violation:
    if whole.kind is pieces.kind is ExitKind.ACCEPTED:
        place = f"state/{differing(whole.digest, pieces.digest)[0]}"
    else:
        place = reason_of(pieces.text or whole.text)
    shown = ", ".join(map(str, delivery.chunks[:6]))
    more = ", …" if len(delivery.chunks) > 6 else ""
    return Violation(
        NAME, f"delivered in pieces, the stream is {pieces.kind}; whole, it is {whole.kind}"
        if whole.kind is not pieces.kind else "the outcome depends on how the stream is delivered",
        _words(whole), f"{_words(pieces)}, in pieces of {shown}{more} bytes", place,
    )  # fmt: skip


def reason_of(text: str) -> str:
    """What an error says, without where: a reader that loses bytes does so in
    every device, and it is one bug.

    >>> reason_of("0000:03.0/nic: footer: expected mark 0x7e, read 0x5 (offset 0x2b4)")
    'expected mark 0x7e, read 0x5'
    >>> reason_of("cpu: unknown subsection 'cpu/x' (offset 0x9)")
    'unknown subsection …'
    """
    reason = text.rpartition(" (offset")[0] or text
    return _QUOTED.sub("…", reason.rpartition(": ")[2])


def _words(outcome: Outcome) -> str:
    return f"{outcome.kind}: {outcome.text}" if outcome.text else str(outcome.kind)


CHUNKING: Final = Oracle(
    NAME, judge, Cost.DEAREST, "the outcome does not depend on the pieces in which a stream arrives"
)
