"""Saving: order of sections, footers, vmdesc, rounds, and what ends a save."""

import json
from collections.abc import Sequence
from errno import EINVAL, EIO, ENOSPC
from typing import Any

import pytest

from savevm import SaveError, save
from savevm.load import load_from_bytes
from savevm.machine import Machine
from savevm.qemufile import BytesSink, QEMUFileWriter
from savevm.qemufile.sources import Buffer
from savevm.registry import MigrationParams, SaveVMHandlers
from savevm.save import (
    qemu_save_device_state,
    qemu_savevm_state,
    qemu_savevm_state_begin,
    qemu_savevm_state_blocked,
    qemu_savevm_state_cancel,
    qemu_savevm_state_complete,
    qemu_savevm_state_header,
    qemu_savevm_state_iterate,
    qemu_savevm_state_pending,
    save_section_footer,
    save_section_header,
    save_to_bytes,
    should_send_vmdesc,
)
from savevm.testing import (
    PlainDevice,
    configuration,
    full_section,
    header,
    part_section,
    plug,
    plug_handlers,
    start_section,
)
from savevm.trace import TraceLog
from savevm.vmstate import VMStateDescription, fields, fieldtypes

BYTE = VMStateDescription("byte", 2, 1, fields=(fields.uint8("v"),))
WORD = VMStateDescription("word", fields=(fields.uint16("v"),))


class Rounds(PlainDevice):
    """A live device that notes what is asked of it.

    Args:
        rounds: results of iterate, one per round.
    """

    def __init__(self, rounds: Sequence[int] = (1,), **results: int) -> None:
        super().__init__()
        self.rounds = list(rounds)
        self.results = results
        self.heard: list[object] = []
        self.active = True

    def handlers(self) -> SaveVMHandlers:
        def write(byte: int, name: str, f: QEMUFileWriter) -> int:
            self.heard.append(name)
            f.put_byte(byte)
            return self.results.get(name, 0)

        def iterate(f: QEMUFileWriter, _opaque: object) -> int:
            self.heard.append("iterate")
            f.put_byte(0xBB)
            return self.rounds.pop(0) if self.rounds else 1

        return SaveVMHandlers(
            set_params=lambda params, _o: self.heard.append(params),
            cancel=lambda _o: self.heard.append("cancel"),
            save_live_setup=lambda f, _o: write(0xAA, "setup", f),
            save_live_iterate=iterate,
            save_live_complete=lambda f, _o: write(0xCC, "complete", f),
            save_live_pending=lambda f, _o, most: self.results.get("pending", 0) + most,
            is_active=lambda _o: self.active,
            load_state=lambda f, _o, version: f.skip_bytes(1),
        )


def machine(**settings: object) -> Machine:
    board = Machine("none")
    for name, value in settings.items():
        assert hasattr(board, name)
        setattr(board, name, value)
    return board


def live(board: Machine, device: Rounds, idstr: str = "ram") -> Rounds:
    plug_handlers(board, idstr, device.handlers(), device, version_id=4)
    return device


def saved_with(f: QEMUFileWriter, board: Machine) -> SaveError:
    with pytest.raises(SaveError) as caught:
        qemu_savevm_state(f, board)
    return caught.value


def description_of(data: bytes) -> dict[str, Any]:
    text = data[data.index(b"\x06\0\0") + 5 :]
    parsed: dict[str, Any] = json.loads(text)
    return parsed


# -- the whole stream --------------------------------------------------------------------


def test_sections_come_in_the_seeds_order() -> None:
    board = machine(suppress_vmdesc=True)
    plug(board, BYTE, PlainDevice(v=1))
    live(board, Rounds([0, 1]))
    plug(board, WORD, PlainDevice(v=2))
    live(board, Rounds([1]), "block")
    assert save_to_bytes(board) == (
        header()
        + configuration("none")
        + start_section(1, "ram", b"\xaa", version_id=4)
        + start_section(3, "block", b"\xaa", version_id=4)
        + part_section(1, b"\xbb")  # not finished: the later one waits
        + part_section(1, b"\xbb")
        + part_section(3, b"\xbb")
        + part_section(1, b"\xcc", end=True)
        + part_section(3, b"\xcc", end=True)
        + full_section(0, "byte", b"\x01", version_id=2)
        + full_section(2, "word", b"\0\x02")
        + b"\0"
    )


