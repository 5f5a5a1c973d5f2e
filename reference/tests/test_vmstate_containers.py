"""Lists, trees and temporaries on the wire."""

from errno import EINVAL, EIO

import pytest

from savevm import SEED, STRICT, LoadError, Profile
from savevm.constants import MAX_ELEMENTS
from savevm.qemufile import BytesSink, QEMUFileReader, QEMUFileWriter
from savevm.state import State
from savevm.vmstate import (
    VMStateDescription,
    VMStateField,
    containers,
    fields,
    vmstate_load_state,
    vmstate_save_state,
)

POINT = VMStateDescription("point", fields=(fields.uint8("x"), fields.uint8("y")))
KEY = VMStateDescription("key", fields=(fields.uint16("key"),))


def point(x: int = 0, y: int = 0) -> State:
    return State(x=x, y=y)


def save(state: State, field: VMStateField) -> str:
    sink = BytesSink()
    f = QEMUFileWriter(sink)
    vmstate_save_state(f, VMStateDescription("d", fields=(field,)), state, None)
    f.flush()
    return sink.data.hex()


def load(state: State, wire: str, field: VMStateField, profile: Profile = STRICT) -> int:
    f = QEMUFileReader(bytes.fromhex(wire), profile=profile)
    vmstate_load_state(f, VMStateDescription("d", fields=(field,)), state, 1)
    return f.tell()


def refusal(wire: str, field: VMStateField, profile: Profile = STRICT) -> LoadError:
    state = State(v="old")
    with pytest.raises(LoadError) as caught:
        load(state, wire, field, profile)
    assert vars(state)["v"] == "old", "a half loaded container was handed over"
    return caught.value


def contents(points: list[State]) -> list[tuple[int, int]]:
    return [(vars(p)["x"], vars(p)["y"]) for p in points]


LISTS = pytest.mark.parametrize(
    "field",
    [fields.qtailq("v", POINT, point), fields.qlist("v", POINT, point)],
    ids=["qtailq", "qlist"],
)


@LISTS
def test_a_list_marks_each_element_and_its_end(field: VMStateField) -> None:
    assert save(State(v=[]), field) == "00"
    wire = "010102" + "010304" + "00"
    assert save(State(v=[point(1, 2), point(3, 4)]), field) == wire
    state = State(v=[point(9, 9)] * 5)
    assert load(state, wire, field) == len(wire) // 2
    assert contents(vars(state)["v"]) == [(1, 2), (3, 4)]


@LISTS
def test_loading_a_list_replaces_and_never_appends(field: VMStateField) -> None:
    state = State(v=[])
    for _ in range(2):
        load(state, "01010200", field)
    assert contents(vars(state)["v"]) == [(1, 2)]


@LISTS
@pytest.mark.parametrize(
    ("wire", "errno", "path", "offset"),
    [
        ("", EIO, ("v",), 0),
        ("02", EINVAL, ("v",), 0),
        ("010102ff", EINVAL, ("v",), 3),
        ("01010201", EIO, ("v", "[1]", "x"), 4),
        ("010102", EIO, ("v",), 3),
    ],
)
def test_a_malformed_list_is_refused_where_it_is_malformed(
    field: VMStateField, wire: str, errno: int, path: tuple[str, ...], offset: int
) -> None:
    error = refusal(wire, field)
    assert (error.errno, error.path, error.offset) == (errno, path, offset)


@LISTS
def test_under_the_seed_a_list_cut_off_is_refused_too(field: VMStateField) -> None:
    assert refusal("010102", field, SEED).errno == EIO


def test_a_list_has_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    assert MAX_ELEMENTS >= 1 << 16
    monkeypatch.setattr(containers, "MAX_ELEMENTS", 5)
    empty = fields.qtailq("v", VMStateDescription("empty"), State)
    state = State(v=[])
    load(state, "01" * 5 + "00", empty)
    assert len(vars(state)["v"]) == 5
    error = refusal("01" * 6 + "00", empty)
    assert (error.expected, error.offset) == (5, 5)


