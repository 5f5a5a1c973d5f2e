"""What the parts of one section's load share: stream, RAM, and the place."""

from typing import TYPE_CHECKING

from savevm.errors import LoadError
from savevm.qemufile import QEMUFileReader
from savevm.ram.items import PAGE_KINDS, RAMFlag
from savevm.recording import Role

if TYPE_CHECKING:
    from savevm.ram.state import RAMState


class LoadContext:
    """One section of RAM being loaded.

    Args:
        f: the stream; its profile decides the manners of this load.
        ram: what is loaded into.

    Attributes:
        path: where in the section the item in hand is: block, page.
    """

    __slots__ = ("f", "ram", "incoming", "page_size", "profile", "path", "_unrecorded")

    def __init__(self, f: QEMUFileReader, ram: "RAMState") -> None:
        self.f = f
        self.ram = ram
        self.incoming = ram.incoming
        self.page_size = ram.page_size
        self.profile = f.profile
        self.path: tuple[str, ...] = ()
        self._unrecorded: tuple[str, ...] = ()

    def at(self, path: tuple[str, ...], unrecorded: tuple[str, ...] = ()) -> None:
        """From now on the place is ``path``.

        Args:
            path: the whole of it.
            unrecorded: what of it is not the name of a structure that a
                recorder has been told to enter: it knows the rest itself.
        """
        self.path = path
        self._unrecorded = unrecorded

    def complain(self, error: LoadError) -> None:
        """A fault that leaves no doubt where the next item begins.

        Raises:
            LoadError: ``error``, with its place, unless the load is recorded.
        """
        error.path = self.path if self.f.recorder is None else self._unrecorded
        self.f.complain(error)

    def read_name(self) -> str:
        """A block's name; empty at the end of a seed's stream."""
        offset = self.f.tell()
        name = self.f.get_counted_string(Role.RAM_NAME) or ""
        if "\0" in name:
            if self.profile.strings_end_at_nul:
                return name.partition("\0")[0]
            self.complain(
                LoadError(f"the name {name!r} has a NUL inside", offset=offset, actual=name)
            )
        return name

    def note(self, flags: int, block: str, first: int) -> None:
        """One item was loaded: remember it if the machine is built from the stream."""
        if self.ram.adopt:
            kind = flags & ~RAMFlag.CONTINUE
            named = kind in PAGE_KINDS and not flags & RAMFlag.CONTINUE
            self.incoming.schedule.note(kind, block, first, 1, named=named)