def test_headers_name_the_device_only_where_it_is_met_first() -> None:
    board = machine()
    se = plug(board, BYTE, PlainDevice(v=1), instance_id=7)
    for section_type, size in ((1, 18), (4, 18), (2, 5), (3, 5)):
        sink = BytesSink()
        f = QEMUFileWriter(sink)
        save_section_header(f, se, section_type)
        f.flush()
        assert len(sink.data) == size
        assert sink.data[0] == section_type


def test_footers_can_be_left_out() -> None:
    board = machine(suppress_vmdesc=True, skip_section_footers=True, send_configuration=False)
    se = plug(board, BYTE, PlainDevice(v=1))
    data = save_to_bytes(board)
    assert data == header() + full_section(0, "byte", b"\x01", version_id=2, footer_id=None) + b"\0"
    load_from_bytes(board, data)
    f = QEMUFileWriter(BytesSink())
    save_section_footer(f, board, se)
    assert f.tell() == 0


def test_a_machine_without_live_devices_saves_its_state_at_once() -> None:
    log = TraceLog()
    save_to_bytes(machine(), trace=log)
    assert len(log.named("savevm_state_iterate")) == 1


def test_cpu_state_is_fetched_between_the_rounds_and_the_end() -> None:
    board = machine()
    seen: list[int] = []

    def note(_f: QEMUFileWriter, _opaque: object) -> int:
        seen.append(board.synchronized_states)
        return 0

    ops = SaveVMHandlers(save_live_setup=note, save_live_complete=note)
    plug_handlers(board, "ram", ops, PlainDevice())
    save_to_bytes(board)
    assert seen == [0, 1]
    assert board.synchronized_states == 1


# -- old-style handlers ------------------------------------------------------------------


def old_style(board: Machine, payload: bytes) -> PlainDevice:
    device = PlainDevice()
    ops = SaveVMHandlers(
        save_state=lambda f, o: f.put_buffer(payload),
        load_state=lambda f, o, version: f.skip_bytes(len(payload)),
    )
    plug_handlers(board, "old", ops, device)
    return device


def test_an_old_style_device_is_raw_bytes_and_one_buffer_to_vmdesc() -> None:
    board = machine()
    old_style(board, b"abc")
    data = save_to_bytes(board)
    assert full_section(0, "old", b"abc") in data
    assert description_of(data)["devices"] == [
        {
            "name": "old", "instance_id": 0, "size": 3,
            "fields": [{"name": "data", "size": 3, "type": "buffer"}],
        }
    ]  # fmt: skip
    board.suppress_vmdesc = True
    assert (
        save_to_bytes(board)
        == header() + configuration("none") + full_section(0, "old", b"abc") + b"\0"
    )


# -- early sections ----------------------------------------------------------------------


def test_early_sections_come_before_ram_and_first_in_vmdesc() -> None:
    early = VMStateDescription("early", fields=(fields.uint8("v"),), early_setup=True)
    board = machine(send_configuration=False)
    plug(board, BYTE, PlainDevice(v=1))
    live(board, Rounds())
    plug(board, early, PlainDevice(v=3))
    data = save_to_bytes(board)
    assert data.startswith(header() + full_section(2, "early", b"\x03") + b"\x01\0\0\0\x01\x03ram")
    assert data.count(b"early") == 3  # idstr, name and vmsd_name
    assert [d["name"] for d in description_of(data)["devices"]] == ["early", "byte"]
    load_from_bytes(board, data)
    # A second save describes it once again, not twice.
    assert save_to_bytes(board).count(b"early") == 3


# -- vmdesc ------------------------------------------------------------------------------


