"""Saving RAM: the bytes of each section, rounds, budgets, differences."""

from collections.abc import Callable, Sequence
from errno import EIO, ENOTSUP

import pytest
from hypothesis import given
from hypothesis import strategies as st

from savevm.machine import Machine
from savevm.qemufile import Buffer, BytesSink, QEMUFileReader, QEMUFileWriter
from savevm.ram import RAMBlock, RAMFlag, RAMState, ram_load
from savevm.ram.save import (
    ram_save_cancel,
    ram_save_complete,
    ram_save_iterate,
    ram_save_pending,
    ram_save_setup,
    ram_set_params,
)
from savevm.registry import MigrationParams
from savevm.save import save_to_bytes

PAGE = 1024
EOS = bytes.fromhex("0000000000000010")


def word(value: int) -> bytes:
    return value.to_bytes(8, "big")


def written(save: Callable[[QEMUFileWriter, RAMState], int], ram: RAMState) -> tuple[bytes, int]:
    """What one callback writes, and what it returns."""
    sink = BytesSink()
    f = QEMUFileWriter(sink)
    ret = save(f, ram)
    f.flush()
    return bytes(sink.data), ret


def two_blocks() -> tuple[RAMState, RAMBlock, RAMBlock]:
    ram = RAMState(PAGE)
    a, b = ram.add_block("pc.ram", 3 * PAGE), ram.add_block("rom", PAGE, 2 * PAGE)
    a.write(PAGE, b"x" * PAGE)
    return ram, a, b


# -- the bytes --------------------------------------------------------------------------


def test_setup_sends_the_block_list_and_eos() -> None:
    ram, _, _ = two_blocks()
    data, ret = written(ram_save_setup, ram)
    assert ret == 0
    assert data == b"".join(
        [
            word(4 * PAGE | 0x04),
            b"\x06pc.ram",
            word(3 * PAGE),
            b"\x03rom",
            word(PAGE),
            EOS,
        ]
    )
    assert ram.dirty_pages() == 4


def test_without_blocks_the_list_is_empty_and_there_is_nothing_to_send() -> None:
    ram = RAMState(PAGE)
    ram.new_region("unnamed", PAGE)
    assert written(ram_save_setup, ram) == (bytes.fromhex("0000000000000004") + EOS, 0)
    assert written(ram_save_iterate, ram) == (EOS, 1)
    assert written(ram_save_complete, ram) == (EOS, 0)


def test_pages_are_named_once_a_block_and_zero_pages_take_one_byte() -> None:
    ram, _, _ = two_blocks()
    written(ram_save_setup, ram)
    data, ret = written(ram_save_iterate, ram)
    assert ret == 1
    assert data == b"".join(
        [
            word(0 | 0x02) + b"\x06pc.ram" + b"\0",
            word(PAGE | 0x28) + b"x" * PAGE,
            word(2 * PAGE | 0x22) + b"\0",
            word(0 | 0x02) + b"\x03rom" + b"\0",
            EOS,
        ]
    )
    assert written(ram_save_complete, ram) == (EOS, 0)


def test_each_section_names_its_first_block_again() -> None:
    ram, _, _ = two_blocks()
    ram.pages_per_iterate = 1
    written(ram_save_setup, ram)
    assert written(ram_save_iterate, ram) == (word(0x02) + b"\x06pc.ram\0" + EOS, 0)
    expected = word(PAGE | 0x08) + b"\x06pc.ram" + b"x" * PAGE + EOS
    assert written(ram_save_iterate, ram) == (expected, 0)
    data, ret = written(ram_save_complete, ram)
    assert ret == 0
    rest = word(2 * PAGE | 0x02) + b"\x06pc.ram\0" + word(0x02) + b"\x03rom\0" + EOS
    assert data == rest


def test_a_page_that_only_begins_with_zeros_is_sent_in_full() -> None:
    ram = RAMState(PAGE)
    ram.add_block("a", PAGE).write(PAGE - 1, b"\1")
    written(ram_save_setup, ram)
    assert written(ram_save_iterate, ram)[0] == word(0x08) + b"\x01a" + bytes(1023) + b"\1" + EOS


