"""XBZRLE: a page as runs of unchanged and changed bytes against an old copy.

``(zrun nzrun data)*``: how many bytes stay, how many change, the new bytes.
Run lengths are uleb128 of at most 14 bits.  Unchanged bytes at the end are not
sent.  Encoding and decoding stand side by side so that they cannot drift.
Sources: QEMU ``migration/xbzrle.c`` and ``uleb128_*_small`` of ``util/cutils.c``.
"""

import re
from typing import Final

from savevm.qemufile import Buffer

ULEB128_SMALL_MAX: Final = 0x3FFF
"""Largest number two bytes of seven bits hold; also the largest page, less one,
that XBZRLE can describe."""
DECODE_ERROR: Final = -1
"""What the decoders return for bytes that mean nothing, as in C."""

_CHANGED: Final = re.compile(rb"[^\0]+")


def uleb128_encode_small(number: int) -> bytes:
    """One or two bytes for 0 to 0x3fff.

    Raises:
        ValueError: the number needs more than 14 bits (QEMU asserts).

    >>> uleb128_encode_small(0x7F).hex(), uleb128_encode_small(0x80).hex()
    ('7f', '8001')
    """
    if not 0 <= number <= ULEB128_SMALL_MAX:
        raise ValueError(f"{number:#x} is not within 0..{ULEB128_SMALL_MAX:#x}")
    if number < 0x80:
        return bytes((number,))
    return bytes((number & 0x7F | 0x80, number >> 7))


def uleb128_decode_small(data: Buffer, offset: int = 0) -> tuple[int, int]:
    """Decode one number.

    Returns:
        Bytes consumed (1 or 2) and the number; :data:`DECODE_ERROR` and 0 if
        the number goes on behind the second byte or the data end too early.

    >>> uleb128_decode_small(bytes.fromhex("ff1f")), uleb128_decode_small(b"\\x80\\x80")
    ((2, 4095), (-1, 0))
    """
    if offset >= len(data):
        return DECODE_ERROR, 0
    low = data[offset]
    if not low & 0x80:
        return 1, low
    if offset + 1 >= len(data) or data[offset + 1] & 0x80:
        return DECODE_ERROR, 0
    return 2, low & 0x7F | data[offset + 1] << 7


def xbzrle_encode_buffer(old: Buffer, new: Buffer, limit: int) -> bytes | None:
    """Encode ``new`` as its difference from ``old``.

    Args:
        old: what the destination has; as long as ``new``.
        new: what it should have, at most 0x3fff bytes.
        limit: longest encoding that is worth sending, in bytes.

    Returns:
        The encoding; empty if nothing changed; ``None`` where C returns -1:
        it would not fit ``limit``, send the page instead.

    Raises:
        ValueError: the lengths differ or are too large.
    """
    size = len(new)
    if len(old) != size or size > ULEB128_SMALL_MAX:
        raise ValueError(f"{len(old)} and {size} bytes: both must be the same, at most 0x3fff")
    # One XOR of two big numbers finds every changed byte at C speed.
    changed = int.from_bytes(old, "big") ^ int.from_bytes(new, "big")
    pieces: list[Buffer] = []
    used = done = 0
    for run in _CHANGED.finditer(changed.to_bytes(size, "big")):
        start, end = run.span()
        # C asks for two bytes of room before each run length, needed or not.
        if used + 2 > limit:
            return None
        zrun = uleb128_encode_small(start - done)
        used += len(zrun)
        if used + 2 > limit:
            return None
        nzrun = uleb128_encode_small(end - start)
        used += len(nzrun) + end - start
        if used > limit:
            return None
        pieces += (zrun, nzrun, new[start:end])
        done = end
    if done < size and used + 2 > limit:
        # The unchanged tail is not sent, but C asks for room before it looks.
        return None
    return b"".join(pieces)


def xbzrle_decode_buffer(data: Buffer, page: bytearray) -> int:
    """Apply an encoding to ``page`` in place.

    Args:
        data: the encoding.
        page: the old contents; what was decoded before a fault stays in it.

    Returns:
        Bytes of the page that were covered, or :data:`DECODE_ERROR`.
    """
    at = done = 0
    size, room = len(data), len(page)
    while at < size:
        if size - at < 2:
            return DECODE_ERROR
        taken, zrun = uleb128_decode_small(data, at)
        # Only the first run of unchanged bytes may be empty.
        if taken < 0 or (at and not zrun):
            return DECODE_ERROR
        at += taken
        done += zrun
        if done > room or size - at < 2:
            return DECODE_ERROR
        taken, nzrun = uleb128_decode_small(data, at)
        if taken < 0 or not nzrun:
            return DECODE_ERROR
        at += taken
        if done + nzrun > room or at + nzrun > size:
            return DECODE_ERROR
        page[done : done + nzrun] = data[at : at + nzrun]
        done += nzrun
        at += nzrun
    return done
