"""A journal device: every kind of field that no other device has a use for.

It keeps rows of cells, records, notes and pages that the guest appends to.
What its fields are there for is their kind: counts of each width, arrays and
buffers that are allocated on load (whose only bound is a check: B03, B07, B35),
pointers, padding of variable length (B36), values that must be equal.
"""

from collections.abc import Callable
from typing import Any, Final

from savevm.devices.base import (
    U8,
    U16,
    U32,
    Fault,
    SimDevice,
    device_vmsd,
    first_fault,
    outside,
    unlike,
)
from savevm.errors import LoadError
from savevm.qemufile import QEMUFileReader, QEMUFileWriter
from savevm.recording import Role
from savevm.state import State
from savevm.vmstate import fields, fieldtypes
from savevm.vmstate.description import Opaque, VMStateDescription, VMStateField, VMStateInfo

LAYOUT: Final = -7
SERIAL_NUMBER: Final = -0x1_0000_0001
COLUMNS: Final = 4
ROWS_MAX: Final = 6
NOTES_MAX: Final = 12
RECORDS_MAX: Final = 5
PAGE_BYTES: Final = 8
PAGES_MAX: Final = 4
TITLE_BYTES: Final = 18
TITLE_START: Final = 2
PADDING_MAX: Final = 64
SLOTS: Final = 6
NAME_BYTES_MAX: Final = 32


def _get_byte_array(
    f: QEMUFileReader, _current: Any, _size: int, _field: VMStateField, _opaque: Opaque
) -> bytearray:
    at = f.tell()
    length = f.get_be32(Role.COUNT)
    # QEMU 1d9688c074 takes any length; nothing on this device is longer.
    if length > NAME_BYTES_MAX:
        raise LoadError(
            f"byte array of {length} bytes, at most {NAME_BYTES_MAX} are read",
            offset=at,
            expected=NAME_BYTES_MAX,
            actual=length,
        )
    return bytearray(f.get_buffer(length, Role.FIELD))


def _put_byte_array(
    f: QEMUFileWriter, value: bytearray, _size: int, _field: VMStateField, _opaque: Opaque
) -> None:
    f.put_be32(len(value))
    f.put_buffer(bytes(value))


BYTE_ARRAY: Final = VMStateInfo("GByteArray", _get_byte_array, _put_byte_array)

vmstate_record: Final = VMStateDescription(
    "kinds/record",
    1,
    1,
    fields=(fields.int16("key"), fields.uint64("value")),
)
vmstate_kinds: Final = device_vmsd(
    "kinds",
    (
        fields.int32_equal("layout"),
        fields.int64_equal("serial_number"),
        fields.int32("rows"),
        fields.varray("cells", fieldtypes.UINT16, "rows", "int32", multiply=COLUMNS),
        fields.uint8("small_notes_count"),
        fields.varray("small_notes", fieldtypes.UINT8, "small_notes_count", "uint8"),
        fields.uint16("notes_count"),
        fields.uint32("wide_notes_count"),
        fields.int32("records_count"),
        fields.int32("pages_count"),
        fields.int32("stamp_size"),
        fields.int32("title_size"),
        fields.int32("padding"),
        fields.validate("counts fit", lambda s, _v: s.check_counts() is None),
        fields.varray("notes", fieldtypes.INT16, "notes_count", "uint16", alloc=True),
        fields.varray("wide_notes", fieldtypes.INT64, "wide_notes_count", alloc=True),
        fields.struct_varray(
            "records", vmstate_record, "records_count", "int32", new=lambda: Record()
        ),
        fields.vbuffer("pages", "pages_count", multiply=PAGE_BYTES, alloc=True),
        fields.vbuffer("stamp", "stamp_size", alloc=True),
        fields.vbuffer("title", "title_size", start=TITLE_START),
        fields.unused_vbuffer("padding"),
        fields.struct("first", vmstate_record, pointer=True),
        fields.struct("last", vmstate_record, pointer=True, new=lambda: Record()),
        fields.array_of_pointers("slots", vmstate_record, SLOTS, new=lambda: Record()),
        fields.pointer("cursor", fieldtypes.UINT32),
        fields.custom("label", BYTE_ARRAY),
    ),
)


