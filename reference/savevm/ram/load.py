"""Loading RAM: the items of one section, up to EOS (``ram_load``).

Theory of operation.  One :class:`RAMLoader` serves one section; START, PART and
END are alike.  Runs of regular items are taken by :mod:`savevm.ram.runs`; all
others come here one by one.  A fault that leaves no doubt where the next item
begins is *complained* about: that ends a plain load, while a recording one
skips the item's effect and reads on.  Any other fault is raised.

Source: ``ram_load`` of QEMU ``migration/ram.c`` (at the seed in
``arch_init.c``); texts of later QEMUs where the seed has none.
"""

from typing import TYPE_CHECKING, Final

from savevm.errors import LoadError
from savevm.qemufile import QEMUFileReader
from savevm.ram.context import LoadContext
from savevm.ram.items import PAGE_KINDS, RAM_SAVE_VERSION, RAMFlag, RAMItem, kind_name
from savevm.ram.load_list import BlockListLoader
from savevm.ram.load_page import PageLoader
from savevm.ram.report import RunReport
from savevm.ram.runs import RunReader
from savevm.recording import NodeKind, Role
from savevm.vmstate.description import Opaque

if TYPE_CHECKING:
    from savevm.ram.state import RAMState

_WORD_SIZE: Final = 8


def ram_load(f: QEMUFileReader, opaque: Opaque, version_id: int) -> int:
    """Load one section of RAM.

    Args:
        f: the stream, behind the section's header.
        opaque: the machine's :class:`~savevm.ram.state.RAMState`.
        version_id: version in the section's header; 4 is the only one.

    Returns:
        0.

    Raises:
        LoadError: the section is refused.
    """
    ram: RAMState = opaque
    ram.loader(f, ram).load(version_id)
    return 0


class RAMLoader(BlockListLoader, PageLoader):
    """Loads one section.

    Args:
        f: the stream; its profile decides the manners of this load.
        ram: what is loaded into.
    """

    def __init__(self, f: QEMUFileReader, ram: "RAMState") -> None:
        ram.incoming.begin_section(f, staged=ram.staged)
        self._f = f
        super().__init__(LoadContext(f, ram))
        self._report = None if f.recorder is None else RunReport(f.recorder, ram.page_size)
        # A trace of every field hears every page, in order: then pages are taken so too.
        # One that keeps to sections hears the pages that are not part of a regular run.
        runs = ram.decode_runs and not f.trace_fields
        self._runs = self.run_reader(ram) if runs else None

    def run_reader(self, ram: "RAMState") -> RunReader:
        """What takes regular items many at a time."""
        return RunReader(self._f, ram, self._report)

    def load(self, version_id: int) -> None:
        """Load the items up to EOS.

        Raises:
            LoadError: see :func:`ram_load`.
        """
        f, context = self._f, self.context
        ret = 0
        try:
            if version_id != RAM_SAVE_VERSION:
                raise LoadError(
                    f"expected version {RAM_SAVE_VERSION}, read {version_id}",
                    offset=f.tell(),
                    path=("version",),
                    expected=RAM_SAVE_VERSION,
                    actual=version_id,
                )
            self._load_items()
        except LoadError as error:
            ret = -error.errno
            # A fault of the stream itself does not know what it was read for.
            if not error.path:
                error.path = context.path
            raise
        finally:
            if f.trace is not None:
                f.trace("ram_load_complete", ret, context.incoming.sections)

    def _load_items(self) -> None:
        f = self._f
        kind = -1
        # Ends with the stream at the latest: every item takes eight bytes of it.
        while kind != RAMFlag.EOS:
            self.context.at(())
            if self._runs is not None:
                self.take_runs(self._runs)
            kind = self._load_item()
            if f.get_error():
                raise LoadError(
                    "the stream ended inside a section of RAM",
                    errno=-f.get_error(),
                    offset=f.tell(),
                )

    def take_runs(self, runs: RunReader) -> None:
        try:
            runs.read()
        finally:
            if self._report is not None:
                self._report.flush()

    def _load_item(self) -> int:
        """Load one item; return its kind."""
        f, recorder = self._f, self._f.recorder
        start = f.tell()
        if recorder is None:
            return self._load_behind(f.get_be64(Role.RAM_HEADER), start)
        word = int.from_bytes(f.peek_buffer(_WORD_SIZE).ljust(_WORD_SIZE, b"\0"), "big")
        flags = word & (self.context.page_size - 1)
        is_page = flags & ~RAMFlag.CONTINUE in PAGE_KINDS
        name = f"page {word - flags:#x}" if is_page else kind_name(flags)
        recorder.enter(NodeKind.RAM_ITEM, name, start, kind_name(flags))
        try:
            kind = self._load_behind(f.get_be64(Role.RAM_HEADER), start)
            if not is_page:
                recorder.value(RAMItem(flags, "", word - flags))
            return kind
        finally:
            recorder.leave(f.tell())

    def _load_behind(self, word: int, start: int) -> int:
        """Load what follows an item's word; return the item's kind."""
        context = self.context
        flags = word & (context.page_size - 1)
        address = word - flags
        kind = flags & ~RAMFlag.CONTINUE
        if kind in PAGE_KINDS:
            self.load_page(flags, address, start)
        elif kind == RAMFlag.MEM_SIZE:
            self.load_block_list(address, start)
            context.note(flags, "", 0)
        elif kind == RAMFlag.MULTIFD_FLUSH:
            context.note(flags, "", 0)
        elif kind != RAMFlag.EOS:
            what = "need an RDMA transport" if kind & RAMFlag.HOOK else "mean no item"
            raise LoadError(
                f"flags {flags:#x} {what}",
                offset=start,
                actual=flags,
                qemu=f"Unknown combination of migration flags: {flags:#x}",
            )
        return kind
