"""Numbers, times and foreign text as people are to see them.

Names and messages may come out of a hostile stream, so what goes to a terminal
passes :func:`printable` first: no escape sequence reaches it.
"""

import re
from math import floor
from typing import Final

_VALUES: Final = re.compile(
    r"(?<!\w)'[^']*'|\"[^\"]*\"|"
    r"\b[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}\b|"  # a UUID
    r"-?0x[0-9a-fA-F]+|\b[0-9a-fA-F]{4,}\b|\b(?=[a-fA-F]*\d)[0-9a-fA-F]+\b|-?\d+"
)
"""What a message quotes: text, a UUID, numbers in decimal and hexadecimal, which printf(3) often
leaves without a prefix.  A word such as "feed" is lost on the way."""


def printable(text: str) -> str:
    """``text`` on one line, with everything that is no printable character escaped."""
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode("ascii")
        for char in text
    )


def without_values(text: str) -> str:
    """A message without what is another each time, ``#`` in its place.

    >>> without_values("version_id 7 of 'ram': fffffc12 != 0x10")
    'version_id # of #: # != #'
    """
    return _VALUES.sub("#", text)


def shorten(text: str, width: int) -> str:
    """The printable ``text`` in at most ``width`` columns, with an ellipsis where cut."""
    text = printable(text)
    return text if len(text) <= width else text[: max(width - 1, 0)] + "…"


def count(number: int, one: str, many: str = "") -> str:
    """``1 finding``, ``12,345 findings``."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def duration(seconds: float) -> str:
    """``0:05``, ``1:02:03``."""
    whole = max(floor(seconds), 0)
    hours, minutes, rest = whole // 3600, whole // 60 % 60, whole % 60
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def brief(seconds: float) -> str:
    """``0.4 ms``, ``12 ms``, ``1.5 s``."""
    if seconds >= 1:
        return f"{seconds:.1f} s"
    return f"{seconds * 1e3:.0f} ms" if seconds >= 0.01 else f"{seconds * 1e3:.1f} ms"


def rate(per_second: float) -> str:
    """``3,210/s``; with a decimal where that says more."""
    return f"{per_second:,.0f}/s" if per_second >= 10 else f"{per_second:.1f}/s"


def percent(part: int, whole: int) -> str:
    """``12.3 %``; never rounded to all or nothing unless it is."""
    if whole <= 0:
        return "-"
    value = 100 * part / whole
    if 0 < part < whole:
        value = min(max(value, 0.1), 99.9)
    return f"{value:.1f} %"
