"""State: capture, restore, digest, comparison."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from savevm.state import Capture, State, differences, digest, walk

ATOMS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=3)
STATES = st.recursive(
    ATOMS | st.binary(max_size=4).map(bytearray),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.integers(0, 9), inner, max_size=3)
        | st.dictionaries(st.sampled_from("abc"), inner, max_size=3).map(lambda d: State(**d))
    ),
    max_leaves=12,
)


def scramble(item: object) -> None:
    """Change everything that can be changed in place, inner things first."""
    if isinstance(item, State):
        for value in list(vars(item).values()):
            scramble(value)
        vars(item).clear()
        vars(item)["changed"] = True
    elif isinstance(item, dict):
        for value in list(item.values()):
            scramble(value)
        item.clear()
        item["changed"] = 1
    elif isinstance(item, list):
        for value in item:
            scramble(value)
        item[:] = ["changed"]
    elif isinstance(item, bytearray):
        item[:] = b"changed"


@given(STATES)
def test_restore_brings_back_every_leaf(item: object) -> None:
    root = State(item=item)
    before, mark = dict(walk(root)), digest(root)
    capture = Capture(root)
    assert not capture.changed()
    scramble(root)
    assert capture.changed()
    capture.restore()
    assert dict(walk(root)) == before
    assert digest(root) == mark
    assert not capture.changed()


def test_restore_keeps_identity_so_references_stay_good() -> None:
    inner, data = State(x=1), bytearray(b"ab")
    root = State(inner=inner, same=[inner], data=data)
    capture = Capture(root)
    inner.x = 2  # type: ignore[attr-defined]
    root.inner, root.same, root.data = None, [], bytearray()  # type: ignore[attr-defined]
    capture.restore()
    held = vars(root)
    assert held["inner"] is inner
    assert held["same"][0] is inner
    assert held["data"] is data
    assert vars(inner) == {"x": 1}


@pytest.mark.parametrize(
    "change",
    [
        lambda s: s.__dict__.update(n=2),
        lambda s: s.__dict__.update(new=None),
        lambda s: s.__dict__.pop("n"),
        lambda s: s.items.append(1),
        lambda s: s.items.__setitem__(0, 9),
        lambda s: s.table.update(k=2),
        lambda s: s.data.extend(b"x"),
        lambda s: s.__dict__.update(items=[1, 2]),
    ],
)
def test_changed_notices_each_kind_of_change(change) -> None:  # type: ignore[no-untyped-def]
    root = State(n=1, items=[1, 2], table={"k": 1}, data=bytearray(b"d"))
    capture = Capture(root)
    change(root)
    assert capture.changed()


def test_equal_atoms_count_as_unchanged() -> None:
    root = State(n=10**30)
    capture = Capture(root)
    vars(root)["n"] = 10**29 * 10
    assert not capture.changed()


@pytest.mark.parametrize(
    ("shared", "change"),
    [
        (State(x=1), lambda state: state.__dict__.update(x=2)),
        ([1], lambda items: items.append(2)),
        ({"k": 1}, lambda table: table.update(k=2)),
        (bytearray(b"a"), lambda data: data.extend(b"b")),
    ],
    ids=["state", "list", "dict", "bytearray"],
)
def test_each_object_is_captured_once_as_it_was_first(  # type: ignore[no-untyped-def]
    shared: object, change
) -> None:
    before = digest(shared)
    capture = Capture(shared)
    change(shared)
    capture.add(State(inner=shared))
    capture.restore()
    assert digest(shared) == before


def test_what_is_outside_is_neither_captured_nor_digested() -> None:
    class Bus:
        level = 1

    bus = Bus()
    root = State(bus=bus, callback=print, n=1)
    capture, mark = Capture(root), digest(root)
    bus.level = 2
    capture.restore()
    assert bus.level == 2
    assert digest(root) == mark
    assert list(walk(root)) == [("n", 1)]


def test_a_state_that_refers_to_itself_is_captured_but_has_no_leaves_to_list() -> None:
    root = State(n=1)
    vars(root)["again"] = [root]
    capture = Capture(root)
    vars(root)["n"] = 2
    capture.restore()
    assert vars(root)["n"] == 1
    with pytest.raises(ValueError, match=r"contains itself at again\[0\]"):
        list(walk(root))


def test_one_state_in_two_places_is_listed_in_both() -> None:
    shared = State(x=1)
    assert dict(walk(State(a=shared, b={"c": shared}))) == {"a.x": 1, "b{c}.x": 1}


def test_walk_lists_leaves_in_a_fixed_order() -> None:
    root = State(b=2, a=[1, bytearray(b"x")], c={2: "two", 1: None})
    assert list(walk(root)) == [
        ("a[0]", 1), ("a[1]", b"x"), ("b", 2), ("c{1}", None), ("c{2}", "two"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("one", "other"),
    [(1, 2), (1, True), (b"1", "1"), ([1], [1, 1]), (State(a=1), State(b=1)), (1, None)],
)
def test_different_states_have_different_digests(one: object, other: object) -> None:
    assert digest(State(v=one)) != digest(State(v=other))


def test_differences_names_what_differs_up_to_a_limit() -> None:
    before = dict(walk(State(a=1, b=2, c=3)))
    after = dict(walk(State(a=1, b=5, d=3)))
    assert differences(before, after) == ["b: 2 -> 5", "c: 3 -> 'absent'", "d: 'absent' -> 3"]
    assert len(differences(before, after, limit=2)) == 2
    assert differences(before, before) == []


def test_a_state_shows_its_attributes() -> None:
    assert repr(State(x=1, y=[2])) == "State(x=1, y=[2])"
