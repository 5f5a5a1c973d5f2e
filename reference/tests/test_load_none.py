"""A whole real stream, byte for byte, and what happens to edits of it.

The stream is what QEMU 7.2.22 wrote for ``-M none -S -nodefaults``.  The
machine is built here from three descriptions, so that nothing but the loader
is under test.
"""

from collections.abc import Callable
from dataclasses import dataclass
from errno import EINVAL, EIO, ENOTSUP

import pytest

from savevm import SEED, STRICT, LoadError, Profile
from savevm.board import none_machine
from savevm.load import load_from_bytes
from savevm.machine import Machine
from savevm.qemufile import QEMUFileReader, QEMUFileWriter
from savevm.registry import SaveVMHandlers
from savevm.save import save_to_bytes
from savevm.testing import PlainDevice, full_section, part_section, plug, plug_handlers
from savevm.trace import TraceLog
from savevm.vmstate import VMStateDescription, fields

VMDESC = (
    b'{"page_size": 4096, "devices": [{"name": "timer", "instance_id": 0, "vmsd_name": "timer", '
    b'"version": 2, "fields": [{"name": "cpu_ticks_offset", "type": "int64", "size": 8}, '
    b'{"name": "unused", "type": "unused_buffer", "size": 8}, '
    b'{"name": "cpu_clock_offset", "type": "int64", "size": 8}]}, '
    b'{"name": "globalstate", "instance_id": 0, "vmsd_name": "globalstate", "version": 1, '
    b'"fields": [{"name": "size", "type": "uint32", "size": 4}, '
    b'{"name": "runstate", "type": "buffer", "size": 100}]}]}'
)
WIRE = (
    bytes.fromhex(
        "5145564d0000000307000000046e6f6e6501000000020372616d0000000000000004000000000000000400000000"
        "000000107e00000002030000000200000000000000107e0000000204000000000574696d65720000000000000002"
        "0000000000000000000000000000000000000000000000007e0000000004000000040b676c6f62616c7374617465"
        "00000000000000010000000a7072656c61756e6368"
    )
    + bytes(91)
    + bytes.fromhex("7e000000040006000001e6")
    + VMDESC
)
EOF_AT = WIRE.index(b"\x06\x00\x00\x01\xe6") - 1
TIMER_AT, TIMER_SIZE = WIRE.index(b"\x04\0\0\0\0\x05timer"), 48
GLOBALSTATE_AT, GLOBALSTATE_SIZE = WIRE.index(b"\x04\0\0\0\x04\x0bglobalstate"), 134

TIMER = VMStateDescription(
    "timer",
    2,
    1,
    fields=(
        fields.int64("cpu_ticks_offset"),
        fields.unused(8),
        fields.int64("cpu_clock_offset", 2),
    ),
)


def check_runstate(state: PlainDevice, version_id: int) -> int:
    del version_id
    text = bytes(vars(state)["runstate"]).partition(b"\0")[0]
    if text != b"prelaunch":
        raise LoadError("unknown run state", qemu=f"invalid parameter value: {text.decode()}")
    return 0


GLOBALSTATE = VMStateDescription(
    "globalstate",
    1,
    1,
    fields=(fields.uint32("size"), fields.buffer("runstate", 100)),
    post_load=check_runstate,
)


def load_ram(f: QEMUFileReader, _opaque: object, _version_id: int) -> int:
    # A machine without RAM: an empty block list, and ends of sections.
    for _ in range(2):
        item = f.get_be64()
        if item == 0x10:
            return 0
        if item != 0x04:
            return -EINVAL
    return -EINVAL


def put_items(*items: int) -> Callable[[QEMUFileWriter, object], int]:
    def put(f: QEMUFileWriter, _opaque: object) -> int:
        for item in items:
            f.put_be64(item)
        return 0

    return put


def machine(profile: Profile = STRICT) -> Machine:
    board = Machine("none", profile=profile)
    ram = SaveVMHandlers(
        save_live_setup=put_items(4, 0x10),
        save_live_complete=put_items(0x10),
        load_state=load_ram,
    )
    plug(board, TIMER, PlainDevice(cpu_ticks_offset=0, cpu_clock_offset=0))
    board.savevm.global_section_id = 2  # other registrations, gone by now
    plug_handlers(board, "ram", ram, PlainDevice(), version_id=4)
    board.savevm.global_section_id = 4
    runstate = bytearray(b"prelaunch".ljust(100, b"\0"))
    plug(board, GLOBALSTATE, PlainDevice(size=10, runstate=runstate))
    return board


# -- the stream as it is --------------------------------------------------------------------


