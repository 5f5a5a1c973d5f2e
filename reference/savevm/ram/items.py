"""What a RAM section is made of: items, each opened by one big-endian word.

The word is ``offset | flags``: offsets are page aligned, so the bits below the
page size are free for flags.  Exactly one kind is legal at a time, alone or
with :attr:`RAMFlag.CONTINUE`.  Source: QEMU ``migration/ram.c``, where the
flags are called ``RAM_SAVE_FLAG_*``.
"""

from dataclasses import dataclass
from enum import IntEnum
from typing import Final


class RAMFlag(IntEnum):
    """The low bits of an item's first word."""

    FULL = 0x01
    """A whole block at once; gone since 2009."""
    ZERO = 0x02
    """A page of one byte repeated, always zero (``COMPRESS`` at the seed)."""
    MEM_SIZE = 0x04
    """The block list; the offset is the sum of all lengths."""
    PAGE = 0x08
    """A page in full."""
    EOS = 0x10
    """End of this section's items."""
    CONTINUE = 0x20
    """Modifier: in the block that was named last, no name follows."""
    XBZRLE = 0x40
    """A page as its difference from what the destination has."""
    HOOK = 0x80
    """A message of the RDMA transport."""
    COMPRESS_PAGE = 0x100
    """A page through zlib, from 2015 to 2024."""
    MULTIFD_FLUSH = 0x200
    """The channels of multifd synchronise here; nothing follows."""


PAGE_KINDS: Final = frozenset({RAMFlag.ZERO, RAMFlag.PAGE, RAMFlag.XBZRLE, RAMFlag.COMPRESS_PAGE})
"""Kinds that are about one page of one block."""

ENCODING_FLAG_XBZRLE: Final = 0x01
"""The byte that opens an XBZRLE page's data."""

PAGE_SIZE_MIN: Final = 0x400
"""Least target page: the bits below it must hold every flag."""
PAGE_SIZE_MAX: Final = 0x10000
"""Largest target page of any QEMU target (64 KiB, ``TARGET_PAGE_BITS`` 16)."""

RAM_SAVE_VERSION: Final = 4
"""Version of the "ram" section that is written and the only one read."""


@dataclass(frozen=True, slots=True)
class RAMItem:
    """One item as a recording load understood it.

    Attributes:
        flags: the low bits of its first word, :attr:`RAMFlag.CONTINUE` included.
        block: name of the block, ``""`` for an item that is about none.
        address: offset in the block in bytes; the total for a block list.
    """

    flags: int
    block: str
    address: int


@dataclass(frozen=True, slots=True)
class RAMListEntry:
    """One block as the block list names it.

    Attributes:
        idstr: its name.
        length: its used length in bytes.
    """

    idstr: str
    length: int


def kind_name(flags: int) -> str:
    """What reports call an item with these flags.

    >>> kind_name(0x28), kind_name(0x18)
    ('page', 'flags 0x18')
    """
    kind = flags & ~RAMFlag.CONTINUE
    try:
        return RAMFlag(kind).name.lower().replace("_", " ")
    except ValueError:
        return f"flags {kind:#x}"
