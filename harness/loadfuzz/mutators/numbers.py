"""Which number to try next: edges of widths and neighbours of what is there."""

from typing import Final

from loadfuzz.rng import Rng

_SMALL: Final = (0, 1, 2, 3, 4, 7, 8, 15, 16, 31, 32, 33, 63, 64, 65, 127, 128, 255, 256)


def edges(size: int) -> tuple[int, ...]:
    """Numbers of ``size`` bytes where checks go wrong: ends of the unsigned and
    signed ranges, powers of two and their neighbours."""
    top = (1 << (8 * size)) - 1
    sign = 1 << (8 * size - 1)
    found = [*_SMALL, top, top - 1, sign, sign - 1, sign + 1, top ^ 0xFF]
    found += [1 << shift for shift in range(4, 8 * size, 4)]
    return tuple(value & top for value in found)


EDGES: Final = {size: edges(size) for size in (1, 2, 4, 8)}


def extremes(size: int) -> tuple[int, ...]:
    """The few numbers that most checks forget: none, one, all ones, the ends of the signed
    range."""
    top = (1 << (8 * size)) - 1
    sign = 1 << (8 * size - 1)
    return (0, 1, top, top, sign, sign - 1, top - 1)


EXTREMES: Final = {size: extremes(size) for size in (1, 2, 4, 8)}


def another(old: int, size: int, rng: Rng, hints: tuple[int, ...] = ()) -> int:
    """A number of ``size`` bytes that may be worth trying in place of ``old``.

    Args:
        old: what is there now, as an unsigned number.
        size: 1, 2, 4 or 8 bytes.
        hints: numbers that mean something nearby (a count, a length).
    """
    top = (1 << (8 * size)) - 1
    way = rng.below(8)
    if way <= 1:
        return rng.choice(EXTREMES[size])
    if way == 2:
        return rng.choice(EDGES[size])
    if way <= 4:
        return (old + rng.choice((1, -1, 2, -2, 4, -4, 8, -8, 16, 256, -256))) & top
    if way == 5 and hints:
        return (rng.choice(hints) + rng.below(3) - 1) & top
    if way == 6:
        return old ^ (1 << rng.below(8 * size))
    return rng.bits(8 * rng.between(1, size)) & top
