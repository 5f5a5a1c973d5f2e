"""RAM that a stream brings along: adopted blocks, their limits, and the same bytes again."""

from collections.abc import Callable
from errno import ENOMEM

import pytest
from hypothesis import given
from hypothesis import strategies as st

from savevm.errors import LoadError
from savevm.load import load_from_bytes
from savevm.machine import Machine
from savevm.profile import SEED
from savevm.qemufile import BytesSink, QEMUFileReader, QEMUFileWriter
from savevm.ram import ADOPT_PAGES_MAX, RAM_BLOCKS_MAX, RAMState, ram_load, schedule
from savevm.ram.save import (
    ram_save_complete,
    ram_save_iterate,
    ram_save_pending,
    ram_save_setup,
)

PAGE = 1024
EOS = bytes.fromhex("0000000000000010")


def word(value: int) -> bytes:
    return value.to_bytes(8, "big")


def named(address: int, flags: int, name: str) -> bytes:
    return word(address | flags) + bytes([len(name)]) + name.encode()


def block_list(**lengths: int) -> bytes:
    items = [bytes([len(name)]) + name.encode() + word(size) for name, size in lengths.items()]
    return word(sum(lengths.values()) | 4) + b"".join(items)


def adopt(sections: list[bytes], **settings: bool) -> RAMState:
    ram = RAMState(PAGE, adopt=True, **settings)
    ram.stage()
    f = QEMUFileReader(b"".join(sections))
    for _ in sections:
        ram_load(f, ram, 4)
    ram.commit()
    return ram


def written(save: Callable[[QEMUFileWriter, RAMState], int], ram: RAMState) -> bytes:
    sink = BytesSink()
    f = QEMUFileWriter(sink)
    assert save(f, ram) >= 0
    f.flush()
    return bytes(sink.data)


def saved(ram: RAMState) -> list[bytes]:
    """The sections of a whole save, rounds as long as something is pending."""
    sections = [written(ram_save_setup, ram)]
    while ram_save_pending(QEMUFileWriter(BytesSink()), ram, 0):
        sections.append(written(ram_save_iterate, ram))
    sections.append(written(ram_save_complete, ram))
    return sections


# Two PART sections with QEMU's manners: the second continues the block of the
# first, a zero page comes in full, a page never comes, a block is named again.
STREAM = [
    block_list(ram=6 * PAGE, rom=2 * PAGE) + EOS,
    named(0, 0x02, "ram") + b"\0" + word(PAGE | 0x28) + b"r" * PAGE + EOS,
    b"".join(
        [
            word(2 * PAGE | 0x28) + bytes(PAGE),
            word(3 * PAGE | 0x22) + b"\0",
            word(0x200),
            named(5 * PAGE, 0x08, "ram") + b"s" * PAGE,
            named(PAGE, 0x02, "rom") + b"\0",
            EOS,
        ]
    ),
    named(0, 0x08, "rom") + b"t" * PAGE + EOS,
]


def test_blocks_come_into_being_as_the_list_names_them() -> None:
    ram = adopt(STREAM)
    assert [(block.idstr, block.used_length) for block in ram.blocks] == [
        ("ram", 6 * PAGE),
        ("rom", 2 * PAGE),
    ]
    assert ram.blocks[0].read(PAGE - 1, PAGE + 2) == b"\0" + b"r" * PAGE + b"\0"
    assert ram.blocks[1].read(0, 2 * PAGE) == b"t" * PAGE + bytes(PAGE)


def test_the_same_sections_are_saved_again() -> None:
    ram = adopt(STREAM)
    assert saved(ram) == STREAM
    assert saved(ram) == STREAM


def test_a_stream_without_parts_has_nothing_pending() -> None:
    sections = [block_list() + EOS, EOS]
    assert saved(adopt(sections)) == sections


def test_a_round_too_many_sends_nothing_that_belongs_to_the_end() -> None:
    ram = adopt(STREAM)
    rounds = [written(ram_save_setup, ram)]
    rounds += [written(ram_save_iterate, ram) for _ in range(3)]
    rounds.append(written(ram_save_complete, ram))
    assert rounds == [*STREAM[:3], EOS, STREAM[3]]


def test_a_schedule_tells_the_runs_of_each_section() -> None:
    ram = adopt(STREAM)
    assert ram.schedule is not None
    runs = [
        [(run.kind, run.block, run.first, run.count, run.named) for run in section]
        for section in ram.schedule.sections
    ]
    assert runs == [
        [(0x04, "", 0, 1, False)],
        [(0x02, "ram", 0, 1, True), (0x08, "ram", 1, 1, False)],
        [
            (0x08, "ram", 2, 1, False),
            (0x02, "ram", 3, 1, False),
            (0x200, "", 0, 1, False),
            (0x08, "ram", 5, 1, True),
            (0x02, "rom", 1, 1, True),
        ],
        [(0x08, "rom", 0, 1, True)],
    ]


