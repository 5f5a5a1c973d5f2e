"""Every way a load is refused: errno, offset, path, values, QEMU's words."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from errno import EINVAL, EIO, ENOENT, ENOTSUP, EPERM

import pytest

from savevm import SEED, STRICT, LoadError, Profile, load
from savevm.constants import MAX_SECTIONS, MAX_VMDESC
from savevm.load import Loader, load_from_bytes, qemu_loadvm_state
from savevm.machine import Machine
from savevm.qemufile import QEMUFileReader, SuspendingSource
from savevm.registry import SaveVMHandlers
from savevm.testing import (
    PlainDevice,
    footer,
    full_section,
    header,
    part_section,
    plug,
    plug_handlers,
    start_section,
    stream,
    vmdesc,
)
from savevm.trace import TraceLog
from savevm.vmstate import VMStateDescription, fields

SUB = VMStateDescription("dev/sub", fields=(fields.uint8("s"),), needed=lambda state: True)
DEV = VMStateDescription(
    "dev", 3, 2, fields=(fields.uint8("v"), fields.uint8_equal("k")), subsections=(SUB,)
)


class Live(PlainDevice):
    """A live device that keeps the bytes it is sent, one a section."""

    def __init__(self) -> None:
        super().__init__(got=[])


def load_byte(f: QEMUFileReader, device: Live, version_id: int) -> int:
    del version_id
    byte = f.get_byte("data")
    vars(device)["got"].append(byte)
    return byte - 0x100 if byte > 0xF0 else 0


LIVE = SaveVMHandlers(
    save_live_setup=lambda f, o: 0, save_live_complete=lambda f, o: 0, load_state=load_byte
)
OLD = SaveVMHandlers(save_state=lambda f, o: None, load_state=load_byte)


def machine(profile: Profile = STRICT) -> Machine:
    """ "dev" with id 0, live "ram" with id 1, old-style "old" with id 2."""
    board = Machine("none", profile=profile)
    plug(board, DEV, PlainDevice(v=0, k=5, s=0))
    plug_handlers(board, "ram", LIVE, Live(), version_id=4)
    plug_handlers(board, "old", OLD, Live())
    return board


def got(board: Machine, idstr: str) -> list[int]:
    device = board.devices[f"{idstr}#0"]
    found: list[int] = vars(device)["got"]
    return found


GOOD_DEV = full_section(0, "dev", b"\x07\x05", version_id=3)
START, PART, END = (
    start_section(1, "ram", b"\x01", version_id=4),
    part_section(1, b"\x02"),
    part_section(1, b"\x03", end=True),
)
GOOD = stream(START, PART, END, GOOD_DEV, full_section(2, "old", b"\x04"))


@dataclass(frozen=True)
class Refusal:
    """A stream, and everything its refusal says."""

    name: str
    wire: bytes
    errno: int
    text: str
    offset: int
    path: tuple[str, ...] = ()
    expected: object = None
    actual: object = None
    qemu: str = ""


CASES = [
    Refusal(
        "empty", b"", EIO, "needed 4 bytes for magic, 0 available", 0, expected=4, actual=0
    ),
    Refusal(
        "magic", b"RIFF" + GOOD[4:], EINVAL,
        "expected magic 0x5145564d, read 0x52494646: not a migration stream", 0, ("header",),
        0x5145564D, 0x52494646, "Not a migration stream",
    ),
    Refusal(
        "version 2", header(version=2), ENOTSUP, "expected stream version 3, read 2", 4,
        ("header",), 3, 2, "SaveVM v2 format is obsolete and don't work anymore",
    ),
    Refusal(
        "version 4", header(version=4), ENOTSUP, "expected stream version 3, read 4", 4,
        ("header",), 3, 4, "Unsupported migration stream version",
    ),
    Refusal(
        "section type", stream(b"\x66"), EINVAL, "unknown section type 0x66", 8,
        actual=0x66, qemu="Unknown savevm section type 102",
    ),
    Refusal(
        "no name", stream(full_section(0x10, "")), EINVAL, "the name of the section is empty", 13,
        ("section 0x10",), qemu="Unable to read ID string for section 16",
    ),
    Refusal(
        "cut name", header() + b"\x04\0\0\0\x10\x05ab", EIO,
        "needed 5 bytes for idstr, 2 available", 14, ("section 0x10",), 5, 2,
    ),
    Refusal(
        "NUL in name", stream(full_section(0, "dev\0x")), EINVAL,
        "the name 'dev\\x00x' has a NUL inside", 13, actual="dev\0x",
    ),
    Refusal(
        "cut ids", header() + b"\x04\0\0\0\0\x03dev\0\0\0\0\0", EIO,
        "needed 4 bytes for version id, 1 available", 21, ("dev",), 4, 1,
    ),
    Refusal(
        "unknown device", stream(full_section(0, "nic", instance_id=3)), EINVAL,
        "no device 'nic' instance 3 in this machine", 8, ("nic",), actual=("nic", 3),
        qemu="Unknown savevm section or instance 'nic' 3",
    ),
    Refusal(
        "unknown instance", stream(full_section(0, "dev", instance_id=1)), EINVAL,
        "no device 'dev' instance 1 in this machine", 8, ("dev",), actual=("dev", 1),
        qemu="Unknown savevm section or instance 'dev' 1",
    ),
    Refusal(
        "newer version", stream(full_section(0, "dev", version_id=4)), EINVAL,
        "expected version 3 or older, read 4", 21, ("dev", "version"), 3, 4,
        "savevm: unsupported version 4 for 'dev' v3",
    ),
    Refusal(
        "negative version", stream(full_section(0, "dev", version_id=-1)), EINVAL,
        "expected version 3 or older, read 4294967295", 21, ("dev", "version"), 3, 0xFFFFFFFF,
        "savevm: unsupported version -1 for 'dev' v3",
    ),
    Refusal(
        "older version", stream(full_section(0, "dev", version_id=1)), EINVAL,
        "version 1 is too old, versions 2 to 3 are read", 25, ("dev",), 2, 1,
        "dev: incoming version_id 1 is too old for local minimum version_id 2",
    ),
    Refusal(
        "field", stream(full_section(0, "dev", b"\x07\x06", version_id=3)), EINVAL,
        "expected 0x5, read 0x6", 26, ("dev", "k"), 5, 6, "5 != 6",
    ),
    Refusal(
        "subsection", stream(full_section(0, "dev", b"\x07\x05\x05\x05dev/x", version_id=3)),
        ENOENT, "unknown subsection 'dev/x'", 27, ("dev",), actual="dev/x",
        qemu="VM subsection 'dev/x' in 'dev' does not exist",
    ),
    Refusal(
        "handler", stream(full_section(2, "old", b"\xf2")), 14, "the handler refused with -14", 25,
        ("old",), 0, -14, "error while loading state for instance 0x0 of device 'old'",
    ),
    Refusal(
        "cut handler", header() + full_section(2, "old", b"", footer_id=None), EIO,
        "needed 1 bytes for data, 0 available", 25, ("old",), 1, 0,
    ),
    Refusal(
        "no footer", stream(full_section(2, "old", b"\0", footer_id=None)), EINVAL,
        "expected mark 0x7e, read 0x0", 26, ("old", "footer"), 0x7E, 0,
        "Missing section footer for old",
    ),
    Refusal(
        "other footer", stream(full_section(2, "old", b"\0", footer_id=9)), EINVAL,
        "expected section id 0x2, read 0x9", 27, ("old", "footer"), 2, 9,
        "Mismatched section id in footer for old - read 0x9 expected 0x2",
    ),
    Refusal(
        "cut footer", header() + full_section(2, "old", b"\0", footer_id=None) + b"\x7e\0", EIO,
        "needed 4 bytes for footer section id, 1 available", 27, ("old",), 4, 1,
    ),
    Refusal(
        "PART of nothing", stream(part_section(1, b"\x01")), EINVAL,
        "section id 0x1 was not begun in this stream", 9, ("section 0x1",), actual=1,
        qemu="Unknown savevm section 1",
    ),
    Refusal(
        "PART handler", stream(START, part_section(1, b"\xf2")), 14,
        "the handler refused with -14", len(header() + START) + 5, ("ram",), 0, -14,
        "error while loading state for instance 0x0 of device 'ram'",
    ),
    Refusal(
        "PART footer", stream(START, part_section(1, b"\0", footer_id=2)), EINVAL,
        "expected section id 0x1, read 0x2", len(header() + START) + 7, ("ram", "footer"), 1, 2,
        "Mismatched section id in footer for ram - read 0x2 expected 0x1",
    ),
    Refusal(
        "PART after END", stream(START, END, PART), EINVAL, "section id 0x1 has already ended",
        len(header() + START + END), ("ram",),
    ),
    Refusal(
        "PART of a FULL", stream(GOOD_DEV, part_section(0, b"\x07\x05")), EINVAL,
        "section id 0x0 does not come in parts", len(header() + GOOD_DEV), ("dev",),
    ),
    Refusal(
        "never ended", stream(START, PART), EINVAL, "section id 0x1 was begun and never ended",
        len(header() + START + PART), ("ram",),
    ),
    Refusal(
        "START of a described device",
        stream(start_section(0, "dev", b"\x07\x05", version_id=3)), EINVAL,
        "a START section for a device that never saves one", 8, ("dev",),
    ),
    Refusal(
        "FULL of a live device", stream(full_section(1, "ram", b"\0", version_id=4)), EINVAL,
        "a FULL section for a device that never saves one", 8, ("ram",),
    ),
    Refusal(
        "twice", stream(GOOD_DEV, full_section(7, "dev", b"\x07\x05", version_id=3)), EINVAL,
        "the device comes twice", len(header() + GOOD_DEV), ("dev",),
    ),
    Refusal(
        "one id for two", stream(GOOD_DEV, full_section(0, "old", b"\0")), EINVAL,
        "the section id 0x0 comes twice", len(header() + GOOD_DEV), ("old",),
    ),
    Refusal(
        "no EOF", GOOD[:-1], EIO, "needed 1 bytes for section type, 0 available",
        len(GOOD) - 1, expected=1, actual=0,
    ),
    Refusal(
        "cut vmdesc size", GOOD + b"\x06\0\0", EIO,
        "needed 4 bytes for vmdesc size, 2 available", len(GOOD) + 1, ("vmdesc",), 4, 2,
    ),
    Refusal(
        "cut vmdesc", GOOD + vmdesc(b"{}", size=9), EIO, "needed 9 bytes for vmdesc, 2 available",
        len(GOOD) + 5, ("vmdesc",), 9, 2,
    ),
    Refusal(
        "4 GiB vmdesc", GOOD + vmdesc(b"{}", size=0xFFFFFFFF), EINVAL,
        f"a description of 4294967295 bytes, at most {MAX_VMDESC} are read", len(GOOD) + 1,
        ("vmdesc",), MAX_VMDESC, 0xFFFFFFFF,
    ),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_refusal_says_what_is_wrong_and_leaves_the_machine_as_it_was(case: Refusal) -> None:
    board = machine()
    before = board.digest()
    with pytest.raises(LoadError) as caught:
        load_from_bytes(board, case.wire)
    error = caught.value
    assert str(error) == ": ".join((*case.path, case.text)) + f" (offset {case.offset:#x})"
    assert (error.errno, error.offset, error.path) == (case.errno, case.offset, case.path)
    assert (error.expected, error.actual) == (case.expected, case.actual)
    assert error.qemu == case.qemu
    assert board.digest() == before
    assert board.synchronized_post_init == 0


def test_the_cases_are_damages_of_a_stream_that_loads() -> None:
    board = machine()
    load_from_bytes(board, GOOD)
    assert board.synchronized_post_init == 1
    assert (got(board, "ram"), got(board, "old")) == ([1, 2, 3], [4])
    assert vars(board.devices["dev#0"])["v"] == 7


# -- what has no place in a table --------------------------------------------------------------


@pytest.mark.parametrize("profile", [STRICT, SEED], ids=["strict", "seed"])
def test_a_blocked_machine_reads_nothing(profile: Profile) -> None:
    board = machine(profile)
    plug(board, VMStateDescription("fixed", unmigratable=True), PlainDevice())
    asked: list[int] = []

    def wait(size: int) -> bytes:
        asked.append(size)
        return b""

    with pytest.raises(LoadError) as caught:
        load_from_bytes(board, SuspendingSource(wait))
    assert str(caught.value) == "State blocked by non-migratable device 'fixed'"
    assert (caught.value.errno, caught.value.qemu) == (EINVAL, caught.value.reason)
    assert asked == []


def test_a_failed_validation_is_refused_with_eperm() -> None:
    board = Machine("none")
    checked = fields.validate("v is small", lambda state, version: state.v < 5)
    plug(board, VMStateDescription("dev", fields=(fields.uint8("v"), checked)), PlainDevice(v=0))
    with pytest.raises(LoadError) as caught:
        load_from_bytes(board, stream(full_section(0, "dev", b"\x07")))
    assert (caught.value.errno, caught.value.path) == (EPERM, ("dev", "v is small"))


@pytest.mark.parametrize(
    "hook",
    [
        lambda f, device, version: (_ for _ in ()).throw(LoadError("no such mode", path=("mode",))),
        lambda f, device, version: f.complain(LoadError("no such mode", path=("mode",))),
    ],
)
def test_a_handlers_own_error_gets_its_place(hook: Callable[..., int]) -> None:
    board = Machine("none")
    plug_handlers(
        board, "old", SaveVMHandlers(save_state=lambda f, o: None, load_state=hook), PlainDevice()
    )
    with pytest.raises(LoadError) as caught:
        load_from_bytes(board, stream(full_section(0, "old")))
    assert str(caught.value) == "old: mode: no such mode (offset 0x19)"


def test_a_post_loads_own_error_gets_its_place() -> None:
    def post_load(state: PlainDevice, version_id: int) -> int:
        raise LoadError("no such mode")

    board = Machine("none")
    plug(board, VMStateDescription("dev", post_load=post_load), PlainDevice())
    with pytest.raises(LoadError) as caught:
        load_from_bytes(board, stream(full_section(0, "dev")))
    assert str(caught.value) == "dev: no such mode (offset 0x19)"


def test_a_handler_that_swallows_the_end_of_the_stream_does_not_get_away_with_it() -> None:
    def load_state(f: QEMUFileReader, device: PlainDevice, version_id: int) -> int:
        try:
            f.get_be64()
        except LoadError:
            return 0
        return 0

    board = Machine("none")
    plug_handlers(
        board, "old", SaveVMHandlers(save_state=lambda f, o: None, load_state=load_state),
        PlainDevice(),
    )  # fmt: skip
    with pytest.raises(LoadError, match="the stream ended inside the device") as caught:
        load_from_bytes(board, header() + full_section(0, "old", b"\0", footer_id=None))
    assert caught.value.errno == EIO


def test_a_device_that_cannot_load_is_refused() -> None:
    board = Machine("none")
    plug_handlers(board, "mute", SaveVMHandlers(save_state=lambda f, o: None), PlainDevice())
    with pytest.raises(LoadError, match="mute: the device has no way to load"):
        load_from_bytes(board, stream(full_section(0, "mute")))


def test_a_stream_has_a_bounded_number_of_sections(monkeypatch: pytest.MonkeyPatch) -> None:
    assert MAX_SECTIONS >= 1 << 16
    monkeypatch.setattr(load, "MAX_SECTIONS", 5)
    wire = header() + START + PART * 3 + END + b"\0"
    load_from_bytes(machine(), wire)
    with pytest.raises(LoadError, match="more than 5 sections") as caught:
        load_from_bytes(machine(), header() + START + PART * 4 + END + b"\0")
    assert (caught.value.expected, caught.value.offset) == (5, len(header() + START + PART * 4))


def test_a_machine_without_footers_expects_none() -> None:
    board = machine()
    board.skip_section_footers = True
    bare = full_section(0, "dev", b"\x07\x05", version_id=3, footer_id=None)
    load_from_bytes(board, stream(bare))
    with pytest.raises(LoadError, match="unknown section type 0x7e"):
        load_from_bytes(board, stream(bare + footer(0)))


def test_the_list_of_handlers_is_freed_whatever_happens() -> None:
    for wire in (GOOD, GOOD[:-1], stream(GOOD_DEV)[:-8]):
        loader = Loader(QEMUFileReader(wire), machine())
        with suppress(LoadError):
            loader.load()
        assert loader.handlers == []


def test_parts_find_the_handler_that_was_named_with_their_id() -> None:
    board = machine()
    other = plug_handlers(board, "disk", LIVE, Live())
    wire = stream(
        start_section(50, "ram", b"\x01", version_id=4), start_section(60, "disk", b"\x02"),
        part_section(60, b"\x03"), part_section(50, b"\x04"),
        part_section(60, b"\x05", end=True), part_section(50, b"\x06", end=True),
    )  # fmt: skip
    load_from_bytes(board, wire)
    assert got(board, "ram") == [1, 4, 6]
    assert vars(other.opaque)["got"] == [2, 3, 5]


def test_a_handler_both_live_and_old_style_may_send_both() -> None:
    ops = SaveVMHandlers(
        save_live_setup=LIVE.save_live_setup,
        save_live_complete=LIVE.save_live_complete,
        save_state=OLD.save_state,
        load_state=load_byte,
    )
    board = Machine("none")
    plug_handlers(board, "both", ops, Live())
    sections = (
        start_section(0, "both", b"\x01"),
        part_section(0, b"\x02", end=True),
        full_section(0, "both", b"\x03"),
    )
    load_from_bytes(board, stream(*sections))
    assert got(board, "both") == [1, 2, 3]
    with pytest.raises(LoadError, match="comes twice"):
        load_from_bytes(board, stream(*sections, sections[-1]))
    with pytest.raises(LoadError, match="comes twice"):
        load_from_bytes(board, stream(sections[2], sections[0], sections[1]))


def test_a_handler_without_an_end_need_not_end() -> None:
    board = Machine("none")
    ops = SaveVMHandlers(save_live_setup=lambda f, o: 0, load_state=load_byte)
    plug_handlers(board, "endless", ops, Live())
    load_from_bytes(board, stream(start_section(0, "endless", b"\x01")))
    assert got(board, "endless") == [1]


def test_the_loader_serves_a_file_that_the_caller_keeps() -> None:
    log = TraceLog()
    f = QEMUFileReader(GOOD + vmdesc(b"{}") + b"junk", trace=log)
    qemu_loadvm_state(f, machine())
    assert f.tell() == len(GOOD + vmdesc(b"{}"))
    assert f.close() == 0
    assert log.named("vmstate_load") == [("ram", "(old)")] * 3 + [("dev", "dev"), ("old", "(old)")]


def test_the_source_is_closed_after_success_and_failure() -> None:
    for wire in (GOOD, b"junk"):
        closed: list[int] = []
        pieces = [wire]
        source = SuspendingSource(
            lambda size, pieces=pieces: pieces.pop() if pieces else b"",  # type: ignore[misc]
            lambda closed=closed: closed.append(1),  # type: ignore[misc]
        )
        with suppress(LoadError):
            load_from_bytes(machine(), source)
        assert closed == [1]