@pytest.mark.parametrize("profile", [STRICT, SEED], ids=["strict", "seed"])
def test_the_stream_loads_whatever_the_profile(profile: Profile) -> None:
    board = machine(profile)
    load_from_bytes(board, WIRE)
    assert board.synchronized_post_init == 1


def test_the_machine_saves_the_very_same_bytes() -> None:
    assert len(WIRE) == 747
    assert save_to_bytes(machine()) == WIRE


def test_the_reference_none_machine_loads_it_and_writes_it_again() -> None:
    board = none_machine()
    load_from_bytes(board, WIRE)
    saved = save_to_bytes(board)
    # savevm asks for one round at least; a migration without RAM has none.
    round_without_pages = part_section(2, b"\0\0\0\0\0\0\0\x10")
    assert saved.count(round_without_pages) == 1
    assert saved.replace(round_without_pages, b"") == WIRE


def test_the_load_is_traced_as_qemu_traces_it() -> None:
    log = TraceLog()
    load_from_bytes(machine(), WIRE, trace=log)
    sections = [str(e) for e in log.events if e.name.startswith("qemu_loadvm_state_section")]
    assert sections == [
        "qemu_loadvm_state_section 1",
        "qemu_loadvm_state_section_startfull 2(ram) 0 4",
        "qemu_loadvm_state_section 3",
        "qemu_loadvm_state_section_partend 2",
        "qemu_loadvm_state_section 4",
        "qemu_loadvm_state_section_startfull 0(timer) 0 2",
        "qemu_loadvm_state_section 4",
        "qemu_loadvm_state_section_startfull 4(globalstate) 0 1",
    ]


@pytest.mark.parametrize("profile", [STRICT, SEED], ids=["strict", "seed"])
def test_truncation_at_every_offset_is_refused(profile: Profile) -> None:
    board = machine(profile)
    before = board.digest()
    for end in range(len(WIRE)):
        synchronized = board.synchronized_post_init
        if end == EOF_AT + 1 or (profile is SEED and end > EOF_AT):
            # Without its description the stream is whole; the seed does not
            # look at how much of it there is.
            load_from_bytes(board, WIRE[:end])
            continue
        with pytest.raises(LoadError) as caught:
            load_from_bytes(board, WIRE[:end])
        assert caught.value.errno in (EIO, EINVAL, ENOTSUP)
        if profile is STRICT:
            assert caught.value.errno == EIO
            assert caught.value.offset is not None
            assert caught.value.offset <= end
            assert board.synchronized_post_init == synchronized
            assert board.digest() == before


# -- edits, and the verdicts of QEMU 7.2.22 -----------------------------------------------------


def replaced(old: bytes, new: bytes, count: int = 1) -> bytes:
    assert WIRE.count(old) >= count
    return WIRE.replace(old, new, count)


def spliced(at: int, size: int, new: bytes) -> bytes:
    return WIRE[:at] + new + WIRE[at + size :]


TIMER_SECTION = WIRE[TIMER_AT : TIMER_AT + TIMER_SIZE]
TIMER_PAYLOAD = bytes(24)
OK = None


@dataclass(frozen=True)
class Edit:
    """An edited stream, QEMU's verdict and ours.

    Attributes:
        qemu: what QEMU 7.2.22 was measured to say; ``None`` for success.
        strict: what we say; ``None`` for success.
        why: where the two differ, the reason.
    """

    name: str
    wire: bytes
    qemu: str | None
    strict: str | None
    why: str = ""