def test_vmdesc_has_qemus_keys_in_qemus_order() -> None:
    inner = VMStateDescription("inner", fields=(fields.uint8("x"),))
    plain = VMStateDescription("plain", fields=(fields.uint8("x"), fields.uint8("y", 2)))
    sub = VMStateDescription("d/sub", 3, fields=(fields.uint8("s"),), needed=lambda state: True)
    conditional = VMStateDescription("c", fields=(fields.uint8("x", exists=lambda s, v: True),))
    vmsd = VMStateDescription(
        "d",
        2,
        fields=(
            fields.uint32("n"),
            fields.uint8("twice"), fields.uint8("twice"),
            fields.array("many", fieldtypes.UINT16, 3),
            fields.array("one", fieldtypes.UINT16, 1),
            fields.array("none", fieldtypes.UINT16, 0),
            fields.struct("inside", inner),
            fields.vstruct("fixed", plain, 1),
            fields.struct_array("alike", inner, 2),
            fields.struct_array("unlike", conditional, 2),
            fields.unused(4),
            fields.validate("fine", lambda state, version: True),
        ),
        subsections=(sub,),
    )  # fmt: skip
    board = machine()
    state = PlainDevice(
        n=1, twice=2, many=[1, 2, 3], one=[1], none=[], s=1,
        inside=PlainDevice(x=1), fixed=PlainDevice(x=1, y=2),
        alike=[PlainDevice(x=1), PlainDevice(x=2)], unlike=[PlainDevice(x=1), PlainDevice(x=2)],
    )  # fmt: skip
    plug(board, vmsd, state)
    x = '{"name": "x", "type": "uint8", "size": 1}'
    text = (
        '{"page_size": 4096, "devices": [{"name": "d", "instance_id": 0, "vmsd_name": "d", '
        '"version": 2, "fields": ['
        '{"name": "n", "type": "uint32", "size": 4}, '
        '{"name": "twice[0]", "type": "uint8", "size": 1}, '
        '{"name": "twice[1]", "type": "uint8", "size": 1}, '
        '{"name": "many", "array_len": 3, "type": "uint16", "size": 2}, '
        '{"name": "one", "type": "uint16", "size": 2}, '
        '{"name": "inside", "type": "struct", '
        f'"struct": {{"vmsd_name": "inner", "version": 1, "fields": [{x}]}}, "size": 1}}, '
        '{"name": "fixed", "type": "vstruct", "vmsd_name": "plain", "version": 1, '
        f'"fields": [{x}], "size": 1}}, '
        '{"name": "alike", "array_len": 2, "type": "struct", '
        f'"struct": {{"vmsd_name": "inner", "version": 1, "fields": [{x}]}}, "size": 1}}, '
        '{"name": "unlike", "index": 0, "type": "struct", '
        f'"struct": {{"vmsd_name": "c", "version": 1, "fields": [{x}]}}, "size": 1}}, '
        '{"name": "unlike", "index": 1, "type": "struct", '
        f'"struct": {{"vmsd_name": "c", "version": 1, "fields": [{x}]}}, "size": 1}}, '
        '{"name": "unused", "type": "unused_buffer", "size": 4}], '
        '"subsections": [{"vmsd_name": "d/sub", "version": 3, "fields": '
        '[{"name": "s", "type": "uint8", "size": 1}]}]}]}'
    )
    data = save_to_bytes(board)
    size = len(text).to_bytes(4, "big")
    assert data[data.index(b"{") :].decode() == text
    assert data.endswith(b"\0\x06" + size + text.encode())


def test_a_temporary_is_described_within_its_field() -> None:
    inside = VMStateDescription("half", 3, fields=(fields.uint8("half"),))
    vmsd = VMStateDescription("d", fields=(fields.with_tmp(inside, lambda: PlainDevice(half=1)),))
    board = machine()
    plug(board, vmsd, PlainDevice())
    (entry,) = description_of(save_to_bytes(board))["devices"][0]["fields"]
    assert list(entry.items()) == [
        ("name", "tmp"), ("type", "tmp"), ("vmsd_name", "half"), ("version", 3),
        ("fields", [{"name": "half", "type": "uint8", "size": 1}]), ("size", 1),
    ]  # fmt: skip


def test_arrays_whose_elements_may_differ_are_listed_one_by_one() -> None:
    sub = VMStateDescription("e/s", fields=(fields.uint8("x"),), needed=lambda state: state.x > 1)
    vmsd = VMStateDescription(
        "d",
        fields=(
            fields.struct_array("subs", VMStateDescription("e", subsections=(sub,)), 2),
            fields.array_of_pointers("points", WORD, 2),
        ),
    )
    board = machine()
    plug(
        board, vmsd,
        PlainDevice(subs=[PlainDevice(x=1), PlainDevice(x=2)], points=[None, PlainDevice(v=1)]),
    )  # fmt: skip
    entries = description_of(save_to_bytes(board))["devices"][0]["fields"]
    assert [(e["name"], e["index"], e["size"]) for e in entries] == [
        ("subs", 0, 0), ("subs", 1, 10), ("points", 0, 1), ("points", 1, 2),
    ]  # fmt: skip
    assert "subsections" not in entries[0]["struct"]
    assert entries[1]["struct"]["subsections"][0]["vmsd_name"] == "e/s"


