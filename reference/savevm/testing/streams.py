"""Streams put together by hand, right or wrong as the test wants them.

Nothing here looks at a machine: a test that made its streams with the code it
tests would agree with any mistake of it.
"""

from savevm.constants import (
    QEMU_VM_COMMAND,
    QEMU_VM_CONFIGURATION,
    QEMU_VM_EOF,
    QEMU_VM_FILE_MAGIC,
    QEMU_VM_FILE_VERSION,
    QEMU_VM_SECTION_END,
    QEMU_VM_SECTION_FOOTER,
    QEMU_VM_SECTION_FULL,
    QEMU_VM_SECTION_PART,
    QEMU_VM_SECTION_START,
    QEMU_VM_VMDESCRIPTION,
    UINT32_MAX,
)

_SAME = -1


def be16(value: int) -> bytes:
    """Two bytes, big-endian."""
    return (value & 0xFFFF).to_bytes(2, "big")


def be32(value: int) -> bytes:
    """Four bytes, big-endian."""
    return (value & UINT32_MAX).to_bytes(4, "big")


def counted(text: str) -> bytes:
    """A length byte and the text."""
    data = text.encode("latin-1")
    return bytes([len(data)]) + data


def header(magic: int = QEMU_VM_FILE_MAGIC, version: int = QEMU_VM_FILE_VERSION) -> bytes:
    """What opens a stream."""
    return be32(magic) + be32(version)


def configuration(name: str, behind: bytes = b"") -> bytes:
    """A configuration section; ``behind`` are its subsections."""
    return bytes([QEMU_VM_CONFIGURATION]) + be32(len(name)) + name.encode("latin-1") + behind


def footer(section_id: int) -> bytes:
    """What closes a section."""
    return bytes([QEMU_VM_SECTION_FOOTER]) + be32(section_id)


def start_section(
    section_id: int,
    idstr: str,
    payload: bytes = b"",
    *,
    instance_id: int = 0,
    version_id: int = 1,
    footer_id: int | None = _SAME,
    section_type: int = QEMU_VM_SECTION_START,
) -> bytes:
    """A START section with its footer.

    Args:
        footer_id: id in the footer if not the section's own; ``None`` for no
            footer.
    """
    if footer_id == _SAME:
        footer_id = section_id
    return b"".join(
        (
            bytes([section_type]),
            be32(section_id),
            counted(idstr),
            be32(instance_id),
            be32(version_id),
            payload,
            b"" if footer_id is None else footer(footer_id),
        )
    )


def full_section(
    section_id: int,
    idstr: str,
    payload: bytes = b"",
    *,
    instance_id: int = 0,
    version_id: int = 1,
    footer_id: int | None = _SAME,
) -> bytes:
    """A FULL section with its footer."""
    return start_section(
        section_id, idstr, payload, instance_id=instance_id, version_id=version_id,
        footer_id=footer_id, section_type=QEMU_VM_SECTION_FULL,
    )  # fmt: skip


def part_section(
    section_id: int, payload: bytes = b"", *, end: bool = False, footer_id: int | None = _SAME
) -> bytes:
    """A PART or END section with its footer."""
    if footer_id == _SAME:
        footer_id = section_id
    opening = QEMU_VM_SECTION_END if end else QEMU_VM_SECTION_PART
    closing = b"" if footer_id is None else footer(footer_id)
    return bytes([opening]) + be32(section_id) + payload + closing


def command(number: int, payload: bytes = b"", length: int | None = None) -> bytes:
    """A VM_COMMAND; ``length`` is what it claims to have."""
    claimed = len(payload) if length is None else length
    return bytes([QEMU_VM_COMMAND]) + be16(number) + be16(claimed) + payload


def vmdesc(text: bytes = b"{}", size: int | None = None) -> bytes:
    """What follows EOF; ``size`` is what it claims to have."""
    return bytes([QEMU_VM_VMDESCRIPTION]) + be32(len(text) if size is None else size) + text


def stream(*sections: bytes, behind: bytes = b"") -> bytes:
    """Header, sections, EOF and what is behind it."""
    return header() + b"".join(sections) + bytes([QEMU_VM_EOF]) + behind
