"""Kinds of command-line values that click does not have."""

import re
from collections.abc import Callable
from typing import Final

import click

from loadfuzz.campaign.settings import TIME_MAX_S

_PART: Final = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|[smhd])")
_SCALES: Final = {"k": 1000, "M": 1_000_000, "G": 1_000_000_000}
_UNITS_S: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}


def duration_s(value: str) -> float:
    """Seconds in a time such as ``90``, ``60s``, ``10m``, ``1h30m``.

    Raises:
        click.BadParameter: it is none, or out of range.
    """
    text = value.strip().lower()
    parts = _PART.findall(text)
    if parts and "".join(number + unit for number, unit in parts) == text:
        seconds = sum(float(number) * _UNITS_S[unit] for number, unit in parts)
    elif re.fullmatch(r"[0-9]+(?:\.[0-9]+)?", text):
        seconds = float(text)
    else:
        raise click.BadParameter(f"{value!r} is no time; write for example 90s, 10m or 1h30m")
    if not 0 < seconds <= TIME_MAX_S:
        raise click.BadParameter(f"{value!r} must be more than 0 and at most 366d")
    return seconds


def number_within(low: int, high: int) -> Callable[[str], int]:
    """Reads a whole number from ``low`` to ``high``, also written ``10k``, ``2M`` or ``1_000``."""

    def number(value: str) -> int:
        text = value.strip().replace("_", "")
        scale = _SCALES.get(text[-1:], 1)
        digits = text[:-1] if scale > 1 else text
        # int() takes only so many digits; nothing that long is in range anyway.
        if not re.fullmatch(r"-?[0-9]{1,30}", digits):
            raise click.BadParameter(f"{value!r} is no whole number")
        result = int(digits) * scale
        if not low <= result <= high:
            raise click.BadParameter(f"{result} is not within {low} to {high}")
        return result

    return number


class ManyValues(click.Command):
    """A command whose option ``--seeds`` takes all values up to the next option,
    so that the shell's ``--seeds streams/*.bin`` does what it looks like."""

    many: Final = "--seeds"

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Repeat the option in front of each of its values, as click wants it."""
        spread: list[str] = []
        inside = False
        for index, item in enumerate(args):
            if item == "--":
                spread += args[index:]
                break
            if item == self.many:
                inside = True
                # Alone at the end it is an error, which click words.
                if index + 1 == len(args) or args[index + 1].startswith("-"):
                    spread.append(item)
            elif item.startswith("-") and item != "-":
                inside = False
                spread.append(item)
            elif inside:
                spread += (self.many, item)
            else:
                spread.append(item)
        return super().parse_args(ctx, spread)
