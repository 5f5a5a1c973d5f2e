"""Loading RAM: what is taken, what is refused and how, under both profiles."""

from dataclasses import replace
from errno import EFAULT, EINVAL, EIO

import pytest

from savevm.errors import LoadError
from savevm.load import load_from_bytes
from savevm.machine import Machine
from savevm.profile import SEED, STRICT, Profile
from savevm.qemufile import QEMUFileReader
from savevm.ram import RAMState, ram_load, vmstate_unregister_ram
from savevm.save import save_to_bytes
from savevm.trace import TraceLog

PAGE = 1024
EOS = bytes.fromhex("0000000000000010")


def word(value: int) -> bytes:
    return value.to_bytes(8, "big")


def named(address: int, flags: int, name: str = "a") -> bytes:
    return word(address | flags) + bytes([len(name)]) + name.encode("latin-1")


def page(fill: bytes) -> bytes:
    return fill * PAGE


def entry(name: str, length: int) -> bytes:
    return bytes([len(name)]) + name.encode("latin-1") + word(length)


def small_ram() -> RAMState:
    """Block "a" of four pages of 0xaa that may grow to six, block "b" of one page of 0xbb."""
    ram = RAMState(PAGE)
    ram.add_block("a", 4 * PAGE, 6 * PAGE).write(0, b"\xaa" * 4 * PAGE)
    ram.add_block("b", PAGE).write(0, b"\xbb" * PAGE)
    return ram


def load(
    ram: RAMState, data: bytes, *, profile: Profile = STRICT, version: int = 4
) -> QEMUFileReader:
    f = QEMUFileReader(data, profile=profile)
    assert ram_load(f, ram, version) == 0
    return f


def refusal(data: bytes, *, profile: Profile = STRICT, ram: RAMState | None = None) -> LoadError:
    with pytest.raises(LoadError) as caught:
        load(small_ram() if ram is None else ram, data, profile=profile)
    return caught.value


# -- what is taken --------------------------------------------------------------------------


def test_pages_of_each_form_arrive() -> None:
    ram = small_ram()
    a, b = ram.blocks
    for block in ram.blocks:
        block.memory.mark_clean(0, block.used_pages)
    items = [
        named(PAGE, 0x08) + page(b"1"),
        word(2 * PAGE | 0x22) + b"\0",
        named(0, 0x02, "b") + b"\0",
        named(3 * PAGE, 0x40) + b"\x01\x00\x04" + bytes.fromhex("05024142"),
        word(3 * PAGE | 0x60) + b"\x01\x00\x03" + bytes.fromhex("070143"),
    ]
    f = load(ram, b"".join(items) + EOS + b"rest")
    assert f.get_buffer(4) == b"rest"
    tail = b"\xaa" * 5 + b"AB" + b"C" + b"\xaa" * (PAGE - 8)
    assert a.read(0, 4 * PAGE) == b"\xaa" * PAGE + page(b"1") + bytes(PAGE) + tail
    assert b.read(0, PAGE) == bytes(PAGE)
    assert bytes(a.memory.dirty) == bytes([0, 1, 1, 1, 0, 0])


@pytest.mark.parametrize("flags", [0x10, 0x30, 0x1000 | 0x10], ids=["plain", "continue", "address"])
def test_eos_ends_the_section_whatever_its_address(flags: int) -> None:
    assert load(small_ram(), word(flags) + b"x").tell() == 8


def test_a_flush_of_multifd_is_nothing() -> None:
    ram = small_ram()
    before = ram.digest()
    load(ram, word(0x200) + word(0x220) + EOS)
    assert ram.digest() == before


def test_a_block_list_names_lengths_and_resizes_what_may_be() -> None:
    ram = small_ram()
    load(ram, word(7 * PAGE | 4) + entry("b", PAGE) + entry("a", 6 * PAGE) + EOS)
    assert [block.used_length for block in ram.blocks] == [6 * PAGE, PAGE]
    load(ram, word(PAGE | 0x24) + entry("a", PAGE) + EOS)
    assert ram.blocks[0].used_length == PAGE


def test_an_empty_block_list_is_a_list() -> None:
    load(small_ram(), word(4) + EOS)


def test_a_block_may_continue_in_a_later_section_of_the_same_load() -> None:
    # QEMU names a block once a migration, not once a section (seen on 7.2).
    ram = small_ram()
    f = QEMUFileReader(named(0, 0x02) + b"\0" + EOS + word(PAGE | 0x22) + b"\0" + EOS)
    ram_load(f, ram, 4)
    ram_load(f, ram, 4)
    assert ram.blocks[0].read(PAGE, PAGE) == bytes(PAGE)