EDITS = [
    Edit("T1 none", WIRE, OK, OK),
    Edit(
        "T3b config name", replaced(b"\0\0\0\x04none", b"\0\0\0\x05nonex"),
        "Machine type received is 'nonex' and local is 'none'",
        "configuration: expected machine type 'none', read 'nonex'",
    ),
    Edit("T8 no description after EOF", WIRE[: EOF_AT + 1], OK, OK),
    Edit(
        "T11b T10 ends without EOF", WIRE[:EOF_AT], "-EIO",
        "needed 1 bytes for section type, 0 available",
    ),
    Edit(
        "T10b cut inside globalstate", WIRE[: GLOBALSTATE_AT + 60],
        "Failed to load globalstate:runstate",
        "globalstate: runstate: needed 100 bytes for field",
    ),
    Edit(
        "T6 timer twice", spliced(TIMER_AT, 0, TIMER_SECTION), OK,
        "timer: the device comes twice",
        "no save sends a device twice; the second would undo the first",
    ),
    Edit(
        "T7 PART for a described device",
        spliced(TIMER_AT + TIMER_SIZE, 0, b"\x02\0\0\0\0" + TIMER_PAYLOAD + b"\x7e\0\0\0\0"), OK,
        "timer: section id 0x0 does not come in parts",
        "only live handlers save parts; loading one reloads a whole device",
    ),
    Edit(
        "T7b START instead of FULL", spliced(TIMER_AT, 1, b"\x01"), OK,
        "timer: a START section for a device that never saves one",
        "a described device is saved in a FULL section",
    ),
    Edit(
        "T13 footer id differs",
        spliced(TIMER_AT + TIMER_SIZE - 4, 4, b"\0\0\0\x09"),
        "Mismatched section id in footer",
        "timer: footer: expected section id 0x0, read 0x9",
    ),
    Edit(
        "T14 section id of another source",
        spliced(
            TIMER_AT, TIMER_SIZE, full_section(0x63, "timer", TIMER_PAYLOAD, version_id=2)
        ), OK, OK,
    ),
    Edit(
        "T15 unknown name", replaced(b"\x05timer", b"\x05timex"),
        "Unknown savevm section or instance",
        "timex: no device 'timex' instance 0 in this machine",
    ),
    Edit(
        "T16 empty name", replaced(b"\x05timer", b"\0timer"),
        "Unable to read ID string for section 0", "section 0x0: the name of the section is empty",
    ),
    Edit(
        "T17 newer version",
        spliced(TIMER_AT, TIMER_SIZE, full_section(0, "timer", TIMER_PAYLOAD, version_id=3)),
        "unsupported version 3 for 'timer' v2",
        "timer: version: expected version 2 or older, read 3",
    ),
    Edit(
        "T18 older version",
        spliced(TIMER_AT, TIMER_SIZE, full_section(0, "timer", TIMER_PAYLOAD, version_id=0)),
        "incoming version_id 0 is too old", "timer: version 0 is too old",
    ),
    Edit(
        "T19 runstate without its NUL", replaced(b"prelaunch\0", b"prelaunchX"),
        "invalid parameter value: prelaunchX", "globalstate: unknown run state",
    ),
    Edit("T19b size 0", replaced(b"\0\0\0\x0aprelaunch", b"\0\0\0\0prelaunch"), OK, OK),
    Edit("T19c size 101", replaced(b"\0\0\0\x0aprelaunch", b"\0\0\0\x65prelaunch"), OK, OK),
    Edit(
        "T20 unknown section type", spliced(TIMER_AT, 1, b"\x09"),
        "Unknown savevm section type 9", "unknown section type 0x9",
    ),
    Edit("T21 junk behind the description", WIRE + b"\xff" * 100, OK, OK),
    Edit(
        "T22 description of 4 GiB", replaced(b"\x06\0\0\x01\xe6", b"\x06\xff\xff\xff\xff"), OK,
        "vmdesc: a description of 4294967295 bytes",
        "what is announced must be there; QEMU reads zeros a million times",
    ),
]  # fmt: skip


@pytest.mark.parametrize("edit", EDITS, ids=lambda edit: edit.name)
def test_the_strict_verdict_is_qemus_or_differs_for_a_reason(edit: Edit) -> None:
    board = machine()
    before = board.digest()
    assert bool(edit.why) is ((edit.qemu is OK) is not (edit.strict is OK))
    if edit.strict is OK:
        load_from_bytes(board, edit.wire)
        assert board.synchronized_post_init == 1
        return
    with pytest.raises(LoadError) as caught:
        load_from_bytes(board, edit.wire)
    assert str(caught.value).startswith(edit.strict)
    assert board.digest() == before
    assert board.synchronized_post_init == 0
    if edit.qemu not in (OK, "-EIO", "Failed to load globalstate:runstate"):
        assert edit.qemu in caught.value.qemu


SEED_DIFFERS = {"T14 section id of another source"}
"""The seed compares the footer with its own id: refused where 7.2 accepts."""


@pytest.mark.parametrize("edit", EDITS, ids=lambda edit: edit.name)
def test_the_seeds_verdict_is_qemus_but_for_its_footer(edit: Edit) -> None:
    board = machine(SEED)
    if edit.qemu is OK and edit.name not in SEED_DIFFERS:
        load_from_bytes(board, edit.wire)
        assert board.synchronized_post_init == 1
    else:
        with pytest.raises(LoadError):
            load_from_bytes(board, edit.wire)


def test_the_footer_error_reads_as_it_should() -> None:
    at = GLOBALSTATE_AT + GLOBALSTATE_SIZE - 4
    with pytest.raises(LoadError) as caught:
        load_from_bytes(machine(), WIRE[:at] + b"\0\0\0\x09" + WIRE[at + 4 :])
    error = caught.value
    assert str(error) == (
        f"globalstate: footer: expected section id 0x4, read 0x9 (offset {at:#x})"
    )
    assert (error.errno, error.expected, error.actual) == (EINVAL, 4, 9)
    assert error.qemu == ("Mismatched section id in footer for globalstate - read 0x9 expected 0x4")