TREES = [
    pytest.param(
        fields.gtree("v", POINT, point), "0000000000000005", "0000000000000007", id="direct"
    ),
    pytest.param(fields.gtree("v", POINT, point, key_vmsd=KEY), "0005", "0007", id="described"),
]


@pytest.mark.parametrize(("field", "five", "seven"), TREES)
def test_a_tree_says_how_many_nodes_it_has(field: VMStateField, five: str, seven: str) -> None:
    wire = "00000002" + "01" + five + "0102" + "01" + seven + "0304" + "00"
    assert save(State(v={7: point(3, 4), 5: point(1, 2)}), field) == wire
    state = State(v={1: point(9, 9)})
    assert load(state, wire, field) == len(wire) // 2
    assert sorted(vars(state)["v"]) == [5, 7]
    assert contents([vars(state)["v"][5], vars(state)["v"][7]]) == [(1, 2), (3, 4)]
    assert save(State(v={}), field) == "0000000000"


@pytest.mark.parametrize(("field", "five", "seven"), TREES)
def test_a_trees_count_and_nodes_must_agree(field: VMStateField, five: str, seven: str) -> None:
    node = "01" + five + "0102"
    fewer = refusal("00000002" + node + "00", field)
    assert (fewer.expected, fewer.actual, fewer.offset) == (2, 1, 0)
    more = refusal("00000001" + node + "01" + seven + "0304" + "00", field)
    assert (more.expected, more.actual) == (1, 2)
    assert more.offset == 4 + len(node) // 2
    assert "inconsistent stream when loading the gtree" in more.qemu
    assert fewer.qemu == more.qemu


@pytest.mark.parametrize(("field", "five", "seven"), TREES)
def test_a_trees_key_comes_once(field: VMStateField, five: str, seven: str) -> None:
    del seven
    node = "01" + five + "0102"
    error = refusal("00000002" + node * 2 + "00", field)
    assert (error.actual, error.offset) == (5, 4 + len(node) // 2 + 1)
    assert "comes twice" in str(error)


@pytest.mark.parametrize(("field", "five", "seven"), TREES)
def test_a_malformed_tree_is_refused(field: VMStateField, five: str, seven: str) -> None:
    del seven
    assert refusal("", field).errno == EIO
    assert refusal(f"{MAX_ELEMENTS + 1:08x}", field).expected == MAX_ELEMENTS
    assert refusal("ffffffff", field).actual == 0xFFFFFFFF
    assert refusal("0000000102", field).actual == 2
    assert refusal("00000001" + "01" + five[:-2], field).errno == EIO
    assert refusal("00000001" + "01" + five + "01", field).path == ("v", "[0]", "y")
    for profile in (STRICT, SEED):
        assert refusal("00000001" + "01" + five + "0102", field, profile).errno


def halved(refuse: int = 0) -> VMStateField:
    """A field that travels as its half, through a temporary."""

    def pre_save(tmp: State) -> int:
        vars(tmp)["half"] = vars(vars(tmp)["parent"])["v"] // 2
        return 0

    def post_load(tmp: State, version_id: int) -> int:
        vars(vars(tmp)["parent"])["v"] = 2 * vars(tmp)["half"]
        return refuse

    vmsd = VMStateDescription(
        "half", fields=(fields.uint8("half"),), pre_save=pre_save, post_load=post_load
    )
    return fields.with_tmp(vmsd, lambda: State(half=0))


def test_a_temporary_stands_between_wire_and_state() -> None:
    state = State(v=8)
    assert save(state, halved()) == "04"
    load(state, "05", halved())
    assert vars(state) == {"v": 10}


def test_a_temporary_may_refuse_or_be_cut_off() -> None:
    with pytest.raises(LoadError) as caught:
        load(State(v=0), "05", halved(refuse=-EIO))
    assert (caught.value.errno, caught.value.path) == (EIO, ("tmp",))
    with pytest.raises(LoadError) as caught:
        load(State(v=0), "", halved())
    assert caught.value.path == ("tmp", "half")
