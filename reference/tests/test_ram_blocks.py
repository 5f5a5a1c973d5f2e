"""RAM blocks, their names, their memory, and the registration of regions."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from savevm.errors import LoadError
from savevm.machine import Machine
from savevm.ram import (
    RAM_BLOCKS_MAX,
    RAMBlock,
    RAMList,
    RAMState,
    vmstate_register_ram,
    vmstate_register_ram_global,
    vmstate_unregister_ram,
)
from savevm.ram.pages import DenseMemory, NoMemory, PageMemory
from savevm.ram.sparse import SparseMemory

PAGE = 4096
SMALL = 1024


class Card:
    """A device on a bus, or off it."""

    def __init__(self, path: str | None) -> None:
        self._path = path

    def dev_path(self) -> str | None:
        return self._path


# -- names ---------------------------------------------------------------------------


def test_a_region_of_a_device_is_named_by_path_and_region() -> None:
    ram = RAMList(PAGE)
    region = ram.new_region("e1000.rom", PAGE)
    vmstate_register_ram(region, Card("0000:00:03.0"))
    assert region.block.idstr == "0000:00:03.0/e1000.rom"
    assert ram.find_block("0000:00:03.0/e1000.rom") is region.block


def test_a_region_of_a_device_without_a_path_keeps_its_own_name() -> None:
    ram = RAMList(PAGE)
    region = ram.new_region("vga.vram", PAGE)
    vmstate_register_ram(region, Card(None))
    assert region.block.idstr == "vga.vram"


def test_a_global_region_has_its_own_name() -> None:
    region = RAMList(PAGE).new_region("pc.bios", PAGE)
    vmstate_register_ram_global(region)
    assert region.block.idstr == "pc.bios"


def test_unregistering_takes_the_name_and_the_block_out_of_migration() -> None:
    ram = RAMList(PAGE)
    region = ram.new_region("pc.bios", PAGE)
    assert ram.migratable() == []
    vmstate_register_ram_global(region)
    assert ram.migratable() == [region.block]
    vmstate_unregister_ram(region, None)
    assert region.block.idstr == ""
    assert ram.migratable() == []
    assert ram.find_block("") is None
    vmstate_register_ram_global(region)
    assert ram.find_block("pc.bios") is region.block


def test_a_name_is_given_once() -> None:
    ram = RAMList(PAGE)
    ram.add_block("pc.ram", PAGE)
    with pytest.raises(ValueError, match="already registered"):
        ram.add_block("pc.ram", PAGE)
    assert len(ram.blocks) == 1
    region = ram.new_region("pc.ram", PAGE)
    with pytest.raises(ValueError, match="already registered"):
        vmstate_register_ram_global(region)


def test_a_block_is_named_once() -> None:
    ram = RAMList(PAGE)
    region = ram.new_region("a", PAGE)
    vmstate_register_ram_global(region)
    with pytest.raises(ValueError, match="has a name already"):
        vmstate_register_ram(region, Card("bus"))


@pytest.mark.parametrize("name", ["", "x" * 256, "\N{EURO SIGN}"], ids=["empty", "long", "wide"])
def test_a_name_that_does_not_fit_its_length_byte_is_refused(name: str) -> None:
    with pytest.raises(ValueError):
        RAMList(PAGE).add_block(name, PAGE)


# -- lengths ----------------------------------------------------------------------------


@pytest.mark.parametrize("page_size", [0, 512, 3000, 0x20000])
def test_no_target_has_such_pages(page_size: int) -> None:
    with pytest.raises(ValueError):
        RAMList(page_size)


@pytest.mark.parametrize(
    ("used", "longest"),
    [(PAGE + 1, None), (-PAGE, None), (PAGE, PAGE + 1), (2 * PAGE, PAGE)],
)
def test_lengths_are_whole_pages_and_agree(used: int, longest: int | None) -> None:
    with pytest.raises(ValueError):
        RAMList(PAGE).add_block("a", used, longest)


def test_there_is_an_end_to_blocks() -> None:
    ram = RAMList(PAGE)
    for number in range(RAM_BLOCKS_MAX):
        ram.add_block(f"block {number}", 0)
    with pytest.raises(ValueError):
        ram.add_block("one more", 0)


def test_a_resizeable_block_takes_any_length_up_to_its_own() -> None:
    block = RAMBlock(PAGE, PAGE, 4 * PAGE, idstr="acpi")
    block.memory.mark_clean(0, 4)
    block.resize(2 * PAGE + 1)
    assert block.used_length == 3 * PAGE
    assert block.memory.dirty_count(3) == 3
    with pytest.raises(LoadError) as caught:
        block.resize(4 * PAGE + 1)
    assert caught.value.qemu == "Length too large: acpi: 0x5000 > 0x4000"
    assert block.used_length == 3 * PAGE


def test_a_fixed_block_takes_its_own_length_only() -> None:
    block = RAMBlock(PAGE, 2 * PAGE, idstr="pc.ram")
    block.resize(2 * PAGE)
    with pytest.raises(LoadError) as caught:
        block.resize(PAGE)
    assert caught.value.qemu == "Length mismatch: pc.ram: 0x1000 in != 0x2000"
    assert (caught.value.expected, caught.value.actual) == (0x2000, 0x1000)


@pytest.mark.parametrize(("offset", "size"), [(-1, 1), (PAGE, 1), (PAGE - 1, 2), (0, -1)])
def test_reading_and_writing_stay_in_use(offset: int, size: int) -> None:
    block = RAMBlock(PAGE, PAGE, 2 * PAGE, idstr="a")
    with pytest.raises(ValueError):
        block.read(offset, size)
    if size >= 0:
        with pytest.raises(ValueError):
            block.write(offset, bytes(size))


# -- memory -------------------------------------------------------------------------------


def test_a_write_marks_the_pages_it_touches() -> None:
    memory = DenseMemory(SMALL, 5)
    memory.write(2 * SMALL - 1, b"ab")
    assert memory.dirty == bytes([0, 1, 1, 0, 0])
    assert memory.next_dirty(0, 5) == 1
    assert memory.next_dirty(3, 5) == -1
    assert memory.dirty_count(2) == 1
    memory.mark_clean(1, 2)
    assert memory.dirty_count(5) == 0
    memory.write(0, b"")
    assert memory.dirty_count(5) == 0


def test_nothing_is_kept_where_nothing_is_stored() -> None:
    memory = NoMemory(SMALL, 1 << 50)
    memory.write(SMALL, b"abc")
    memory.put_pages(0, 1, memoryview(bytes(SMALL)), 0, SMALL)
    memory.put_zero_pages(0, 1 << 40)
    assert memory.read(SMALL, 3) == bytes(3)
    assert memory.page_list(7, 2) == [bytes(SMALL)] * 2
    assert memory.zero_pages(0, 2) == [0, 1]
    assert memory.digest(1 << 60) == NoMemory(SMALL, 0).digest(0)
    memory.stage()
    memory.commit()
    memory.mark_dirty(0, 4)
    memory.mark_clean(0, 4)
    assert memory.dirty_count(1 << 50) == 0


@pytest.mark.parametrize("kind", [DenseMemory, SparseMemory])
def test_zero_pages_are_found_among_others(kind: type[PageMemory]) -> None:
    memory = kind(SMALL, 6)
    memory.write(1 * SMALL, b"x")
    memory.write(3 * SMALL + 5, b"x")
    memory.write(4 * SMALL, b"x")
    memory.write(4 * SMALL, b"\0")
    assert memory.zero_pages(0, 6) == [0, 2, 4, 5]
    assert memory.zero_pages(3, 2) == [4]


@pytest.mark.parametrize("kind", [DenseMemory, SparseMemory])
def test_the_digest_covers_every_byte_in_use_and_no_other(kind: type[PageMemory]) -> None:
    memory = kind(SMALL, 3)
    before = memory.digest(2 * SMALL)
    memory.write(2 * SMALL, b"x")
    assert memory.digest(2 * SMALL) == before
    memory.write(2 * SMALL - 1, b"x")
    assert memory.digest(2 * SMALL) != before


WRITES = st.lists(
    st.one_of(
        st.tuples(st.just("write"), st.integers(0, 6 * SMALL - 1), st.binary(max_size=2100)),
        st.tuples(st.just("page"), st.integers(0, 5), st.binary(min_size=SMALL, max_size=SMALL)),
        st.tuples(st.just("zero"), st.integers(0, 5), st.just(b"")),
    ),
    max_size=6,
)


def _apply(memory: PageMemory, model: bytearray, writes: list[tuple[str, int, bytes]]) -> set[int]:
    touched: set[int] = set()
    for what, where, data in writes:
        if what == "write":
            data = data[: len(model) - where]
            memory.write(where, data)
            model[where : where + len(data)] = data
            if data:
                touched |= set(range(where // SMALL, (where + len(data) - 1) // SMALL + 1))
        elif what == "page":
            memory.put_pages(where, 1, memoryview(b"??" + data), 2, SMALL)
            model[where * SMALL : (where + 1) * SMALL] = data
            touched.add(where)
        else:
            memory.put_zero_pages(where, 1)
            model[where * SMALL : (where + 1) * SMALL] = bytes(SMALL)
            touched.add(where)
        assert memory.read(0, len(model)) == model
        assert memory.read(SMALL - 3, 7) == model[SMALL - 3 : SMALL + 4]
    return touched


@pytest.mark.parametrize("kind", [DenseMemory, SparseMemory])
@given(before=WRITES, aside=WRITES, keep=st.booleans(), again=WRITES)
def test_staged_writes_show_at_once_and_stay_only_when_committed(
    kind: type[PageMemory],
    before: list[tuple[str, int, bytes]],
    aside: list[tuple[str, int, bytes]],
    keep: bool,
    again: list[tuple[str, int, bytes]],
) -> None:
    memory, model = kind(SMALL, 6), bytearray(6 * SMALL)
    _apply(memory, model, before)
    memory.mark_clean(0, 6)
    memory.mark_dirty(5, 1)
    # Twice, since the second load finds the first one's shadow.
    for writes in (aside, again):
        kept, dirty, digest = bytes(model), bytes(memory.dirty), memory.digest(6 * SMALL)
        memory.stage()
        touched = _apply(memory, model, writes)
        assert memory.dirty == dirty
        if keep:
            memory.commit()
            assert memory.dirty == bytes(
                1 if page in touched else old for page, old in enumerate(dirty)
            )
        else:
            memory.rollback()
            model[:] = kept
            assert memory.dirty == dirty
            assert memory.digest(6 * SMALL) == digest
        assert memory.read(0, 6 * SMALL) == model
        assert b"".join(memory.page_list(0, 6)) == model


def test_a_staged_resize_marks_pages_only_when_committed() -> None:
    memory = DenseMemory(SMALL, 3)
    memory.stage()
    memory.touch()
    assert memory.dirty_count(3) == 0
    memory.rollback()
    assert memory.dirty_count(3) == 0
    memory.stage()
    memory.touch()
    memory.commit()
    assert memory.dirty_count(3) == 3


# -- on a machine ----------------------------------------------------------------------------


def test_registering_makes_the_live_handler_ram() -> None:
    machine, ram = Machine(), RAMState()
    entry = ram.register(machine)
    assert machine.ram is ram
    assert (entry.idstr, entry.instance_id, entry.version_id) == ("ram", 0, 4)
    assert entry.live
    assert entry.is_ram
    assert entry.ops is not None
    assert entry.ops.is_active is not None
    assert entry.ops.is_active(ram)


def test_ram_of_other_pages_than_the_machines_is_refused() -> None:
    with pytest.raises(ValueError):
        RAMState(SMALL).register(Machine())


def test_impossible_settings_are_refused() -> None:
    with pytest.raises(ValueError):
        RAMState(0x4000, xbzrle=True)
    with pytest.raises(ValueError):
        RAMState(pages_per_iterate=0)


def test_the_digest_tells_names_lengths_and_contents_apart() -> None:
    digests = set()
    for name, used, longest, data in [
        ("a", PAGE, None, b""),
        ("b", PAGE, None, b""),
        ("a", 2 * PAGE, None, b""),
        ("a", PAGE, 2 * PAGE, b""),
        ("a", PAGE, None, b"\1"),
    ]:
        ram = RAMState()
        ram.add_block(name, used, longest).write(7, data)
        digests.add(ram.digest())
    assert len(digests) == 5
