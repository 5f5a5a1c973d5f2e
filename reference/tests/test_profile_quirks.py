"""Every switch of a profile both ways, alone and together with the others.

Each demonstration does one thing to a loader and says what comes of it.  It is
run under ``strict``, under ``strict`` with that one switch turned, and under
``seed``: so a switch that does nothing by itself, or more than it says, fails.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from errno import EINVAL, EIO
from pathlib import Path

import pytest

from savevm import SEED, STRICT, LoadError, Profile
from savevm.load import load_from_bytes
from savevm.machine import Machine
from savevm.profile import SWITCHES
from savevm.qemufile import ChunkSource, QEMUFileReader
from savevm.registry import CompatEntry, SaveVMHandlers
from savevm.testing import (
    PlainDevice,
    full_section,
    header,
    part_section,
    plug,
    plug_handlers,
    start_section,
    stream,
    vmdesc,
)
from savevm.timers import QEMUTimer, timer_field
from savevm.vmstate import VMStateDescription, VMStateField, fieldtypes
from savevm.vmstate import fields as vmstate_fields

TESTS = Path(__file__).parent
SUB = VMStateDescription("dev/sub", fields=(vmstate_fields.uint8("s"),), needed=lambda state: True)
DEV = VMStateDescription("dev", fields=(vmstate_fields.uint8("v"),), subsections=(SUB,))
ALWAYS = VMStateDescription("any/sub", fields=(vmstate_fields.uint8("s"),))
ANY = VMStateDescription("any", fields=(vmstate_fields.uint8("v"),), subsections=(ALWAYS,))
REFUSING = VMStateDescription(
    "dev", fields=(vmstate_fields.uint8("v"),), post_load=lambda state, version: 1
)
SUBSECTION = b"\x05\x07dev/sub\0\0\0\x01"


def described(
    profile: Profile, vmsd: VMStateDescription = DEV, **attributes: object
) -> tuple[Machine, PlainDevice]:
    board, device = Machine("none", profile=profile), PlainDevice(**attributes)
    plug(board, vmsd, device)
    return board, device


def outcome(board: Machine, device: PlainDevice, wire: bytes) -> object:
    """The device's ``v`` after the load, or the errno of the refusal."""
    try:
        load_from_bytes(board, wire)
    except LoadError as error:
        return -error.errno
    return vars(device)["v"]


def load_dev(profile: Profile, wire: bytes, vmsd: VMStateDescription = DEV) -> object:
    board, device = described(profile, vmsd, v=1, s=1)
    return outcome(board, device, wire)


# -- one demonstration per switch --------------------------------------------------------------


def read_past_the_end(profile: Profile) -> object:
    f = QEMUFileReader(b"\x12", profile=profile)
    try:
        return f.get_be16(), f.get_error()
    except LoadError as error:
        return error.errno


def skip_what_is_not_buffered(profile: Profile) -> object:
    f = QEMUFileReader(ChunkSource([b"ab", b"cd"]), profile=profile)
    f.peek_byte()
    f.skip(3)
    return f.tell()


def cut_off_name(profile: Profile) -> object:
    return load_dev(profile, header() + b"\x04\0\0\0\0\x05de")


def name_with_a_nul(profile: Profile) -> object:
    return load_dev(profile, stream(full_section(0, "dev\0!", b"\x07")))


def id_of_another_source(profile: Profile) -> object:
    return load_dev(profile, stream(full_section(9, "dev", b"\x07")))


def unsigned_version(profile: Profile) -> object:
    board, device = Machine("none", profile=profile), PlainDevice(v=1)
    plug_handlers(board, "dev", BYTE, device, version_id=-1)
    return outcome(board, device, stream(full_section(0, "dev", b"\x07", version_id=5)))


def instance_zero_of_a_live_device(profile: Profile) -> object:
    board, device = Machine("none", profile=profile), PlainDevice(v=1)
    plug_handlers(board, "dev", BYTE, device, instance_id=5)
    return outcome(board, device, stream(full_section(0, "dev", b"\x07")))


