"""A file that somebody says is a stream: may it be read, and as what machine's."""

import stat
from pathlib import Path
from typing import Final

from loadfuzz.errors import UsageError
from savevm.board import FULL, RAM, machine_with
from savevm.document import Document, Role
from savevm.machine import Machine
from savevm.ram import RAMState

_SPECIAL: Final = (
    (stat.S_ISDIR, "is a folder; name the streams in it"),
    (stat.S_ISFIFO, "is a named pipe; write the stream to a file first"),
    (stat.S_ISSOCK, "is a socket; write the stream to a file first"),
    (stat.S_ISCHR, "is a character device; copy the stream to a file first"),
    (stat.S_ISBLK, "is a block device; copy the stream to a file first"),
)
_TAKEN_FOR_STREAMS: Final = (
    (b"QFI\xfb", "a qcow2 image: snapshots in it are not read, migrate to a file instead"),
    (b"\x1f\x8b", "compressed with gzip: unpack it first"),
    (b"\x28\xb5\x2f\xfd", "compressed with zstd: unpack it first"),
    (b"\xfd7zXZ", "compressed with xz: unpack it first"),
    (b"LibvirtQemudSave", "a libvirt save image: the stream begins behind its header"),
    (b"\x7fELF", "a program or a core dump"),
    (b"{", "JSON, perhaps a vmstate dump"),
)
"""Files that are inspected by mistake now and then, by their first bytes."""
_OPAQUE_BYTES_MAX: Final = 1 << 24
"""Largest stream that is parsed a second time with the reference's own devices;
theirs have some tens of kilobytes beside RAM."""


def check_file(path: Path) -> None:
    """Make sure that ``path`` is a file with something in it that can be read.

    Raises:
        UsageError: it is not; says what to do.
    """
    try:
        # Not opened before it is known to be a file: opening a pipe waits.
        found = path.stat()
        for test, reason in _SPECIAL:
            if test(found.st_mode):
                raise UsageError(f"{path} {reason}")
        with path.open("rb"):
            pass
    except OSError as error:
        raise unreadable(path, error) from error
    except ValueError as error:  # a NUL in the name
        raise UsageError(f"{str(path)!r} is no file name: {error}") from error
    if not found.st_size:
        raise UsageError(f"{path} is empty; was the migration to it finished?")


def unreadable(path: Path, error: OSError) -> UsageError:
    """What to say of a file that the system refuses to give."""
    if isinstance(error, FileNotFoundError):
        return UsageError(f"{path} does not exist")
    if isinstance(error, PermissionError):
        return UsageError(f"{path} may not be read; check its permissions")
    return UsageError(f"{path} cannot be read: {error.strerror or error}")


def parse_stream_file(path: Path) -> Document:
    """The stream in a file, with the layout that its own vmdesc gives; without
    one, with that of the reference's devices if it is from the reference.

    Raises:
        OSError: the file cannot be read.
    """
    document = Document.parse_file(path)
    if document.vmdesc is None and document.size <= _OPAQUE_BYTES_MAX and _is_reference(document):
        return Document.parse_file(path, reference_machine)
    return document


def reference_machine() -> Machine:
    """A machine with every device of the reference, that takes any RAM."""
    machine = machine_with(*(name for name in FULL if name != RAM))
    machine.adopts = True
    RAMState(machine.page_size, adopt=True, store=False).register(machine)
    return machine


def taken_for_stream(document: Document) -> str | None:
    """What a file is that does not begin as a stream, if that is known."""
    head = document.read(0, 16)
    return next((what for magic, what in _TAKEN_FOR_STREAMS if head.startswith(magic)), None)


def _is_reference(document: Document) -> bool:
    configuration = document.configuration
    if configuration is None:
        return False
    name = next((leaf for leaf in configuration.leaves() if leaf.name == "name"), None)
    return (
        name is not None
        and name.role is Role.FIELD
        and document.bytes_of(name).decode("latin-1") == Machine().machine_type
    )