def test_vmdesc_can_be_suppressed_and_knows_the_page_size() -> None:
    board = Machine("none", target_page_bits=14)
    plug(board, BYTE, PlainDevice(v=1))
    assert should_send_vmdesc(board)
    assert description_of(save_to_bytes(board))["page_size"] == 1 << 14
    board.suppress_vmdesc = True
    assert not should_send_vmdesc(board)
    assert b"page_size" not in save_to_bytes(board)


# -- rounds ------------------------------------------------------------------------------


def test_a_round_returns_what_the_last_handler_said() -> None:
    for results, expected in (([1], 1), ([0], 0), ([-5], -5), ([2], 2)):
        board = machine()
        live(board, Rounds(results))
        f = QEMUFileWriter(BytesSink())
        assert qemu_savevm_state_iterate(f, board) == expected
        assert f.get_error() == min(expected, 0)


def test_a_round_over_the_rate_limit_sends_nothing_and_is_not_finished() -> None:
    board = machine()
    device = live(board, Rounds())
    f = QEMUFileWriter(BytesSink(), rate_limit=1)
    f.put_be32(0)
    assert qemu_savevm_state_iterate(f, board) == 0
    assert device.heard == []
    f.reset_rate_limit()
    assert qemu_savevm_state_iterate(f, board) == 1


def test_a_save_under_a_rate_limit_finishes_all_the_same() -> None:
    board = machine(suppress_vmdesc=True)
    live(board, Rounds([0, 0, 1]))
    live(board, Rounds([1]), "block")
    sink = BytesSink()
    qemu_savevm_state(QEMUFileWriter(sink, rate_limit=20), board)
    assert sink.data == save_to_bytes_again(board)


def save_to_bytes_again(board: Machine) -> bytes:
    # The rounds are used up; what was sent before is known.
    ids = {se.idstr: se.section_id for se in board.savevm.handlers}
    return (
        header()
        + configuration("none")
        + start_section(ids["ram"], "ram", b"\xaa", version_id=4)
        + start_section(ids["block"], "block", b"\xaa", version_id=4)
        + part_section(ids["ram"], b"\xbb") * 3
        + part_section(ids["block"], b"\xbb")
        + part_section(ids["ram"], b"\xcc", end=True)
        + part_section(ids["block"], b"\xcc", end=True)
        + b"\0"
    )


def test_a_handler_that_never_finishes_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(save, "ROUNDS_MAX", 10)
    board = machine()
    device = live(board, Rounds([0] * 100))
    error = saved_with(QEMUFileWriter(BytesSink()), board)
    assert error.errno == EIO
    assert device.heard.count("iterate") == 10
    assert device.heard[-1] == "cancel"


def test_inactive_handlers_are_left_out_everywhere() -> None:
    board = machine(suppress_vmdesc=True)
    device = live(board, Rounds(pending=5))
    f = QEMUFileWriter(BytesSink())
    assert qemu_savevm_state_pending(f, board, 100) == 105
    device.active = False
    assert qemu_savevm_state_pending(f, board, 100) == 0
    assert save_to_bytes(board) == header() + configuration("none") + b"\0"
    assert device.heard == [MigrationParams()]


def test_a_handler_may_be_active_and_send_no_part() -> None:
    board = machine(suppress_vmdesc=True, send_configuration=False)
    ops = SaveVMHandlers(
        save_live_setup=lambda f, o: 0,
        save_live_iterate=lambda f, o: 1,
        save_live_complete=lambda f, o: 0,
        is_active_iterate=lambda o: False,
    )
    plug_handlers(board, "ram", ops, PlainDevice())
    assert save_to_bytes(board) == (
        header() + start_section(0, "ram") + part_section(0, end=True) + b"\0"
    )


def test_parameters_reach_every_handler_before_any_setup() -> None:
    board = machine()
    devices = [live(board, Rounds(), name) for name in ("a", "b")]
    devices[0].active = False
    params = MigrationParams(blk=True, shared=True)
    qemu_savevm_state_begin(QEMUFileWriter(BytesSink()), board, params)
    assert devices[0].heard == [params]
    assert devices[1].heard == [params, "setup"]