def test_long_runs_are_the_same_bytes_as_single_pages() -> None:
    ram = RAMState(PAGE)
    block = ram.add_block("a", 200 * PAGE)
    for page in range(0, 200, 3):
        block.write(page * PAGE + page, b"\xff")
    written(ram_save_setup, ram)
    data, _ = written(ram_save_iterate, ram)
    expected = []
    for page in range(200):
        named = b"\x01a" if not page else b""
        flags = (0x02 if page % 3 else 0x08) | (0x20 if page else 0)
        content = b"\0" if page % 3 else block.read(page * PAGE, PAGE)
        expected.append(word(page * PAGE | flags) + named + content)
    assert data == b"".join(expected) + EOS


# -- rounds -------------------------------------------------------------------------------


def test_what_the_guest_writes_after_a_page_was_sent_is_sent_again() -> None:
    ram, a, b = two_blocks()
    ram.pages_per_iterate = 2
    written(ram_save_setup, ram)
    written(ram_save_iterate, ram)
    a.write(5, b"new")
    assert ram_save_pending(QEMUFileWriter(BytesSink()), ram, 0) == 3 * PAGE
    # The search goes on where it stopped and comes round to what is dirty again.
    data, ret = written(ram_save_iterate, ram)
    assert ret == 0
    assert data == word(2 * PAGE | 0x02) + b"\x06pc.ram\0" + word(0x02) + b"\x03rom\0" + EOS
    data, ret = written(ram_save_iterate, ram)
    assert ret == 1
    assert data == word(0x08) + b"\x06pc.ram" + a.read(0, PAGE) + EOS
    b.write(0, b"late")
    data, _ = written(ram_save_complete, ram)
    assert data == word(0x08) + b"\x03rom" + b.read(0, PAGE) + EOS
    assert ram.dirty_pages() == 0


def test_what_was_sent_is_not_what_is_written_afterwards() -> None:
    ram, a, _ = two_blocks()
    written(ram_save_setup, ram)
    sink = BytesSink()
    f = QEMUFileWriter(sink)
    ram_save_iterate(f, ram)
    a.write(PAGE, b"y" * PAGE)
    f.flush()
    assert b"x" * PAGE in sink.data
    assert b"y" not in sink.data


@given(
    dirtied=st.lists(st.lists(st.integers(0, 15), max_size=4), max_size=6),
    budget=st.integers(5, 9),
)
def test_rounds_converge_and_the_destination_equals_the_source(
    dirtied: list[list[int]], budget: int
) -> None:
    source, target = RAMState(PAGE, pages_per_iterate=budget), RAMState(PAGE)
    block = source.add_block("a", 16 * PAGE)
    target.add_block("a", 16 * PAGE).write(0, b"junk" * 4 * 1024)
    sections = [written(ram_save_setup, source)[0]]
    rounds = iter(dirtied)
    # Each round sends more than the guest writes, so this ends.
    for _ in range(len(dirtied) + 16):
        for page in next(rounds, []):
            block.write(page * PAGE + page, bytes([page + 1]))
        data, ret = written(ram_save_iterate, source)
        sections.append(data)
        if ret and not ram_save_pending(QEMUFileWriter(BytesSink()), source, 0):
            break
    else:
        pytest.fail("the rounds did not converge")
    for page in next(rounds, []):
        block.write(page * PAGE, b"end")
    sections.append(written(ram_save_complete, source)[0])
    f = QEMUFileReader(b"".join(sections))
    for _ in sections:
        ram_load(f, target, 4)
    assert target.digest() == source.digest()