def test_a_staged_load_is_one_load_whatever_files_it_comes_from() -> None:
    ram = small_ram()
    ram.stage()
    load(ram, named(0, 0x02) + b"\0" + EOS)
    load(ram, word(PAGE | 0x22) + b"\0" + EOS)
    ram.commit()
    assert ram.blocks[0].read(PAGE, PAGE) == bytes(PAGE)


def test_a_difference_is_against_what_this_load_brought() -> None:
    ram = small_ram()
    ram.stage()
    change = word(0x60) + b"\x01\x00\x03" + bytes.fromhex("00017a")
    load(ram, named(0, 0x08) + page(b"n") + change + EOS)
    ram.commit()
    assert ram.blocks[0].read(0, 3) == b"znn"


# -- what is refused ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "offset", "path", "qemu"),
    [
        (word(0), 0, (), "Unknown combination of migration flags: 0x0"),
        (word(PAGE | 0x01), 0, (), "Unknown combination of migration flags: 0x1"),
        (word(0x18), 0, (), "Unknown combination of migration flags: 0x18"),
        (word(0x20), 0, (), "Unknown combination of migration flags: 0x20"),
        (word(0x80), 0, (), "Unknown combination of migration flags: 0x80"),
        (word(0xA0), 0, (), "Unknown combination of migration flags: 0xa0"),
        (word(0x210), 0, (), "Unknown combination of migration flags: 0x210"),
        (word(0x22) + b"\0", 0, ("page 0x0",), "Ack, bad migration stream!"),
        (word(0x28) + page(b"x"), 0, ("page 0x0",), "Ack, bad migration stream!"),
        (named(0, 0x02, "c") + b"\0", 8, ("page 0x0",), "Can't find block c!"),
        (named(0, 0x02, "") + b"\0", 8, ("page 0x0",), "Can't find block !"),
        (named(0, 0x02, "a\0") + b"\0", 8, ("page 0x0",), ""),
        (named(4 * PAGE, 0x02) + b"\0", 0, ("a", "page 0x1000"), "Can't find block a!"),
        (
            named(0, 0x02) + b"\0" + word(4 * PAGE | 0x28) + page(b"x"),
            11,
            ("a", "page 0x1000"),
            "Ack, bad migration stream!",
        ),
        (named(0, 0x02) + b"\5", 10, ("a", "page 0x0"), "Found a zero page with value 5"),
        (
            named(0, 0x40) + b"\x02\x00\x03\x00\x01\x41",
            10,
            ("a", "page 0x0"),
            "Failed to load XBZRLE page - wrong compression!",
        ),
        (
            named(0, 0x40) + b"\x01\x04\x01" + bytes(0x401),
            11,
            ("a", "page 0x0"),
            "Failed to load XBZRLE page - len overflow!",
        ),
        (
            named(0, 0x40) + b"\x01\x00\x01\x00",
            13,
            ("a", "page 0x0"),
            "Failed to load XBZRLE page - decode error!",
        ),
        (
            named(0, 0x100) + b"\0\0\0\0",
            0,
            ("a", "page 0x0"),
            "Unknown combination of migration flags: 0x100",
        ),
        (
            word(PAGE | 4) + entry("c", PAGE),
            8,
            ("block list", "c"),
            'Unknown ramblock "c", cannot accept migration',
        ),
        (
            word(2 * PAGE | 4) + entry("b", 2 * PAGE),
            10,
            ("block list", "b"),
            "Length mismatch: b: 0x800 in != 0x400",
        ),
        (
            word(7 * PAGE | 4) + entry("a", 7 * PAGE),
            10,
            ("block list", "a"),
            "Length too large: a: 0x1c00 > 0x1800",
        ),
        (word(2 * PAGE | 4) + entry("a", PAGE) * 2, 18, ("block list", "a"), ""),
        (word(PAGE | 4) + entry("a", 0), 10, ("block list", "a"), ""),
        (word(2 * PAGE | 4) + entry("a", PAGE + 1), 10, ("block list", "a"), ""),
        (word(PAGE | 4) + entry("a", 2 * PAGE), 10, ("block list", "a"), ""),
        (word(PAGE | 4) + entry("a\0", PAGE), 8, ("block list",), ""),
    ],
    ids=[
        "no flag",
        "FULL",
        "two kinds",
        "CONTINUE alone",
        "HOOK",
        "HOOK and CONTINUE",
        "EOS and another",
        "ZERO continues nothing",
        "PAGE continues nothing",
        "unknown block",
        "empty name",
        "NUL in a name",
        "address past the named block",
        "address past the continued block",
        "fill byte",
        "another encoding",
        "encoding longer than a page",
        "encoding that means nothing",
        "compressed page",
        "list names an unknown block",
        "list has another length",
        "list has too great a length",
        "list names a block twice",
        "list has an empty block",
        "list has half a page",
        "list has more than its total",
        "NUL in a listed name",
    ],
)
def test_a_bad_item_is_refused_where_it_is_bad(
    data: bytes, offset: int, path: tuple[str, ...], qemu: str
) -> None:
    error = refusal(data + EOS)
    assert (error.errno, error.offset, error.path) == (EINVAL, offset, path)
    assert error.qemu == qemu or not qemu
    staged = small_ram()
    before = staged.digest()
    staged.stage()
    refusal(data + EOS, ram=staged)
    staged.rollback()
    assert staged.digest() == before