# -- what ends a save --------------------------------------------------------------------


def test_a_blocked_machine_saves_nothing() -> None:
    board = machine()
    plug(board, VMStateDescription("fixed", unmigratable=True), PlainDevice())
    device = live(board, Rounds())
    assert qemu_savevm_state_blocked(board) == "State blocked by non-migratable device 'fixed'"
    f = QEMUFileWriter(BytesSink())
    error = saved_with(f, board)
    assert (str(error), error.errno) == ("State blocked by non-migratable device 'fixed'", EINVAL)
    assert f.tell() == 0
    assert device.heard == []
    assert qemu_savevm_state_blocked(machine()) is None


@pytest.mark.parametrize(
    ("device", "heard"),
    [
        (Rounds(setup=-ENOSPC), ["setup", "cancel"]),
        (Rounds([-ENOSPC]), ["setup", "iterate", "cancel"]),
        (Rounds(complete=-ENOSPC), ["setup", "iterate", "complete", "cancel"]),
    ],
    ids=["setup", "iterate", "complete"],
)
def test_a_failing_stage_cancels_and_tells_its_errno(device: Rounds, heard: list[str]) -> None:
    board = machine()
    live(board, device)
    later = live(board, Rounds(), "later")
    log, sink = TraceLog(), BytesSink()
    error = saved_with(QEMUFileWriter(sink, trace=log), board)
    assert error.errno == ENOSPC
    assert str(error) == "Error while writing VM state: No space left on device"
    assert device.heard[1:] == heard
    assert later.heard[-1] == "cancel"
    assert ("setup" in later.heard) is ("iterate" in heard)
    assert len(log.named("savevm_state_cancel")) == 1
    # No EOF was written: no loader takes it for a whole stream.
    assert b"page_size" not in sink.data


def test_a_refusing_device_cancels_too() -> None:
    board = machine()
    device = live(board, Rounds())
    plug(board, VMStateDescription("shy", pre_save=lambda state: -EIO), PlainDevice())
    error = saved_with(QEMUFileWriter(BytesSink()), board)
    assert (str(error), error.errno) == ("pre-save failed: shy", EIO)
    assert device.heard[-1] == "cancel"


def test_a_sink_that_fails_ends_the_save() -> None:
    class Full:
        def writev(self, pieces: Sequence[Buffer], position: int) -> None:
            raise OSError(ENOSPC, "No space left on device")

        def close(self) -> None:
            pass

    board = machine()
    device = live(board, Rounds())
    assert saved_with(QEMUFileWriter(Full()), board).errno == ENOSPC
    assert device.heard[-1] == "cancel"


def test_cancel_reaches_whoever_wants_to_hear_it() -> None:
    board = machine()
    device = live(board, Rounds())
    plug_handlers(board, "deaf", SaveVMHandlers(), PlainDevice())
    qemu_savevm_state_cancel(board)
    assert device.heard == ["cancel"]


# -- pieces by hand ----------------------------------------------------------------------


def test_header_and_end_can_be_written_by_themselves() -> None:
    board = machine(suppress_vmdesc=True)
    plug(board, BYTE, PlainDevice(v=1))
    sink = BytesSink()
    f = QEMUFileWriter(sink)
    qemu_savevm_state_header(f, board)
    qemu_savevm_state_complete(f, board)
    assert sink.data == save_to_bytes(board)


def test_device_state_alone_has_no_ram_no_configuration_and_no_vmdesc() -> None:
    board = machine()
    plug(board, BYTE, PlainDevice(v=1))
    live(board, Rounds())
    old_style(board, b"abc")
    sink = BytesSink()
    qemu_save_device_state(QEMUFileWriter(sink), board)
    assert sink.data == (
        header()
        + full_section(0, "byte", b"\x01", version_id=2)
        + full_section(2, "old", b"abc")
        + b"\0"
    )
    assert board.synchronized_states == 1
    load_from_bytes(board, bytes(sink.data))


def test_device_state_that_cannot_be_written_is_a_save_error() -> None:
    f = QEMUFileWriter(BytesSink())
    f.set_error(-EIO)
    with pytest.raises(SaveError, match="Error while writing VM state") as caught:
        qemu_save_device_state(f, machine())
    assert caught.value.errno == EIO
