"""Numbers of the wire format that more than one module needs.

Sources: QEMU ``include/migration/migration.h`` at the seed commit and
``migration/savevm.h`` later.  Limits that are ours, not QEMU's, say why.
"""

from enum import IntEnum
from typing import Final

QEMU_VM_FILE_MAGIC: Final = 0x5145564D
"""``QEVM``, the first four bytes of every stream."""
QEMU_VM_FILE_VERSION_COMPAT: Final = 2
QEMU_VM_FILE_VERSION: Final = 3

QEMU_VM_EOF: Final = 0x00
QEMU_VM_SECTION_START: Final = 0x01
QEMU_VM_SECTION_PART: Final = 0x02
QEMU_VM_SECTION_END: Final = 0x03
QEMU_VM_SECTION_FULL: Final = 0x04
QEMU_VM_SUBSECTION: Final = 0x05
QEMU_VM_VMDESCRIPTION: Final = 0x06
QEMU_VM_CONFIGURATION: Final = 0x07
QEMU_VM_COMMAND: Final = 0x08
QEMU_VM_SECTION_FOOTER: Final = 0x7E


class SectionType(IntEnum):
    """The byte that opens each part of a stream, with the name reports use."""

    EOF = QEMU_VM_EOF
    START = QEMU_VM_SECTION_START
    PART = QEMU_VM_SECTION_PART
    END = QEMU_VM_SECTION_END
    FULL = QEMU_VM_SECTION_FULL
    SUBSECTION = QEMU_VM_SUBSECTION
    VMDESCRIPTION = QEMU_VM_VMDESCRIPTION
    CONFIGURATION = QEMU_VM_CONFIGURATION
    COMMAND = QEMU_VM_COMMAND
    FOOTER = QEMU_VM_SECTION_FOOTER


TARGET_PAGE_SIZE: Final = 4096
TARGET_PAGE_BITS: Final = 12
IDSTR_MAX: Final = 255
"""Longest idstr: its length travels in one byte (``char idstr[256]``)."""
UINT32_MAX: Final = 0xFFFFFFFF
UINT64_MAX: Final = 0xFFFFFFFFFFFFFFFF

IO_BUF_SIZE: Final = 32768
"""Bytes a QEMUFile holds at once (``IO_BUF_SIZE`` of qemu-file.c)."""

MAX_SECTIONS: Final = 65_536
"""Sections one stream may have.  Real ones have dozens, live migration adds
one PART per round; past this a stream only costs time."""
MAX_VMSTATE_DEPTH: Final = 32
"""Structs and subsections inside each other.  Real descriptions stay below 8;
the bound keeps a description built from a hostile vmdesc off Python's stack."""
MAX_ELEMENTS: Final = 1 << 20
"""Elements that one counted field may claim.  QEMU's largest real VARRAY has
some thousands; the bound is what makes a 2^32 count an error, not a wait."""
MAX_ALLOC: Final = 64 << 20
"""Bytes that one length in a stream may make the loader allocate for a
VMS_ALLOC field.  Memory is taken as bytes really arrive, never on its word."""
MAX_VMDESC: Final = 64 << 20
"""Bytes of vmdesc JSON that are read with an opinion; pc has 40 kB."""