def compat_name_in_the_middle(profile: Profile) -> object:
    board, device = described(profile, v=1, s=1)
    entry = board.savevm.handlers[0]
    entry.idstr, entry.compat = "bus/dev/port", CompatEntry("dev", 0)
    return outcome(board, device, stream(full_section(0, "dev", b"\x07")))


def part_of_a_described_device(profile: Profile) -> object:
    return load_dev(profile, stream(full_section(0, "dev", b"\x07"), part_section(0, b"\x08")))


def description_cut_off(profile: Profile) -> object:
    # Read as zeros or not, what is missing is missing.
    return load_dev(profile, stream(full_section(0, "dev", b"\x07"), behind=vmdesc(size=1 << 30)))


def refusal_of_one(profile: Profile) -> object:
    return load_dev(profile, stream(full_section(0, "dev", b"\x07")), REFUSING)


def negative_count(profile: Profile) -> object:
    vmsd = VMStateDescription(
        "dev",
        fields=(
            vmstate_fields.int32("n"),
            vmstate_fields.varray("a", fieldtypes.UINT8, "n", "int32"),
            vmstate_fields.uint8("v"),
        ),
    )
    board, device = described(profile, vmsd, n=0, a=[0], v=1)
    return outcome(board, device, stream(full_section(0, "dev", b"\xff\xff\xff\xff\x07")))


def subsection_of_version_0x101(profile: Profile) -> object:
    payload = b"\x07" + SUBSECTION[:-4] + b"\0\0\x01\x01" + b"\x02"
    return load_dev(profile, stream(full_section(0, "dev", payload)))


def subsection_that_is_always_there(profile: Profile) -> object:
    payload = b"\x07" + b"\x05\x07any/sub\0\0\0\x01" + b"\x02"
    return load_dev(profile, stream(full_section(0, "any", payload)), ANY)


def subsection_twice(profile: Profile) -> object:
    payload = b"\x07" + (SUBSECTION + b"\x02") * 2
    return load_dev(profile, stream(full_section(0, "dev", payload)))


def failure_behind_a_device(profile: Profile) -> object:
    board, device = described(profile, v=1, s=1)
    with pytest.raises(LoadError):
        load_from_bytes(board, stream(full_section(0, "dev", b"\x07"), b"\x55"))
    return vars(device)["v"]


def expiry_beyond_63_bits(profile: Profile) -> object:
    vmsd = VMStateDescription("dev", fields=(timer_field("t"),))
    timer = QEMUTimer(lambda: None)
    board, device = described(profile, vmsd, t=timer, v=1)
    done = outcome(board, device, stream(full_section(0, "dev", b"\x80" + bytes(7))))
    return done, timer.expire_ns


def get_byte(f: QEMUFileReader, device: PlainDevice, version_id: int) -> int:
    del version_id
    vars(device)["v"] = f.get_byte()
    return 0


BYTE = SaveVMHandlers(save_state=lambda f, o: None, load_state=get_byte)


@dataclass(frozen=True)
class Demonstration:
    """What one switch changes.

    Attributes:
        show: does it, and says what came of it.
        strict: what does under ``strict``.
        seed: what does with the switch turned, and under ``seed``.
        together: what does under ``seed``, where other switches lend a hand.
    """

    show: Callable[[Profile], object]
    strict: object
    seed: object
    together: object = None


DEMONSTRATIONS: dict[str, Demonstration] = {
    "eof_reads_as_zero": Demonstration(read_past_the_end, EIO, (0x1200, -EIO)),
    "skip_needs_buffered_bytes": Demonstration(skip_what_is_not_buffered, 3, 0),
    "string_failure_is_einval": Demonstration(cut_off_name, -EIO, -EINVAL),
    "strings_end_at_nul": Demonstration(name_with_a_nul, -EINVAL, 7),
    "footer_compares_local_id": Demonstration(id_of_another_source, 7, -EINVAL),
    "version_compared_unsigned": Demonstration(unsigned_version, -EINVAL, 7),
    "live_alias_is_zero": Demonstration(instance_zero_of_a_live_device, -EINVAL, 7),
    "compat_is_substring": Demonstration(compat_name_in_the_middle, -EINVAL, 7),
    "sections_are_untied": Demonstration(part_of_a_described_device, -EINVAL, 8),
    # With the switch alone the claim is believed and its end is then missed.
    "vmdesc_errors_ignored": Demonstration(description_cut_off, -EINVAL, -EIO, 7),
    "positive_return_succeeds": Demonstration(refusal_of_one, -1, 7),
    "counts_are_int": Demonstration(negative_count, -EINVAL, 7),
    "subsection_version_is_uint8": Demonstration(subsection_of_version_0x101, -EINVAL, 7),
    "subsections_stop_without_needed": Demonstration(subsection_that_is_always_there, 7, -2),
    "duplicate_subsections_accepted": Demonstration(subsection_twice, -EINVAL, 7),
    "failed_load_keeps_state": Demonstration(failure_behind_a_device, 1, 7),
    "timers_taken_unclamped": Demonstration(expiry_beyond_63_bits, (-EINVAL, -1), (1, 0)),
}

