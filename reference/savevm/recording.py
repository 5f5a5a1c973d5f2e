"""What a recording load reports, so that a Document can be built from it.

The loader and the VMState engine call a :class:`Recorder` when the reader has
one; it is how the one decoder of the format also yields the tree of a stream.
"""

from enum import StrEnum
from typing import Protocol

from savevm.errors import LoadError


class Role(StrEnum):
    """What a span of bytes is for.  Reads name their role; a read without one
    is data of an old-style handler and becomes :attr:`DATA`."""

    MAGIC = "magic"
    VERSION = "version"
    SECTION_TYPE = "section type"
    SECTION_ID = "section id"
    IDSTR = "idstr"
    INSTANCE_ID = "instance id"
    VERSION_ID = "version id"
    FOOTER_MARK = "footer mark"
    FOOTER_ID = "footer section id"
    SUBSECTION_MARK = "subsection mark"
    SUBSECTION_NAME = "subsection name"
    SUBSECTION_VERSION = "subsection version"
    COMMAND = "command"
    COMMAND_LENGTH = "command length"
    COMMAND_DATA = "command data"
    VMDESC_SIZE = "vmdesc size"
    VMDESC = "vmdesc"
    FIELD = "field"
    MARKER = "marker"
    COUNT = "count"
    RAM_HEADER = "ram header"
    RAM_NAME = "ram block name"
    RAM_LENGTH = "ram block length"
    RAM_PAGE = "ram page"
    RAM_FILL = "ram fill byte"
    RAM_XBZRLE_FLAG = "xbzrle flag"
    RAM_XBZRLE_LENGTH = "xbzrle length"
    RAM_XBZRLE_DATA = "xbzrle data"
    DATA = "data"
    OPAQUE = "opaque"
    TRAILER = "trailer"


class NodeKind(StrEnum):
    """What an inner node of a Document stands for."""

    STREAM = "stream"
    HEADER = "header"
    SECTION = "section"
    FOOTER = "footer"
    CONFIGURATION = "configuration"
    COMMAND = "command"
    VMDESC = "vmdesc"
    STRUCT = "struct"
    FIELD = "field"
    ELEMENT = "element"
    SUBSECTION = "subsection"
    RAM_ITEM = "ram item"
    OPAQUE = "opaque"


class Recorder(Protocol):
    """Hears about a load while it happens.  Calls nest properly even when a
    load fails: every ``enter`` is matched by a ``leave``."""

    def enter(self, kind: NodeKind, name: str, start: int, type_name: str = "") -> None:
        """A structure called ``name`` begins at stream offset ``start``.

        Reads at or behind ``start`` that were already reported belong to it:
        a section's name is known only after its header was read.

        Args:
            kind: what the structure is.
            name: its name in the path.
            start: stream offset of its first byte.
            type_name: VMStateInfo name or vmsd name where there is one.
        """

    def leave(self, end: int) -> None:
        """The structure entered last ends before offset ``end``."""

    def read(self, what: str, start: int, end: int, value: int | str | bytes | None) -> None:
        """Bytes ``start`` to ``end`` were consumed as ``what`` (a :class:`Role`)."""

    def array(self, start: int, size: int, values: list[int]) -> None:
        """Integers of ``size`` bytes each were consumed from ``start`` on, all of the field
        entered last."""

    def value(self, value: object) -> None:
        """The structure entered last was understood as ``value``."""

    def ram_run(
        self, flags: int, block: str, address: int, count: int, start: int, end: int
    ) -> None:
        """``count`` RAM items of one kind and consecutive addresses, of equal size."""

    def problem(self, error: LoadError) -> None:
        """The loader would have refused here."""