def test_a_rate_limit_stops_a_round_after_the_page_that_exceeds_it() -> None:
    ram = RAMState(PAGE)
    ram.add_block("a", 8 * PAGE).write(0, b"x" * 8 * PAGE)
    written(ram_save_setup, ram)
    sink = BytesSink()
    f = QEMUFileWriter(sink, rate_limit=2 * PAGE)
    assert ram_save_iterate(f, ram) == 0
    f.flush()
    # Two pages and their words are more than two pages: the second one exceeds.
    assert len(sink.data) == 2 * (8 + PAGE) + 2 + 8
    assert ram_save_iterate(f, ram) == 0
    f.flush()
    assert sink.data.endswith(EOS + EOS)
    f.reset_rate_limit()
    assert ram_save_iterate(f, ram) == 0
    assert ram.dirty_pages() == 4


def test_completion_knows_no_rate() -> None:
    ram = RAMState(PAGE)
    ram.add_block("a", 8 * PAGE).write(0, b"x" * 8 * PAGE)
    written(ram_save_setup, ram)
    f = QEMUFileWriter(BytesSink(), rate_limit=1)
    f.put_be64(0)
    assert ram_save_complete(f, ram) == 0
    assert ram.dirty_pages() == 0


def test_cancelling_forgets_how_far_the_save_was() -> None:
    ram, _, _ = two_blocks()
    ram.pages_per_iterate = 1
    ram_set_params(MigrationParams(blk=True), ram)
    first = written(ram_save_setup, ram)[0], written(ram_save_iterate, ram)[0]
    assert ram.outgoing.params.blk
    assert ram.outgoing.page == 1
    ram_save_cancel(ram)
    assert ram.outgoing.page == 0
    assert not ram.outgoing.params.blk
    assert (written(ram_save_setup, ram)[0], written(ram_save_iterate, ram)[0]) == first


# -- failures -----------------------------------------------------------------------------


class Broken:
    """A sink that takes nothing."""

    def writev(self, pieces: Sequence[Buffer], position: int) -> None:
        raise OSError(EIO, "broken")

    def close(self) -> None:
        pass


def test_a_failing_sink_ends_the_round_with_its_errno() -> None:
    ram = RAMState(PAGE)
    ram.add_block("a", 256 * PAGE).write(0, b"x" * 256 * PAGE)
    f = QEMUFileWriter(Broken())
    assert ram_save_setup(f, ram) == 0
    f.flush()
    assert ram_save_iterate(f, ram) == -EIO
    assert ram.dirty_pages() == 256
    assert ram_save_complete(f, ram) == -EIO


def test_ram_that_keeps_nothing_is_not_saved() -> None:
    ram = RAMState(PAGE)
    ram.add_block("a", PAGE, store=False)
    assert written(ram_save_setup, ram) == (b"", -ENOTSUP)


# -- differences ----------------------------------------------------------------------------


def rounds_with_xbzrle(**settings: int) -> tuple[RAMState, RAMBlock]:
    """RAM of four pages after its bulk stage."""
    ram = RAMState(PAGE, xbzrle=True, **settings)  # type: ignore[arg-type]
    block = ram.add_block("a", 4 * PAGE)
    block.write(0, bytes(range(1, 256)) * 16)
    written(ram_save_setup, ram)
    assert written(ram_save_iterate, ram)[1] == 1
    return ram, block


def test_pages_are_sent_in_full_until_they_are_remembered_then_as_differences() -> None:
    ram, block = rounds_with_xbzrle()
    block.write(7, b"\0")
    data, _ = written(ram_save_iterate, ram)
    assert data == word(0x08) + b"\x01a" + block.read(0, PAGE) + EOS
    block.write(9, b"\0\0")
    block.write(1023, b"\0")
    data, ret = written(ram_save_iterate, ram)
    encoded = bytes.fromhex("09 02 0000 f407 01 00")
    assert data == word(0x40) + b"\x01a" + b"\x01" + (8).to_bytes(2, "big") + encoded + EOS
    assert ret == 1


def test_a_dirty_page_that_is_what_it_was_is_not_sent() -> None:
    ram, block = rounds_with_xbzrle()
    for _ in range(2):
        block.write(0, block.read(0, 2 * PAGE))
        data, _ = written(ram_save_iterate, ram)
    assert data == EOS