ELSEWHERE: dict[str, tuple[str, ...]] = {
    "ram_block_survives_loads": (
        "test_ram_load.py::test_the_seed_continues_the_block_of_an_earlier_load",
    ),
    "ram_bound_is_max_length": (
        "test_ram_load.py::test_the_seed_loads_pages_between_used_and_max_length",
    ),
    "ram_list_unchecked": (
        "test_ram_load.py::test_the_seeds_total_wraps_and_what_follows_is_read_as_blocks",
        "test_ram_load.py::test_the_seed_takes_a_list_that_names_a_block_twice",
    ),
    "ram_fill_byte_unchecked": ("test_ram_load.py::test_the_seed_fills_a_page_with_any_byte",),
    "ram_compress_page_dereferences_null": (
        "test_ram_load.py::test_a_compressed_page_kills_the_seed_and_is_refused_by_strict",
    ),
    "disks_revert_before_load": (
        "test_snapshot_loadvm.py::test_a_failed_strict_load_leaves_everything_as_it_was",
        "test_snapshot_loadvm.py::"
        "test_in_the_seed_a_failed_load_has_reverted_the_disks_and_reset_the_machine",
    ),
    "failed_savevm_changes_disks": (
        "test_snapshot_savevm.py::test_a_save_that_fails_leaves_every_disk_as_it_was",
        "test_snapshot_savevm.py::"
        "test_in_the_seed_a_save_that_fails_has_lost_the_snapshot_it_was_to_replace",
    ),
    "failed_delvm_changes_disks": (
        "test_snapshot_list.py::test_deleting_is_taken_back_where_a_disk_cannot",
        "test_snapshot_list.py::test_in_the_seed_deleting_goes_on_behind_a_disk_that_cannot",
    ),
    "partial_snapshots_hidden": (
        "test_snapshot_list.py::test_a_strict_list_shows_what_only_some_disks_have",
        "test_snapshot_list.py::test_a_snapshot_that_one_disk_lacks_is_not_shown",
    ),
    "close_errors_ignored": (
        "test_snapshot_savevm.py::"
        "test_a_flush_that_fails_at_the_end_fails_the_save_but_not_in_the_seed",
        "test_device_state.py::test_in_the_seed_the_last_bytes_may_be_lost_in_silence",
    ),
    "announce_count_is_static": (
        "test_announce.py::test_a_second_announcement_has_its_five_rounds",
        "test_announce.py::test_the_seed_dies_in_its_second_announcement_after_its_first_frames",
    ),
}
"""Switches of RAM, disks and NICs: the tests that show them both ways."""


@pytest.mark.parametrize("name", DEMONSTRATIONS)
def test_a_switch_makes_the_difference_it_is_named_for(name: str) -> None:
    shown = DEMONSTRATIONS[name]
    turned = replace(STRICT, name=f"strict and {name}", **{name: True})
    assert shown.strict != shown.seed
    assert shown.show(STRICT) == shown.strict
    assert shown.show(turned) == shown.seed
    assert shown.show(SEED) == (shown.seed if shown.together is None else shown.together)


def test_every_switch_is_shown_here_or_elsewhere() -> None:
    assert {*DEMONSTRATIONS} | {*ELSEWHERE} == {switch.name for switch in SWITCHES}
    assert not {*DEMONSTRATIONS} & {*ELSEWHERE}