class Record(State):
    """A key and a value."""

    def __init__(self, key: int = 0, value: int = 0) -> None:
        super().__init__()
        self.key = key
        self.value = value


def counts_fault(s: "Kinds") -> Fault | None:
    """Every count is within what this device ever has."""
    return first_fault(
        (
            outside("rows", s.rows, 0, ROWS_MAX),
            outside("small_notes_count", s.small_notes_count, 0, NOTES_MAX),
            outside("notes_count", s.notes_count, 0, NOTES_MAX),
            outside("wide_notes_count", s.wide_notes_count, 0, NOTES_MAX),
            outside("records_count", s.records_count, 0, RECORDS_MAX),
            outside("pages_count", s.pages_count, 0, PAGES_MAX),
            outside("stamp_size", s.stamp_size, 0, PAGE_BYTES),
            outside("title_size", s.title_size, 0, TITLE_BYTES - TITLE_START),
            outside("padding", s.padding, 0, PADDING_MAX),
        )
    )


def lengths_fault(s: "Kinds") -> Fault | None:
    """What was allocated is as long as its count says."""
    return first_fault(
        (
            unlike("notes", len(s.notes), s.notes_count),
            unlike("wide_notes", len(s.wide_notes), s.wide_notes_count),
            unlike("records", len(s.records), s.records_count),
            unlike("pages", len(s.pages), s.pages_count * PAGE_BYTES),
            unlike("stamp", len(s.stamp), s.stamp_size),
        )
    )


def cursor_fault(s: "Kinds") -> Fault | None:
    """The cursor is a slot."""
    return outside("cursor", s.cursor, 0, SLOTS - 1)


def label_fault(s: "Kinds") -> Fault | None:
    """The label is no longer than it may be."""
    return outside("label", len(s.label), 0, NAME_BYTES_MAX)


def total_fault(s: "Kinds") -> Fault | None:
    """``total`` follows from the notes."""
    return unlike("total", s.total, sum(s.notes))