def test_what_the_guest_wrote_since_is_saved_too() -> None:
    ram = adopt(STREAM)
    ram.blocks[0].write(0, b"new")
    ram.blocks[0].write(4 * PAGE, b"never sent before")
    sections = saved(ram)
    assert sections[1].startswith(named(0, 0x08, "ram") + b"new" + bytes(PAGE - 3))
    assert sections[-1].startswith(named(0, 0x08, "rom") + b"t" * PAGE)
    again = adopt(sections)
    assert again.digest() == ram.digest()


def test_a_page_written_between_rounds_is_sent_again_at_the_end() -> None:
    ram = adopt(STREAM)
    sections = [written(ram_save_setup, ram), written(ram_save_iterate, ram)]
    ram.blocks[0].write(PAGE, b"late")
    sections += [written(ram_save_iterate, ram), written(ram_save_complete, ram)]
    assert sections[:3] == STREAM[:3]
    assert (
        sections[3] == STREAM[3][:-8] + named(PAGE, 0x08, "ram") + b"late" + b"r" * (PAGE - 4) + EOS
    )


def test_a_page_that_came_in_few_bytes_again_and_again_is_not_sent_in_full_each_time() -> None:
    again = [word(0x22) + b"\0", word(0x60) + b"\1\0\3\0\1x", word(PAGE | 0x22) + b"\0"]
    stream = [
        block_list(ram=2 * PAGE) + EOS,
        named(0, 0x02, "ram") + b"\0" + b"".join(again) * 50 + EOS,
        word(0x60) + b"\1\0\3\1\1y" + EOS,
    ]
    ram = adopt(stream)
    sections = saved(ram)
    assert sum(map(len, sections)) < sum(map(len, stream)) + PAGE
    assert adopt(sections).digest() == ram.digest()
    assert ram.blocks[0].read(0, 3) == b"xy\0"


def test_what_came_twice_is_sent_twice() -> None:
    full, zero = word(PAGE | 0x28) + b"x" * PAGE, word(2 * PAGE | 0x22) + b"\0"
    first = named(0, 0x02, "ram") + b"\0"
    stream = [block_list(ram=3 * PAGE) + EOS, first + full + zero + full + zero + EOS, EOS]
    assert saved(adopt(stream)) == stream


def test_of_a_run_of_zero_pages_only_those_are_sent_that_are_zero_or_due() -> None:
    zeros = b"".join(word(page * PAGE | 0x22) + b"\0" for page in range(4))
    first = named(PAGE, 0x08, "ram") + b"x" * PAGE
    change = word(2 * PAGE | 0x60) + b"\1\0\3\0\1y"
    again = word(PAGE | 0x28) + b"x" * PAGE
    stream = [block_list(ram=4 * PAGE) + EOS, first + zeros + change + again + EOS, EOS]
    assert saved(adopt(stream))[1] == b"".join(
        [
            first,
            zeros[:9],
            word(2 * PAGE | 0x28) + b"y" + bytes(PAGE - 1),
            zeros[27:],
            again,
            EOS,
        ]
    )


def test_a_save_cut_short_sends_all_scheduled_pages_at_the_end() -> None:
    ram = adopt(STREAM)
    sections = [written(ram_save_setup, ram), written(ram_save_complete, ram)]
    assert adopt(sections).digest() == ram.digest()


def test_a_failed_load_takes_adopted_blocks_away_again() -> None:
    ram = adopt(STREAM)
    before, schedule_before = ram.digest(), ram.schedule
    ram.stage()
    bad = block_list(ram=6 * PAGE, other=PAGE) + named(0, 0x08, "other") + b"x" * PAGE
    f = QEMUFileReader(bad + named(0, 0x08, "ram") + b"y" * PAGE + word(0))
    with pytest.raises(LoadError):
        ram_load(f, ram, 4)
    assert len(ram.blocks) == 3
    ram.rollback()
    assert ram.digest() == before
    assert ram.schedule is schedule_before
    assert saved(ram) == STREAM


def test_a_machine_that_is_not_built_from_a_stream_has_no_schedule() -> None:
    ram = RAMState(PAGE)
    ram.add_block("ram", 6 * PAGE)
    ram_load(QEMUFileReader(named(0, 0x02, "ram") + b"\0" + EOS), ram, 4)
    assert ram.schedule is None


def test_too_many_runs_are_not_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schedule, "SCHEDULE_RUNS_MAX", 4)
    ram = adopt(STREAM)
    assert ram.schedule is None
    assert adopt(saved(ram)).digest() == ram.digest()


def test_a_block_that_lost_its_name_is_left_out() -> None:
    ram = adopt(STREAM)
    ram.blocks[1].idstr = ""
    sections = saved(ram)
    assert sections[0] == block_list(ram=6 * PAGE) + EOS
    assert sections[-1] == EOS