@pytest.mark.parametrize("where", sorted({w for tests in ELSEWHERE.values() for w in tests}))
def test_what_is_shown_elsewhere_is_there(where: str) -> None:
    file, _, name = where.partition("::")
    assert f"\ndef {name}(" in (TESTS / file).read_text()


# -- the table itself ---------------------------------------------------------------------------


def test_the_table_lists_the_fields_of_a_profile_in_their_order() -> None:
    names = [field.name for field in fields(Profile) if field.name != "name"]
    assert sorted(switch.name for switch in SWITCHES) == sorted(names)


def test_every_switch_says_what_each_does_and_why() -> None:
    for switch in SWITCHES:
        assert switch.seed
        assert switch.strict
        assert switch.reason
        assert switch.seed != switch.strict


def test_strict_turns_no_switch_and_the_seed_turns_all() -> None:
    assert Profile("strict") == STRICT
    assert all(getattr(SEED, switch.name) is True for switch in SWITCHES)
    assert not any(getattr(STRICT, switch.name) for switch in SWITCHES)


# -- the thirteen quirks, in the order in which they are told -------------------------------------


def loads(profile: Profile, wire: bytes, board: Machine) -> LoadError | None:
    board.profile = profile
    try:
        load_from_bytes(board, wire)
    except LoadError as error:
        return error
    return None


def live_board() -> tuple[Machine, PlainDevice]:
    board, device = Machine("none"), PlainDevice(v=1)
    ops = SaveVMHandlers(
        save_live_setup=lambda f, o: 0, save_live_complete=lambda f, o: 0, load_state=get_byte
    )
    plug_handlers(board, "ram", ops, device)
    return board, device


def test_quirk_1_the_footer_is_compared_with_the_local_section_id() -> None:
    # So a footer that contradicts its own header is taken, and one that agrees refused.
    board, _device = described(STRICT, v=1, s=1)
    crossed = stream(full_section(9, "dev", b"\x07", footer_id=0))
    assert loads(SEED, crossed, board) is None
    refused = loads(STRICT, crossed, board)
    assert refused is not None
    assert (refused.expected, refused.actual) == (9, 0)


def test_quirk_2_an_empty_and_a_cut_name_are_one_error() -> None:
    board, _device = described(STRICT, v=1, s=1)
    empty, cut = stream(full_section(0, "")), header() + b"\x04\0\0\0\0\x09dev"
    for profile, errnos in ((SEED, [EINVAL, EINVAL]), (STRICT, [EINVAL, EIO])):
        errors = [loads(profile, wire, board) for wire in (empty, cut)]
        assert [error.errno for error in errors if error is not None] == errnos
    # Zeros at the end do not make it the same error; the one switch does.
    zeros = replace(STRICT, name="zeros at the end", eof_reads_as_zero=True)
    assert cut_off_name(zeros) == -EIO


def test_quirk_3_versions_are_compared_as_unsigned() -> None:
    board, _device = described(STRICT, v=1, s=1)
    negative = stream(full_section(0, "dev", b"\x07", version_id=-5))
    for profile in (SEED, STRICT):  # unsigned it is too new, signed it is no version
        assert loads(profile, negative, board) is not None
    assert DEMONSTRATIONS["version_compared_unsigned"].seed == 7


def test_quirk_4_a_live_handler_answers_to_instance_zero() -> None:
    board, device = Machine("none"), PlainDevice(v=1)
    plug_handlers(board, "dev", BYTE, device, instance_id=3)
    wire = stream(full_section(0, "dev", b"\x07"))
    assert loads(STRICT, wire, board) is not None
    assert loads(SEED, wire, board) is None


def test_quirk_5_the_compat_name_is_looked_for_anywhere() -> None:
    assert compat_name_in_the_middle(SEED) == 7
    assert compat_name_in_the_middle(STRICT) == -EINVAL