class Kinds(SimDevice):
    """State of the journal.

    Attributes:
        layout, serial_number: must be equal on both sides; both negative.
        rows, cells: ``rows * 4`` cells (``MULTIPLY_ELEMENTS``).
        small_notes, notes, wide_notes: by counts of 8, 16 and 32 bits.
        records, pages, stamp: allocated by their counts.
        title: bytes 2 to 18 of a buffer whose first two never travel.
        padding: unused bytes that travel; a number that only costs time.
        first: a record that exists on both sides; last: one made on load.
        slots: records or nothing, made on load (``AUTO_ALLOC``).
        cursor: a number behind a pointer, index into ``slots`` (B02).
        label: bytes with their length before them.
        total: sum of the notes, derived, never on the wire (B17).
    """

    name = "kinds"
    vmsd = vmstate_kinds
    invariants = (counts_fault, lengths_fault, cursor_fault, label_fault, total_fault)

    def __init__(self) -> None:
        super().__init__()
        self.layout = LAYOUT
        self.serial_number = SERIAL_NUMBER
        self.first = Record()

    def reset(self) -> None:
        self.rows = 0
        self.cells = [0] * (ROWS_MAX * COLUMNS)
        self.small_notes_count = 0
        self.small_notes = [0] * NOTES_MAX
        self.notes_count = self.wide_notes_count = 0
        self.notes: list[int] = []
        self.wide_notes: list[int] = []
        self.records_count = 0
        self.records: list[Record] = []
        self.pages_count = self.stamp_size = 0
        self.pages = bytearray()
        self.stamp = bytearray()
        self.title_size = 0
        self.title = bytearray(TITLE_BYTES)
        self.padding = 0
        self.first.key = self.first.value = 0
        self.last = Record()
        self.slots: list[Record | None] = [None] * SLOTS
        self.cursor = 0
        self.label = bytearray()
        self.total = 0

    # -- what a load checks ------------------------------------------------------------

    def check_counts(self) -> Fault | None:
        """B03, B04, B06, B07, B35, B36: before anything is made."""
        return counts_fault(self)

    def check_cursor(self) -> Fault | None:
        """B02: an index that the next step uses."""
        return cursor_fault(self)

    def load_checks(self) -> tuple[Callable[[], Fault | None], ...]:
        return (self.check_counts, self.check_cursor)

    def derive(self, version_id: int) -> None:
        self.total = sum(self.notes)

    # -- running -----------------------------------------------------------------------

    def append(self, value: int) -> None:
        """The guest writes: one part of the journal after the other grows, and
        begins again when it is full."""
        part = (
            self.append_row,
            self.append_notes,
            self.append_record,
            self.append_page,
            self.append_title,
            self.append_slot,
        )
        part[value % len(part)](value >> 3)

    def append_row(self, value: int) -> None:
        """Four more cells."""
        if self.rows == ROWS_MAX:
            self.rows, self.cells = 0, [0] * (ROWS_MAX * COLUMNS)
        for column in range(COLUMNS):
            self.cells[self.rows * COLUMNS + column] = value >> column & U16
        self.rows += 1

    def append_notes(self, value: int) -> None:
        """A note of each width."""
        if self.notes_count == NOTES_MAX:
            self.notes, self.notes_count, self.total = [], 0, 0
        if self.wide_notes_count == NOTES_MAX:
            self.wide_notes, self.wide_notes_count = [], 0
        if self.small_notes_count == NOTES_MAX:
            self.small_notes, self.small_notes_count = [0] * NOTES_MAX, 0
        note = (value & U16) - 0x8000
        self.notes.append(note)
        self.notes_count += 1
        self.total += note
        self.wide_notes.append(note << 40)
        self.wide_notes_count += 1
        self.small_notes[self.small_notes_count] = value & U8
        self.small_notes_count += 1

    def append_record(self, value: int) -> None:
        """A record; the pointers follow."""
        if self.records_count == RECORDS_MAX:
            self.records, self.records_count = [], 0
        record = Record((value & U16) - 0x8000, value & U32)
        self.records.append(record)
        self.records_count += 1
        self.first.key, self.first.value = self.records[0].key, self.records[0].value
        self.last = Record(record.key, record.value)

    def append_page(self, value: int) -> None:
        """Eight more bytes, and a stamp."""
        if self.pages_count == PAGES_MAX:
            self.pages, self.pages_count = bytearray(), 0
        self.pages += bytes((value & U8,)) * PAGE_BYTES
        self.pages_count += 1
        self.stamp_size = value % (PAGE_BYTES + 1)
        self.stamp = bytearray(range(self.stamp_size))

    def append_title(self, value: int) -> None:
        """A title, a label, and some padding."""
        self.title_size = value % (TITLE_BYTES - TITLE_START + 1)
        self.title = bytearray(TITLE_BYTES)
        for index in range(self.title_size):
            self.title[TITLE_START + index] = value + index & U8
        self.label = bytearray(value + index & U8 for index in range(value % NAME_BYTES_MAX))
        self.padding = value % (PADDING_MAX + 1)

    def append_slot(self, value: int) -> None:
        """Fill or empty the slot under the cursor."""
        self.slots[self.cursor] = Record(value & 0x7FFF, value & U32) if value & 3 else None

    def step(self) -> None:
        # The cursor goes on, over a slot that it looks at.
        record = self.slots[self.cursor]
        if record is not None:
            record.value = record.value + 1 & 0xFFFF_FFFF_FFFF_FFFF
        self.cursor = (self.cursor + 1) % SLOTS
