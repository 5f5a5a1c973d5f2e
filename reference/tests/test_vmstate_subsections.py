"""Subsections: when they travel, how they are found, what refuses them."""

from dataclasses import replace
from errno import EINVAL, EIO, ENOENT

import pytest

from savevm import SEED, STRICT, LoadError, Profile
from savevm.qemufile import BytesSink, QEMUFileReader, QEMUFileWriter
from savevm.state import State
from savevm.trace import TraceLog
from savevm.vmstate import VMStateDescription, fields, vmstate_load_state, vmstate_save_state


def wanted(name: str):  # type: ignore[no-untyped-def]
    return lambda state: vars(state)[name] != 0


INNERMOST = VMStateDescription("d/b/c", 1, 1, fields=(fields.uint8("c"),), needed=wanted("c"))
SUB_A = VMStateDescription("d/a", 2, 1, fields=(fields.uint8("a"),), needed=wanted("a"))
SUB_B = VMStateDescription(
    "d/b", 1, 1, fields=(fields.uint8("b"),), subsections=(INNERMOST,), needed=wanted("b")
)
DEVICE = VMStateDescription("d", fields=(fields.uint8("v"),), subsections=(SUB_A, SUB_B))


def subsection(name: str, payload: bytes = b"", version_id: int = 1) -> bytes:
    return b"\x05" + bytes([len(name)]) + name.encode() + version_id.to_bytes(4, "big") + payload


def state(v: int = 0, a: int = 0, b: int = 0, c: int = 0) -> State:
    return State(v=v, a=a, b=b, c=c)


def save(vmsd: VMStateDescription, saved: State) -> bytes:
    sink = BytesSink()
    f = QEMUFileWriter(sink)
    vmstate_save_state(f, vmsd, saved, None)
    f.flush()
    return bytes(sink.data)


def load(
    wire: bytes,
    vmsd: VMStateDescription = DEVICE,
    profile: Profile = STRICT,
    trace: TraceLog | None = None,
) -> tuple[State, int]:
    loaded, f = state(), QEMUFileReader(wire, profile=profile, trace=trace)
    vmstate_load_state(f, vmsd, loaded, 1)
    return loaded, f.tell()


def test_only_what_is_needed_travels_in_table_order() -> None:
    assert save(DEVICE, state(v=1)) == b"\x01"
    assert save(DEVICE, state(v=1, a=2)) == b"\x01" + subsection("d/a", b"\x02", 2)
    assert save(DEVICE, state(v=1, a=2, b=3)) == (
        b"\x01" + subsection("d/a", b"\x02", 2) + subsection("d/b", b"\x03")
    )


def test_subsections_have_subsections() -> None:
    wire = b"\x01" + subsection("d/b", b"\x03" + subsection("d/b/c", b"\x04"))
    assert save(DEVICE, state(v=1, b=3, c=4)) == wire
    loaded, consumed = load(wire)
    assert vars(loaded) == {"v": 1, "a": 0, "b": 3, "c": 4}
    assert consumed == len(wire)


def test_a_subsection_behind_a_nested_one_belongs_to_the_outer() -> None:
    wire = (
        b"\x01"
        + subsection("d/b", b"\x03" + subsection("d/b/c", b"\x04"))
        + subsection("d/a", b"\x02")
    )
    # d/a is no prefix match of d/b, so the inner list ends there.
    assert vars(load(wire)[0]) == {"v": 1, "a": 2, "b": 3, "c": 4}


def test_without_needed_a_subsection_always_travels() -> None:
    sub = VMStateDescription("d/a", fields=(fields.uint8("a"),))
    vmsd = VMStateDescription("d", fields=(fields.uint8("v"),), subsections=(sub,))
    assert save(vmsd, state()) == b"\0" + subsection("d/a", b"\0")
    assert vars(load(b"\x01" + subsection("d/a", b"\x02"), vmsd)[0])["a"] == 2


@pytest.mark.parametrize(
    "behind",
    [
        b"",
        b"\x05",
        b"\x05\x01d",
        b"\x05\x03d/",
        b"\x05\x03e/a\0\0\0\x01",
        b"\x7e",
    ],
    ids=["nothing", "alone", "short", "cut name", "other prefix", "footer"],
)
def test_a_05_that_is_no_subsection_of_ours_is_left_for_who_comes_next(behind: bytes) -> None:
    heard: list[str] = []
    vmsd = replace(DEVICE, post_load=lambda state, version: heard.append("post_load"))
    loaded, consumed = load(b"\x01" + behind, vmsd)
    assert vars(loaded)["v"] == 1
    assert consumed == 1
    assert heard == ["post_load"]


@pytest.mark.parametrize(
    ("behind", "why"),
    [(b"\x05\x01d", "(short)"), (b"\x05\x03d/", "(peek fail)"), (b"\x05\x03e/a", "(prefix)")],
)
def test_what_ends_the_list_is_traced(behind: bytes, why: str) -> None:
    log = TraceLog()
    load(b"\x01" + behind, trace=log)
    (event,) = log.named("vmstate_subsection_load_bad")
    assert why in event
    assert log.named("vmstate_subsection_load_good") == []


