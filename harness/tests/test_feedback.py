"""What counts as a behaviour, and what does not."""

from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from loadfuzz.execution import Depth, Escape, Execution, ExitKind, Refusal
from loadfuzz.executors.tracing import EVENTS_MAX, SectionTrace, label_of
from loadfuzz.feedback.novelty import FEATURES_MAX, PARTS_MAX, REASONS_MAX, Novelty


def refused(text: str, *path: str, events: tuple[str, ...] = ()) -> Execution:
    return Execution(ExitKind.REJECTED, Depth.HEADER, Refusal(text, 22, 9, path), events=events)


def test_the_same_behaviour_is_new_once() -> None:
    novelty = Novelty()
    execution = refused("serial: footer: expected 3, read 4", "serial", "footer")
    first, second = novelty.observe(execution), novelty.observe(execution)
    assert first.new
    assert not second.new
    assert first.features == second.features
    assert novelty.rarity(first.features) == 2


def test_numbers_do_not_make_a_behaviour() -> None:
    novelty = Novelty()
    for number in range(50):
        text = f"x: expected 0x4, read {number:#x} of '{number}' (offset {number:#x})"
        seen = novelty.observe(refused(text, f"section {number}"))
    assert not seen.new
    assert novelty.rarity(seen.features) == 50


def test_hexadecimals_without_a_prefix_and_uuids_do_not_make_one() -> None:
    novelty = Novelty()
    values = [number * 104_729 for number in range(1, 50)]
    texts = [f"x: {value:x} != {UUID(int=value**5)}" for value in values]
    assert sum(novelty.observe(refused(text, "serial")).new for text in texts) == 1


def test_an_apostrophe_begins_no_quotation() -> None:
    novelty = Novelty()
    texts = [f"bus isn't {what}, so it can't load" for what in ("there", "here")]
    assert sum(novelty.observe(refused(text, "serial")).new for text in texts) == 2


def test_errno_place_reason_and_kind_each_make_one() -> None:
    novelty = Novelty()
    load = ("vmstate_load serial serial",)
    variants = [
        refused("a: wrong", "serial", events=load),
        refused("a: other", "serial", events=load),
        refused("a: wrong", "serial", "footer", events=load),
        Execution(
            ExitKind.REJECTED, Depth.HEADER, Refusal("a: wrong", 5, 9, ("serial",)), events=load
        ),
        Execution(ExitKind.ACCEPTED, Depth.ACCEPTED, events=load),
        Execution(
            ExitKind.CRASHED, Depth.HEADER, escape=Escape("IndexError", "", ("a.py:f:3",)),
            events=load,
        ),
        Execution(
            ExitKind.CRASHED, Depth.HEADER, escape=Escape("IndexError", "", ("a.py:g:3",)),
            events=load,
        ),
    ]  # fmt: skip
    assert all(novelty.observe(execution).new for execution in variants)
    assert not any(novelty.observe(execution).new for execution in variants)


def test_devices_order_and_counts_of_events_make_one() -> None:
    novelty = Novelty()
    one, two = "vmstate_load a a", "vmstate_load b b"

    def seen(*events: str) -> bool:
        return novelty.observe(Execution(ExitKind.ACCEPTED, Depth.ACCEPTED, events=events)).new

    assert seen(one, two)
    assert seen(two, one)
    assert seen(one, one)
    assert seen(one, one, one)
    assert not seen(one, one, one, one)
    assert seen(*[one] * 5)


def test_another_order_or_number_of_known_events_tells_little() -> None:
    novelty = Novelty()
    one, two = "vmstate_load a a", "vmstate_load b b"

    def telling(*events: str) -> bool:
        seen = novelty.observe(Execution(ExitKind.ACCEPTED, Depth.ACCEPTED, events=events))
        assert seen.new
        return seen.telling

    assert telling(one)
    assert telling(one, two)
    assert not telling(two, one)
    assert not telling(one, one)
    assert telling(one, "vmstate_load c c")


def test_names_that_the_stream_invents_are_all_alike() -> None:
    novelty = Novelty()
    for number in range(200):
        name = "".join(chr(ord("a") + int(digit)) for digit in str(number))
        novelty.observe(refused("no such device", name))
        novelty.observe(refused("no such device", "command", name))
        novelty.observe(refused("no such block", "header", "block list", name))
    # Two for the inventions, some for the block names, one for the depth.
    assert len(novelty.hits) <= PARTS_MAX + 5