def test_a_refusal_says_what_was_expected_and_read() -> None:
    error = refusal(named(4 * PAGE, 0x08) + page(b"x") + EOS)
    assert (error.expected, error.actual) == (4 * PAGE, 4 * PAGE)
    assert str(error) == "a: page 0x1000: address 0x1000 in a block of 0x1000 bytes (offset 0x0)"


@pytest.mark.parametrize("version", [0, 3, 5])
def test_no_version_but_four_is_read(version: int) -> None:
    with pytest.raises(LoadError) as caught:
        load(small_ram(), EOS, version=version)
    assert (caught.value.errno, caught.value.expected, caught.value.actual) == (EINVAL, 4, version)


def test_a_list_of_lies_ends() -> None:
    ram = RAMState(PAGE)
    ram.add_block("a", 0, PAGE)
    data = word(PAGE | 4) + entry("a", 0) * 65_537
    error = refusal(data, ram=ram, profile=SEED)
    assert error.reason == "a block list of more than 65536 blocks"


SECTION = b"".join(
    [
        word(5 * PAGE | 4) + entry("a", 4 * PAGE) + entry("b", PAGE),
        named(0, 0x08) + page(b"1"),
        word(PAGE | 0x28) + page(b"2"),
        word(2 * PAGE | 0x22) + b"\0",
        word(3 * PAGE | 0x22) + b"\0",
        named(0, 0x40, "b") + b"\x01\x00\x03\x05\x01\x41",
        EOS,
    ]
)


def test_truncation_at_every_offset_is_rejected_and_leaves_no_trace() -> None:
    ram = small_ram()
    before, dirty = ram.digest(), [bytes(block.memory.dirty) for block in ram.blocks]
    for length in range(len(SECTION)):
        ram.stage()
        error = refusal(SECTION[:length], ram=ram)
        ram.rollback()
        assert error.errno == EIO
        assert error.offset is not None
        assert error.offset <= length
        assert ram.digest() == before
    assert [bytes(block.memory.dirty) for block in ram.blocks] == dirty
    load(ram, SECTION)
    assert ram.digest() != before


def test_truncation_at_every_offset_is_rejected_by_the_seed_too() -> None:
    for length in range(len(SECTION)):
        assert refusal(SECTION[:length], profile=SEED).errno in (EIO, EINVAL)


# -- the seed's manners, each beside the right ones ------------------------------------------------

CONTINUES = word(PAGE | 0x22) + b"\0" + EOS


def test_the_seed_continues_the_block_of_an_earlier_load() -> None:
    ram = small_ram()
    first = named(0, 0x02) + b"\0" + EOS
    load(ram, first, profile=SEED)
    load(ram, CONTINUES, profile=SEED)
    assert ram.blocks[0].read(PAGE, PAGE) == bytes(PAGE)
    for stage in (False, True):
        ram = small_ram()
        load(ram, first)
        if stage:
            ram.stage()
        assert refusal(CONTINUES, ram=ram).reason == "CONTINUE before any block was named"


def test_the_last_block_survives_staged_loads_where_it_survives_at_all() -> None:
    survives = replace(STRICT, name="one", ram_block_survives_loads=True)
    ram = small_ram()
    ram.stage()
    load(ram, named(0, 0x02) + b"\0" + EOS, profile=survives)
    ram.commit()
    ram.stage()
    load(ram, CONTINUES, profile=survives)
    ram.rollback()
    load(ram, named(0, 0x02, "b") + b"\0" + EOS, profile=survives)
    ram.stage()
    assert refusal(CONTINUES, ram=ram, profile=survives).path == ("b", "page 0x400")
    ram.rollback()