@pytest.mark.parametrize("name", ["d/x", "dx", "d/a/", "d/A", "d\0a", "d/a\0x"])
def test_an_unknown_name_with_our_prefix_is_refused(name: str) -> None:
    log = TraceLog()
    with pytest.raises(LoadError) as caught:
        load(b"\x01" + subsection(name, b"\x02"), trace=log)
    assert (caught.value.errno, caught.value.offset) == (ENOENT, 1)
    assert caught.value.qemu == f"VM subsection '{name}' in 'd' does not exist"
    assert log.named("vmstate_subsection_load_bad") == [("d", name, "(lookup)")]


def test_under_the_seed_a_name_ends_at_its_nul() -> None:
    wire = b"\x01" + subsection("d/a\0junk", b"\x02")
    loaded, consumed = load(wire, profile=SEED)
    assert vars(loaded)["a"] == 2
    assert consumed == len(wire)


@pytest.mark.parametrize("profile", [STRICT, SEED], ids=["strict", "seed"])
def test_a_parents_prefix_is_a_prefix_of_longer_names_too(profile: Profile) -> None:
    # "disk" finds "disk2/x" to be its own and refuses it; vmstate.c compares
    # no further than the parent's name.
    vmsd = VMStateDescription("disk", fields=(fields.uint8("v"),))
    with pytest.raises(LoadError) as caught:
        load(b"\x01" + subsection("disk2/x"), vmsd, profile)
    assert caught.value.errno == ENOENT


def test_a_payload_of_05_is_not_mistaken_within_fields() -> None:
    vmsd = VMStateDescription(
        "d", fields=(fields.uint8("v"), fields.uint8("a")), subsections=(SUB_B,)
    )
    assert vars(load(b"\x05\x05", vmsd)[0])["a"] == 5


@pytest.mark.parametrize(
    ("version_id", "errno"), [(3, EINVAL), (0, EINVAL), (0x101, EINVAL), (0x80000001, EINVAL)]
)
def test_a_version_that_is_not_read_is_refused(version_id: int, errno: int) -> None:
    with pytest.raises(LoadError) as caught:
        load(b"\x01" + subsection("d/a", b"\x02", version_id))
    assert (caught.value.errno, caught.value.path) == (errno, ("a",))
    assert caught.value.actual == version_id


@pytest.mark.parametrize("version_id", [0x101, 0x80000002, 0xFFFFFF01])
def test_under_the_seed_a_version_is_its_lowest_byte(version_id: int) -> None:
    wire = b"\x01" + subsection("d/a", b"\x02", version_id)
    assert vars(load(wire, profile=SEED)[0])["a"] == 2


def test_a_subsection_comes_once() -> None:
    wire = b"\x01" + subsection("d/a", b"\x02") + subsection("d/a", b"\x03")
    with pytest.raises(LoadError, match="comes twice") as caught:
        load(wire)
    assert caught.value.offset == 1 + len(subsection("d/a", b"\x02"))


def test_under_the_seed_the_second_of_two_overwrites_the_first() -> None:
    wire = b"\x01" + subsection("d/a", b"\x02") + subsection("d/a", b"\x03")
    assert vars(load(wire, profile=SEED)[0])["a"] == 3


def test_subsections_may_come_in_any_order() -> None:
    wire = b"\x01" + subsection("d/b", b"\x03") + subsection("d/a", b"\x02")
    assert vars(load(wire)[0]) == {"v": 1, "a": 2, "b": 3, "c": 0}


ALWAYS = VMStateDescription("d/z", fields=(fields.uint8("c"),))
BEHIND_ALWAYS = VMStateDescription(
    "d", fields=(fields.uint8("v"),), subsections=(SUB_A, ALWAYS, SUB_B)
)


@pytest.mark.parametrize("name", ["d/z", "d/b"])
def test_the_seeds_list_stops_at_the_first_without_needed(name: str) -> None:
    wire = b"\x01" + subsection(name, b"\x02")
    load(wire, BEHIND_ALWAYS)
    with pytest.raises(LoadError) as caught:
        load(wire, BEHIND_ALWAYS, SEED)
    assert caught.value.errno == ENOENT
    load(b"\x01" + subsection("d/a", b"\x02"), BEHIND_ALWAYS, SEED)


@pytest.mark.parametrize("profile", [STRICT, SEED], ids=["strict", "seed"])
def test_a_subsection_cut_behind_its_name_is_refused(profile: Profile) -> None:
    whole = subsection("d/a", b"\x02", 2)
    for end in range(5, len(whole)):
        with pytest.raises(LoadError) as caught:
            load(b"\x01" + whole[:end], profile=profile)
        assert caught.value.errno == EIO
        assert caught.value.path[0] == "a"


def test_an_error_inside_names_the_way() -> None:
    wire = b"\x01" + subsection("d/b", b"\x03" + subsection("d/b/c"))
    log = TraceLog()
    with pytest.raises(LoadError) as caught:
        load(wire, trace=log)
    assert str(caught.value).startswith("b: c: c: needed 1 bytes for field, 0 available")
    assert log.named("vmstate_subsection_load_bad") == [
        ("d/b", "d/b/c", "(child)"),
        ("d", "d/b", "(child)"),
    ]


def test_a_whole_list_is_traced_as_good() -> None:
    log = TraceLog()
    load(b"\x01" + subsection("d/a", b"\x02"), trace=log)
    assert log.named("vmstate_subsection_load_good") == [("d/a",), ("d",)]