def test_reasons_that_the_stream_words_are_all_alike_after_some() -> None:
    novelty = Novelty()
    # Neither quotes nor colons keep a stream's text apart from the loader's.
    texts = [f"bad state: it's {word}" for word in map(chr, range(0x100, 0x1100))]
    fresh = [novelty.observe(refused(text, "globalstate", "runstate")).new for text in texts]
    assert sum(fresh) == REASONS_MAX + 1
    assert not any(fresh[REASONS_MAX + 1 :])
    assert novelty.observe(refused("another place", "serial")).new


def test_names_of_features_are_the_same_in_every_process() -> None:
    runs = [refused("a: wrong", "serial"), refused("b: other", "cpu"), refused("c: more", "ram")]
    one, two = Novelty(), Novelty()
    first = [one.observe(run) for run in runs]
    second = [two.observe(run) for run in reversed(runs)][::-1]
    for here, there in zip(first, second, strict=True):
        assert set(one.names(here.features)) == set(two.names(there.features))
        assert one.behaviour(here.features) == two.behaviour(there.features)
    assert len({one.behaviour(seen.features) for seen in first}) == len(runs)


def test_there_are_only_so_many_features() -> None:
    novelty = Novelty()
    novelty.hits.extend([0] * (FEATURES_MAX - 3))
    news = [
        novelty.observe(
            Execution(
                ExitKind.CRASHED, Depth.NOTHING,
                escape=Escape("E", "", (f"a.py:{'f' * number}:1",)),
            )
        ).new
        for number in range(10)
    ]  # fmt: skip
    assert news == [True, True] + [False] * 8


@given(st.lists(st.lists(st.sampled_from(["a", "b", "vmstate_load x y"]), max_size=6)))
def test_features_come_once_and_fresh_ones_are_among_them(runs: list[list[str]]) -> None:
    novelty = Novelty()
    shown: set[int] = set()
    for events in runs:
        seen = novelty.observe(Execution(ExitKind.ACCEPTED, Depth.ACCEPTED, events=tuple(events)))
        assert len(seen.features) == len(set(seen.features))
        assert set(seen.fresh) == set(seen.features) - shown
        shown |= set(seen.features)


def test_labels_keep_the_loaders_words_and_drop_the_streams() -> None:
    assert label_of(("vmstate_load", "nic", "e1000")) == "vmstate_load nic e1000"
    assert label_of(("qemu_loadvm_state_section", 200)) == "qemu_loadvm_state_section +"
    assert label_of(("vmstate_load_state", "nic", 3)) == "vmstate_load_state nic 3"
    assert label_of(("vmstate_load_state", "nic", 1 << 31)) == "vmstate_load_state nic +"
    assert label_of(("ram_load_loop", "pc.ram", 4096, 8)) == "ram_load_loop 8"
    assert label_of(("from_elsewhere", "x", 3)) == "from_elsewhere"


def test_a_trace_keeps_so_many_events_and_no_more() -> None:
    trace = SectionTrace()
    for _ in range(EVENTS_MAX + 10):
        trace.hear("ram_load_loop", "pc.ram", 0, 2)
    assert len(trace.labels()) == EVENTS_MAX
    trace.clear()
    assert trace.labels() == ()


def test_depth_is_as_deep_as_the_events_say() -> None:
    trace = SectionTrace()
    rejected = ExitKind.REJECTED
    behind_header = Refusal("", 22, 8, ())
    assert trace.depth(rejected, Refusal("", 22, 4, ("header",))) is Depth.NOTHING
    assert trace.depth(rejected, behind_header) is Depth.HEADER
    trace.hear("qemu_loadvm_state_section", 1)
    assert trace.depth(rejected, None) is Depth.HEADER
    trace.hear("qemu_loadvm_state_section", 4)
    assert trace.depth(rejected, behind_header) is Depth.FIRST_SECTION
    assert trace.depth(rejected, Refusal("", 22, 90, ("vmdesc",))) is Depth.ALL_SECTIONS
    trace.hear("qemu_loadvm_state_post_main", 0)
    assert trace.depth(rejected, behind_header) is Depth.ALL_SECTIONS
    assert trace.depth(ExitKind.ACCEPTED, None) is Depth.ACCEPTED