def test_the_seed_forgets_the_block_after_a_name_it_does_not_find() -> None:
    ram = small_ram()
    load(ram, named(0, 0x02) + b"\0" + EOS, profile=SEED)
    refusal(named(6 * PAGE, 0x02) + b"\0", ram=ram, profile=SEED)
    assert refusal(CONTINUES, ram=ram, profile=SEED).qemu == "Ack, bad migration stream!"


def test_the_seed_loads_pages_between_used_and_max_length() -> None:
    data = named(5 * PAGE, 0x08) + page(b"x") + EOS
    ram = small_ram()
    load(ram, data, profile=SEED)
    ram.blocks[0].resize(6 * PAGE)
    assert ram.blocks[0].read(5 * PAGE, PAGE) == page(b"x")
    assert refusal(data).reason == "address 0x1400 in a block of 0x1000 bytes"
    far = refusal(named(6 * PAGE, 0x08) + page(b"x"), profile=SEED)
    assert far.qemu == "Can't find block a!"


def test_the_seeds_total_wraps_and_what_follows_is_read_as_blocks() -> None:
    data = word(2 * PAGE | 4) + entry("a", 4 * PAGE) + EOS
    assert refusal(data).reason == "length 0x1000 with 0x800 bytes of the total left"
    error = refusal(data, profile=SEED)
    assert (error.offset, error.path) == (18, ("block list", ""))
    assert error.qemu == 'Unknown ramblock "", cannot accept migration'


def test_the_seed_takes_a_list_that_names_a_block_twice() -> None:
    twice = word(8 * PAGE | 4) + entry("a", 4 * PAGE) * 2 + EOS
    load(small_ram(), twice, profile=SEED)
    assert refusal(twice).reason == "the block is listed twice"


def test_the_seed_rounds_a_listed_length_up_to_pages() -> None:
    ram = small_ram()
    # The total's low bits are flags, so the odd lengths make it up together.
    data = word(8 * PAGE | 4) + entry("a", 4 * PAGE + 1) + entry("a", 4 * PAGE - 1) + EOS
    load(ram, data, profile=SEED)
    assert ram.blocks[0].used_length == 4 * PAGE
    assert refusal(data).reason == "length 0x1001 is not one or more whole pages"


def test_the_seed_fills_a_page_with_any_byte() -> None:
    ram = small_ram()
    data = named(0, 0x02) + b"\x5a" + EOS
    load(ram, data, profile=SEED)
    assert ram.blocks[0].read(0, PAGE) == page(b"\x5a")
    assert refusal(data).reason == "expected fill byte 0x0, read 0x5a"


def test_a_compressed_page_kills_the_seed_and_is_refused_by_strict() -> None:
    data = named(0, 0x100) + b"\0\0\0\x02ab" + EOS
    assert refusal(data, profile=SEED).errno == EFAULT
    assert refusal(data).errno == EINVAL
    long = refusal(named(0, 0x100) + b"\xff\xff\xff\xff", profile=SEED)
    assert (long.errno, long.qemu) == (EINVAL, "Invalid compressed data length: -1")


def test_the_seed_compares_names_up_to_a_nul() -> None:
    ram = small_ram()
    load(ram, named(0, 0x02, "a\0b") + b"\0" + EOS, profile=SEED)
    assert ram.blocks[0].read(0, PAGE) == bytes(PAGE)


def test_the_seed_reads_zeros_at_the_end_and_takes_them_for_flags() -> None:
    error = refusal(b"", profile=SEED)
    assert (error.errno, error.qemu) == (EINVAL, "Unknown combination of migration flags: 0x0")
    assert refusal(b"").errno == EIO


def test_the_seed_keeps_the_part_of_a_page_that_came() -> None:
    ram = small_ram()
    error = refusal(named(0, 0x08) + b"xyz", ram=ram, profile=SEED)
    assert error.errno == EIO
    assert ram.blocks[0].read(0, 4) == b"xyz\xaa"


def test_the_seed_keeps_what_it_decoded_before_a_fault() -> None:
    ram = small_ram()
    data = named(0, 0x40) + b"\x01\x00\x04" + bytes.fromhex("00017a00")
    refusal(data, ram=ram, profile=SEED)
    assert ram.blocks[0].read(0, 2) == b"z\xaa"