def test_a_page_that_changed_all_over_is_sent_in_full() -> None:
    ram, block = rounds_with_xbzrle()
    block.write(0, b"\1")
    written(ram_save_iterate, ram)
    block.write(0, b"\xff\xfe" * (PAGE // 2))
    assert written(ram_save_iterate, ram)[0] == (
        word(0x08) + b"\x01a" + b"\xff\xfe" * (PAGE // 2) + EOS
    )
    # And it is remembered as it is now.
    block.write(0, b"\0")
    assert written(ram_save_iterate, ram)[0].startswith(word(0x40))


def test_a_page_that_became_zero_is_remembered_as_zero() -> None:
    ram, block = rounds_with_xbzrle()
    block.write(0, bytes(PAGE))
    assert written(ram_save_iterate, ram)[0] == word(0x02) + b"\x01a\0" + EOS
    block.write(3, b"\5")
    assert written(ram_save_iterate, ram)[0] == (
        word(0x40) + b"\x01a" + b"\x01\x00\x03" + bytes.fromhex("030105") + EOS
    )


def test_the_last_stage_compares_but_remembers_nothing_new() -> None:
    ram, block = rounds_with_xbzrle()
    block.write(0, b"\1\1")
    written(ram_save_iterate, ram)
    block.write(0, b"\2")
    cache = ram.outgoing.cache
    assert cache is not None
    before = cache.get(block, 0)
    data, _ = written(ram_save_complete, ram)
    assert data == word(0x40) + b"\x01a" + b"\x01\x00\x03" + bytes.fromhex("000102") + EOS
    assert cache.get(block, 0) == before


@pytest.mark.parametrize("limit", [0, 1])
def test_the_page_remembered_longest_makes_room(limit: int) -> None:
    ram, block = rounds_with_xbzrle(xbzrle_cache_pages=limit)
    for _ in range(3):
        block.write(0, b"\1")
        block.write(PAGE, b"\1")
        data, _ = written(ram_save_iterate, ram)
        assert data.startswith(word(0x08))
    cache = ram.outgoing.cache
    assert cache is not None
    assert len(cache) == limit


@given(
    writes=st.lists(
        st.lists(
            st.tuples(st.integers(0, 4 * PAGE - 8), st.binary(min_size=1, max_size=8)), max_size=4
        ),
        min_size=1,
        max_size=6,
    ),
    cache=st.integers(0, 4),
)
def test_differences_rebuild_the_source(writes: list[list[tuple[int, bytes]]], cache: int) -> None:
    source, block = rounds_with_xbzrle(xbzrle_cache_pages=cache)
    target = RAMState(PAGE)
    target.add_block("a", 4 * PAGE).write(0, block.read(0, 4 * PAGE))
    kinds = set()
    for number, some in enumerate(writes):
        for at, data in some:
            block.write(at, data)
        last = number == len(writes) - 1
        section, _ = written(ram_save_complete if last else ram_save_iterate, source)
        kinds.add(section[7] & 0x7F)
        ram_load(QEMUFileReader(section), target, 4)
        assert target.digest() == source.digest()
    assert kinds <= {RAMFlag.PAGE, RAMFlag.XBZRLE, RAMFlag.ZERO, RAMFlag.EOS}


# -- in a machine -------------------------------------------------------------------------------


def test_a_machines_stream_carries_start_part_and_end() -> None:
    machine = Machine("small")
    machine.suppress_vmdesc = True
    machine.send_configuration = False
    ram = RAMState()
    ram.add_block("pc.ram", 4096)
    ram.register(machine)
    section = b"\0\0\0\0"
    footer = b"\x7e" + section
    assert save_to_bytes(machine) == b"".join(
        [
            b"QEVM\0\0\0\x03",
            b"\x01" + section + b"\x03ram" + bytes(4) + b"\0\0\0\x04",
            word(0x1004) + b"\x06pc.ram" + word(0x1000) + EOS + footer,
            b"\x02" + section + word(0x02) + b"\x06pc.ram\0" + EOS + footer,
            b"\x03" + section + EOS + footer,
            b"\0",
        ]
    )
