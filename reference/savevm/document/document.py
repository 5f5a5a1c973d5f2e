"""The Document: a whole stream as a tree, with everything that can be asked of it."""

import os
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence

from savevm.document import edits
from savevm.document.edits import Consistency, Dependent, Edit
from savevm.document.layout import machine_for
from savevm.document.loader import RecordingLoader
from savevm.document.lookup import element_of, page_in_runs
from savevm.document.nodes import Node, SectionNode, Value
from savevm.document.reading import RecordingReader
from savevm.document.recorder import TreeRecorder
from savevm.document.resync import Searcher
from savevm.document.store import FileStore, MemoryStore, Store
from savevm.errors import LoadError
from savevm.machine import Machine
from savevm.qemufile import Buffer
from savevm.recording import NodeKind, Role

MachineFactory = Callable[[], Machine]


class Document:
    """One stream, parsed.  It never changes: edits return new bytes.

    Made by :meth:`parse` or :meth:`parse_file`.

    Attributes:
        root: the tree; its span is the whole stream.
        problems: in stream order, each with an offset: what a strict loader would
            have refused, and notes on what it need not refuse: that the stream
            goes on behind its end, where a loader stops; that it has more
            sections or commands than a Document takes apart (``HANDLERS_MAX``,
            ``COMMANDS_MAX``), the rest of which is opaque.
        problems_dropped: how many more there were than are kept.
        size: bytes of the stream.
    """

    __slots__ = (
        "root", "problems", "problems_dropped", "size", "_store", "_paths", "_leaves", "_starts",
        "_sections",
    )  # fmt: skip

    def __init__(self, store: Store, root: Node, tree: TreeRecorder) -> None:
        self._store = store
        self.size = store.size
        self.root = root
        self.problems: list[LoadError] = sorted(tree.problems, key=_offset_of)
        self.problems_dropped = tree.problems_dropped
        self._paths: dict[str, Node] | None = None
        self._leaves: list[Node] | None = None
        self._starts: list[int] = []
        self._sections: list[SectionNode] | None = None

    # -- making one ------------------------------------------------------------------------

    @classmethod
    def parse(cls, data: Buffer, machine_factory: MachineFactory | None = None) -> "Document":
        """Parse bytes in memory.  Whatever they are, nothing is raised.

        Args:
            data: the stream.
            machine_factory: gives a machine with the devices the stream is
                thought to be from; it may be the same one every time, since it
                is put back as it was.  Without it the layout comes from the
                stream's own vmdesc.
        """
        return _parse(cls, MemoryStore(bytes(data)), machine_factory)

    @classmethod
    def parse_file(
        cls, path: str | os.PathLike[str], machine_factory: MachineFactory | None = None
    ) -> "Document":
        """Parse a file without holding it in memory.

        Values of long leaves are read again when asked for, so the file must
        stay as it is while the Document is in use.

        Raises:
            OSError: the file cannot be read.
        """
        return _parse(cls, FileStore(path), machine_factory)

    def close(self) -> None:
        """Close the file of a Document that has one; it can then no more be asked
        for bytes.  Calling it twice is allowed."""
        self._store.close()

    # -- bytes -----------------------------------------------------------------------------

    def to_bytes(self) -> bytes:
        """The stream, bit for bit, put together from its leaves."""
        return b"".join(self._store.read(leaf.start, leaf.end) for leaf in self.root.leaves())

    def read(self, start: int, end: int) -> bytes:
        """Bytes ``start`` to ``end`` of the stream."""
        return self._store.read(start, end)

    def bytes_of(self, node: Node) -> bytes:
        """The bytes of a node."""
        return self._store.read(node.start, node.end)

    # -- nodes -----------------------------------------------------------------------------

    @property
    def sections(self) -> list[SectionNode]:
        """START, PART, END and FULL sections, in stream order."""
        if self._sections is None:
            self._sections = [node for node in self.root.children if isinstance(node, SectionNode)]
        return self._sections

    @property
    def vmdesc(self) -> Node | None:
        """The description behind EOF, with its type byte and size, if there is one."""
        return next((n for n in self.root.children if n.kind is NodeKind.VMDESC), None)

    @property
    def configuration(self) -> Node | None:
        """The configuration section, if there is one."""
        return next((n for n in self.root.children if n.kind is NodeKind.CONFIGURATION), None)

    def leaves(self, role: Role | None = None) -> Iterator[Node]:
        """Leaves in stream order: all, or those with ``role``."""
        every = self._every_leaf()
        return iter(every) if role is None else (leaf for leaf in every if leaf.role is role)

    def walk(self) -> Iterator[Node]:
        """Every node, in stream order, outer before inner."""
        return self.root.walk()

    def find(self, path: str) -> Node:
        """The node with this path; ``name[5]`` is also an element of an array
        leaf, and ``block/page 0x3000`` an item of a run of RAM pages.

        Raises:
            KeyError: the Document has no such node.
        """
        if self._paths is None:
            self._paths = {}
            for every in self.root.walk():
                if every.parent is not None:
                    self._paths.setdefault(every.path, every)
        node = self._paths.get(path)
        if node is None:
            node = element_of(self._paths, path) or page_in_runs(self.sections, path)
        if node is None:
            raise KeyError(path)
        return node

    def leaf_at(self, offset: int) -> Node:
        """The leaf that covers byte ``offset``.

        Raises:
            IndexError: the stream has no such byte.
        """
        every = self._every_leaf()
        if not 0 <= offset < self.size:
            raise IndexError(f"the stream has no byte {offset:#x}")
        return every[bisect_right(self._starts, offset) - 1]

    def section_at(self, offset: int) -> SectionNode | None:
        """The section that covers byte ``offset``, if one does."""
        return next((s for s in self.sections if s.start <= offset < s.end), None)

    def _every_leaf(self) -> list[Node]:
        if self._leaves is None:
            self._leaves = list(self.root.leaves())
            self._starts = [leaf.start for leaf in self._leaves]
        return self._leaves

    # -- edits: each returns the bytes of the edited stream -----------------------------------

    def edited(
        self,
        changes: Sequence[Edit],
        consistency: Consistency = Consistency.KEEP,
        broken: Dependent | None = None,
    ) -> bytes:
        """Several changes in one go; their offsets are those of this Document.

        Raises:
            ValueError: changes overlap or lie outside the stream.
        """
        return edits.apply(self, edits.consistent(self, changes, consistency, broken))

    def with_value(
        self,
        node: Node,
        value: Value,
        consistency: Consistency = Consistency.REPAIR,
        broken: Dependent | None = None,
    ) -> bytes:
        """Another value in a leaf, encoded as the leaf's type says.

        Integers are cut to the leaf's width.  A string goes where a counted
        string was.

        Raises:
            ValueError: the leaf cannot hold a value of that kind.
        """
        return self.edited([edits.value_edit(self, node, value, consistency)], consistency, broken)

    def with_bytes(
        self,
        node: Node,
        data: bytes,
        consistency: Consistency = Consistency.KEEP,
        broken: Dependent | None = None,
    ) -> bytes:
        """Other bytes, any number of them, instead of the node's."""
        return self.edited([Edit(node.start, node.end, data)], consistency, broken)

    def without(self, node: Node, consistency: Consistency = Consistency.KEEP) -> bytes:
        """The stream without this node."""
        return self.edited([Edit(node.start, node.end, b"")], consistency)

    def inserted(self, offset: int, data: bytes) -> bytes:
        """The stream with ``data`` before byte ``offset``."""
        return self.edited([Edit(offset, offset, data)])

    def duplicated(self, node: Node, offset: int | None = None) -> bytes:
        """A copy of the node at ``offset``, right behind it if ``None``."""
        at = node.end if offset is None else offset
        return self.edited([Edit(at, at, self.bytes_of(node))])

    def moved(self, node: Node, offset: int) -> bytes:
        """The node taken out and put before byte ``offset``.

        Raises:
            ValueError: ``offset`` lies inside the node.
        """
        data = self.bytes_of(node)
        return self.edited([Edit(node.start, node.end, b""), Edit(offset, offset, data)])

    def retyped(
        self,
        section: SectionNode,
        section_type: int,
        consistency: Consistency = Consistency.REPAIR,
    ) -> bytes:
        """Another section type; with REPAIR the header takes that type's shape."""
        return self.edited(edits.retype_edits(section, section_type, consistency))

    def renumbered(
        self,
        section: SectionNode,
        section_id: int,
        consistency: Consistency = Consistency.REPAIR,
        broken: Dependent | None = None,
    ) -> bytes:
        """Another section id; with REPAIR the footer, and the sections that
        continue this one, follow."""
        return self.with_value(section.header(Role.SECTION_ID), section_id, consistency, broken)


def _parse(cls: type[Document], store: Store, factory: MachineFactory | None) -> Document:
    machine, vmdesc_start, expects = machine_for(store, factory)
    tree = TreeRecorder(machine.page_size, lazy=not isinstance(store, MemoryStore))
    searcher = Searcher(store, vmdesc_start)
    reader = RecordingReader(store, tree)
    RecordingLoader(reader, machine, searcher, expects=expects).load()
    return cls(store, tree.finish(store.size), tree)


def _offset_of(error: LoadError) -> int:
    return error.offset or 0