@pytest.mark.parametrize(
    "switch",
    ["ram_block_survives_loads", "ram_bound_is_max_length", "ram_fill_byte_unchecked"],
)
def test_each_switch_works_alone(switch: str) -> None:
    profile = replace(STRICT, name="one", **{switch: True})
    ram = small_ram()
    load(ram, named(0, 0x02) + b"\0" + EOS, profile=profile)
    tried = {
        "ram_block_survives_loads": CONTINUES,
        "ram_bound_is_max_length": named(5 * PAGE, 0x02) + b"\0" + EOS,
        "ram_fill_byte_unchecked": named(0, 0x02) + b"\1" + EOS,
    }
    for name, data in tried.items():
        if name == switch:
            load(ram, data, profile=profile)
        else:
            refusal(data, ram=ram, profile=profile)


# -- trace, and in a machine ---------------------------------------------------------------------


def test_each_page_and_the_end_of_a_section_are_traced_as_qemu_does() -> None:
    ram, trace = small_ram(), TraceLog()
    f = QEMUFileReader(SECTION, trace=trace)
    ram_load(f, ram, 4)
    assert [str(event) for event in trace.events] == [
        "ram_load_loop a: addr: 0x0 flags: 0x8",
        "ram_load_loop a: addr: 0x400 flags: 0x28",
        "ram_load_loop a: addr: 0x800 flags: 0x22",
        "ram_load_loop a: addr: 0xc00 flags: 0x22",
        "ram_load_loop b: addr: 0x0 flags: 0x40",
        "ram_load_complete exit_code 0 seq iteration 1",
    ]
    with pytest.raises(LoadError):
        ram_load(f, ram, 4)
    assert str(trace.events[-1]) == "ram_load_complete exit_code -5 seq iteration 2"


def test_sections_are_counted_over_all_loads_but_those_taken_back() -> None:
    ram = small_ram()
    for keep, number in [(True, 1), (True, 2), (False, 3), (True, 3)]:
        trace = TraceLog()
        ram.stage()
        ram_load(QEMUFileReader(EOS, trace=trace), ram, 4)
        assert trace.named("ram_load_complete") == [(0, number)]
        ram.commit() if keep else ram.rollback()


def test_staging_is_begun_once_and_ended_once() -> None:
    ram = small_ram()
    for end in (ram.commit, ram.rollback):
        with pytest.raises(RuntimeError):
            end()
        ram.stage()
        with pytest.raises(RuntimeError):
            ram.stage()
        end()


def test_a_rolled_back_list_leaves_lengths_and_dirty_maps() -> None:
    ram = small_ram()
    block = ram.blocks[0]
    block.memory.mark_clean(0, 6)
    before = ram.digest()
    ram.stage()
    load(ram, word(6 * PAGE | 4) + entry("a", 6 * PAGE) + EOS)
    assert block.used_length == 6 * PAGE
    ram.rollback()
    assert ram.digest() == before
    ram.stage()
    ram.commit()
    assert block.memory.dirty_count(6) == 0
    ram.stage()
    load(ram, word(6 * PAGE | 4) + entry("a", 6 * PAGE) + EOS)
    ram.commit()
    assert block.memory.dirty_count(6) == 6


def machine_with_ram(fill: bytes) -> tuple[Machine, RAMState]:
    machine, ram = Machine("small"), RAMState()
    ram.add_block("pc.ram", 64 * 4096).write(4096, fill * 4096 * 40)
    ram.register(machine)
    return machine, ram


def test_a_machine_loads_what_another_saved() -> None:
    source, _ = machine_with_ram(b"s")
    target, _ = machine_with_ram(b"t")
    stream = save_to_bytes(source)
    load_from_bytes(target, stream)
    assert target.digest() == source.digest()
    assert save_to_bytes(target) == stream


def test_a_machine_whose_load_fails_in_ram_is_as_it_was() -> None:
    source, _ = machine_with_ram(b"s")
    target, ram = machine_with_ram(b"t")
    stream = bytearray(save_to_bytes(source))
    at = stream.index(b"sss")
    stream[at + 30 * 4104 - 1] ^= 0x40
    before = target.digest()
    with pytest.raises(LoadError) as caught:
        load_from_bytes(target, bytes(stream))
    assert caught.value.path == ("ram",)
    assert target.digest() == before
    assert not ram.staged


def test_a_region_that_lost_its_name_is_not_loaded_into() -> None:
    ram = small_ram()
    region = ram.new_region("rom", PAGE)
    vmstate_unregister_ram(region, None)
    assert refusal(named(0, 0x02, "rom") + b"\0", ram=ram).qemu == "Can't find block rom!"