def test_without_a_list_there_is_nothing_to_adopt() -> None:
    with pytest.raises(LoadError) as caught:
        adopt([named(0, 0x02, "ram") + b"\0" + EOS])
    assert caught.value.qemu == "Can't find block ram!"


# -- limits ------------------------------------------------------------------------------------


def test_a_list_cannot_name_more_blocks_than_a_machine_may_have() -> None:
    names = {f"block{number}": PAGE for number in range(RAM_BLOCKS_MAX + 1)}
    with pytest.raises(LoadError) as caught:
        adopt([block_list(**names) + EOS], store=False)
    assert caught.value.errno == ENOMEM
    assert caught.value.path == ("block list", f"block{RAM_BLOCKS_MAX}")


def test_a_list_cannot_name_more_pages_than_are_kept() -> None:
    lengths = {"a": (ADOPT_PAGES_MAX - 1) * PAGE, "b": 2 * PAGE}
    data = [block_list(**lengths) + EOS]
    with pytest.raises(LoadError) as caught:
        adopt(data)
    assert (caught.value.errno, caught.value.path) == (ENOMEM, ("block list", "b"))
    # Nothing is kept, so nothing is too much.
    huge = {"a": 1 << 63, "b": (1 << 63) - PAGE}
    assert adopt([block_list(**huge) + EOS], store=False).blocks[0].used_length == 1 << 63


def test_memory_is_taken_for_pages_that_came_and_not_on_a_lists_word() -> None:
    lengths = {"a": ADOPT_PAGES_MAX * PAGE}
    last = (ADOPT_PAGES_MAX - 1) * PAGE
    ram = adopt([block_list(**lengths) + named(last, 0x08, "a") + b"x" * PAGE + EOS])
    assert ram.blocks[0].read(last, 2) == b"xx"
    assert ram.blocks[0].read(0, 2) == b"\0\0"


def test_what_is_not_stored_is_walked_through_and_not_saved() -> None:
    ram = adopt(STREAM, store=False)
    assert ram.blocks[0].read(PAGE, 2) == b"\0\0"
    assert ram_save_setup(QEMUFileWriter(BytesSink()), ram) < 0


def test_the_seed_adopts_whole_pages_too() -> None:
    ram = RAMState(PAGE, adopt=True)
    data = word(2 * PAGE | 4) + b"\x01a" + word(PAGE + 1) + b"\x01b" + word(PAGE - 1) + EOS
    ram_load(QEMUFileReader(data, profile=SEED), ram, 4)
    assert [block.used_length for block in ram.blocks] == [2 * PAGE, PAGE]


# -- any stream a sender may make -----------------------------------------------------------------


@st.composite
def streams(draw: st.DrawFn) -> list[bytes]:
    """Sections of a sender that visits its pages in any order, each once."""
    sizes = draw(st.lists(st.integers(1, 9), min_size=1, max_size=3))
    names = [f"block{number}" for number in range(len(sizes))]
    todo = [(name, page) for name, size in zip(names, sizes, strict=True) for page in range(size)]
    if draw(st.booleans()):
        todo = draw(st.permutations(todo))
    sections = [block_list(**{n: s * PAGE for n, s in zip(names, sizes, strict=True)}) + EOS]
    last = ""
    while todo:
        items = []
        for _ in range(min(draw(st.integers(0, 12)), len(todo))):
            name, page = todo.pop(0)
            kind = draw(st.sampled_from([0x02, 0x08, 0x08]))
            body = b"\0" if kind == 2 else draw(st.sampled_from([b"\0", b"x"])) * PAGE
            if name == last and draw(st.integers(0, 4)):
                items.append(word(page * PAGE | kind | 0x20) + body)
            else:
                items.append(named(page * PAGE, kind, name) + body)
            last = name
        sections.append(b"".join(items) + EOS)
        if len(sections) > 20:
            break
    return [*sections, EOS]


@given(sections=streams())
def test_whatever_a_sender_did_is_done_again(sections: list[bytes]) -> None:
    assert saved(adopt(sections)) == sections


def test_a_machine_built_from_a_stream_saves_that_stream() -> None:
    source = Machine("small")
    ram = RAMState()
    ram.add_block("pc.ram", 64 * 4096).write(5 * 4096, b"data" * 9000)
    ram.register(source)
    sections = saved(ram)
    target = Machine("small")
    adopted = RAMState(adopt=True)
    entry = adopted.register(target)
    footer = b"\x7e" + entry.section_id.to_bytes(4, "big")
    head = b"QEVM\0\0\0\3\x01\0\0\0\0\x03ram\0\0\0\0\0\0\0\4"
    parts = b"".join(b"\x02\0\0\0\0" + part + footer for part in sections[1:-1])
    end = b"\x03\0\0\0\0" + sections[-1] + footer
    load_from_bytes(target, head + sections[0] + footer + parts + end + b"\0")
    assert saved(adopted) == sections
