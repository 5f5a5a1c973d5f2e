"""Variants of a target that carry options: ``NAME:HEAD,key=value,key=value``.

A target is known by its specification everywhere: in a batch, in the manifest of a
finding, on another machine.  So whatever is needed to start its loader again has to be in
that one line.  What would be taken for a separator is percent-encoded, as in a URL, so any
path and any command survive.
"""

from collections.abc import Iterable
from typing import Final
from urllib.parse import quote, unquote

from loadfuzz.errors import UsageError

SPEC_SIZE_MAX: Final = 16_384
"""Characters of a variant: a long command line, and no file pasted by mistake."""

_READABLE: Final = "/:.-_+ ~*{}()[]'\"!?;<>|&$=\\^"
"""Characters left as they are; not the comma, ``@`` (see :mod:`loadfuzz.fitting`) and ``%``."""


def join(head: str, options: Iterable[tuple[str, str]]) -> str:
    """The variant of ``head`` with options, in the given order.

    >>> join("pc", [("qemu", "/opt/a,b/qemu-system-x86_64"), ("device", "e1000")])
    'pc,qemu=/opt/a%2Cb/qemu-system-x86_64,device=e1000'
    """
    pieces = [quote(head, safe=_READABLE)]
    pieces += [f"{key}={quote(value, safe=_READABLE)}" for key, value in options]
    return ",".join(pieces)


def split(variant: str) -> tuple[str, tuple[tuple[str, str], ...]]:
    """Head and options of a variant; an option may occur several times.

    >>> split("pc,qemu=/opt/a%2Cb/qemu,device=e1000")
    ('pc', (('qemu', '/opt/a,b/qemu'), ('device', 'e1000')))

    Raises:
        UsageError: an option has no value, or it is all too long.
    """
    if len(variant) > SPEC_SIZE_MAX:
        raise UsageError(f"a target's name of {len(variant):,} characters; {SPEC_SIZE_MAX:,} do")
    head, *rest = variant.split(",")
    options: list[tuple[str, str]] = []
    for piece in rest:
        key, equals, value = piece.partition("=")
        if not equals or not key:
            raise UsageError(f"{piece!r} is no option of a target; write NAME:HEAD,key=value,...")
        options.append((key, unquote(value)))
    return unquote(head), tuple(options)