def test_quirk_6_sections_reach_any_handler_and_the_newest_entry_wins() -> None:
    board, device = live_board()
    other = PlainDevice(v=1)
    plug_handlers(board, "other", BYTE, other)
    # The same section id names two devices; a PART finds the later one.
    wire = stream(
        start_section(0, "ram", b"\x02"),
        full_section(0, "other", b"\x03", footer_id=1),
        part_section(0, b"\x04", footer_id=1),
    )
    assert loads(STRICT, wire, board) is not None
    assert loads(SEED, wire, board) is None
    assert (vars(device)["v"], vars(other)["v"]) == (2, 4)


def test_quirk_7_the_end_of_the_file_looks_like_eof_until_the_error_is_asked_for() -> None:
    cut = header() + full_section(0, "dev", b"\x07")
    board, device = described(STRICT, v=1, s=1)
    early = loads(STRICT, cut, board)
    assert early is not None
    assert (early.errno, vars(device)["v"], board.synchronized_post_init) == (EIO, 1, 0)
    late = loads(SEED, cut, board)
    assert late is not None
    assert (late.errno, vars(device)["v"], board.synchronized_post_init) == (EIO, 7, 1)


def test_quirk_8_the_description_is_read_without_looking_at_errors() -> None:
    board, _device = described(STRICT, v=1, s=1)
    wire = stream(full_section(0, "dev", b"\x07"), behind=vmdesc(b"{}", size=0xFFFFFFFF))
    assert loads(STRICT, wire, board) is not None
    assert loads(SEED, wire, board) is None


def test_quirk_9_a_positive_result_is_success() -> None:
    for ops_result, kind in ((5, "old-style"), (1, "described")):
        board, device = Machine("none"), PlainDevice(v=1)
        if kind == "described":
            plug(board, REFUSING, device)
        else:
            ops = SaveVMHandlers(
                save_state=lambda f, o: None,
                load_state=lambda f, o, v, ret=ops_result: get_byte(f, o, v) + ret,  # type: ignore[misc]
            )
            plug_handlers(board, "dev", ops, device)
        wire = stream(full_section(0, "dev", b"\x07"))
        error = loads(STRICT, wire, board)
        assert error is not None
        assert error.actual == ops_result
        assert loads(SEED, wire, board) is None


def test_quirk_10_skipping_does_nothing_at_the_end() -> None:
    seed = QEMUFileReader(b"ab", profile=SEED)
    for _ in range(3):
        seed.skip(3)
    assert (seed.tell(), seed.get_error()) == (0, 0)
    strict = QEMUFileReader(b"ab")
    with pytest.raises(LoadError):
        strict.skip(3)


def test_quirk_11_ram_has_its_quirks_shown_with_ram() -> None:
    assert {name for name in ELSEWHERE if name.startswith("ram_")} == {
        "ram_block_survives_loads", "ram_bound_is_max_length", "ram_list_unchecked",
        "ram_fill_byte_unchecked", "ram_compress_page_dereferences_null",
    }  # fmt: skip


@pytest.mark.parametrize(
    "size_field",
    [
        vmstate_fields.varray("a", fieldtypes.UINT8, "n", "int32"),
        vmstate_fields.vbuffer("b", "n"),
    ],
    ids=["count", "size"],
)
def test_quirk_12_a_negative_count_or_size_loads_nothing(
    size_field: VMStateField,
) -> None:
    vmsd = VMStateDescription("dev", fields=(vmstate_fields.int32("n"), size_field))
    board, device = described(STRICT, vmsd, n=0, a=[5], b=bytearray(b"x"))
    wire = stream(full_section(0, "dev", b"\xff\xff\xff\xfe"))
    assert loads(STRICT, wire, board) is not None
    assert vars(device)["n"] == 0
    assert loads(SEED, wire, board) is None
    assert (vars(device)["n"], vars(device)["a"], vars(device)["b"]) == (-2, [5], b"x")


def test_quirk_13_what_was_loaded_before_the_fault_stays() -> None:
    board, device = described(STRICT, v=1, s=1)
    late = stream(full_section(0, "dev", b"\x07"), full_section(1, "nobody"))
    before = board.digest()
    assert loads(STRICT, late, board) is not None
    assert board.digest() == before
    assert loads(SEED, late, board) is not None
    assert vars(device)["v"] == 7
