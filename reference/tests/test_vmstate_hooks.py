"""Versions, hooks and what they may refuse."""

from errno import EINVAL, EIO

import pytest

from savevm import SEED, STRICT, LoadError, Profile, SaveError
from savevm.qemufile import BytesSink, QEMUFileReader, QEMUFileWriter
from savevm.state import State
from savevm.trace import TraceLog
from savevm.vmstate import VMStateDescription, fields, vmstate_load_state, vmstate_save_state

BYTE = (fields.uint8("v"),)


def load(
    vmsd: VMStateDescription,
    wire: bytes,
    state: State,
    version_id: int = 1,
    profile: Profile = STRICT,
    trace: TraceLog | None = None,
) -> int:
    f = QEMUFileReader(wire, profile=profile, trace=trace)
    return vmstate_load_state(f, vmsd, state, version_id)


def refusal(
    vmsd: VMStateDescription, wire: bytes = b"\x01", version_id: int = 1, profile: Profile = STRICT
) -> LoadError:
    with pytest.raises(LoadError) as caught:
        load(vmsd, wire, State(v=0), version_id, profile)
    return caught.value


# -- versions ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("version_id", "text", "bound"),
    [(4, "new", 3), (1 << 31, "new", 3), (1, "old", 2), (0, "old", 2), (-1, "old", 2)],
)
def test_a_version_outside_the_readable_ones_is_refused(
    version_id: int, text: str, bound: int
) -> None:
    log = TraceLog()
    vmsd = VMStateDescription("d", 3, 2, fields=BYTE)
    with pytest.raises(LoadError) as caught:
        load(vmsd, b"\x01", State(v=0), version_id, trace=log)
    error = caught.value
    assert (error.errno, error.expected, error.actual) == (EINVAL, bound, version_id)
    assert f"is too {text}" in str(error)
    assert f"d: incoming version_id {version_id} is too {text} for local" in error.qemu
    assert log.named("vmstate_load_state_end") == [("d", f"too {text}", -EINVAL)]


@pytest.mark.parametrize("version_id", [2, 3])
def test_a_version_in_between_is_read(version_id: int) -> None:
    state = State(v=0)
    assert load(VMStateDescription("d", 3, 2, fields=BYTE), b"\x07", state, version_id) == 0
    assert vars(state)["v"] == 7


def test_an_old_version_goes_to_its_own_loader() -> None:
    def old(f: QEMUFileReader, state: State, version_id: int) -> int:
        state.__dict__["v"] = (version_id, f.get_be16())
        return 0

    vmsd = VMStateDescription("d", 5, 4, 2, fields=BYTE, load_state_old=old)
    state = State(v=0)
    load(vmsd, b"\x01\x02", state, 3)
    assert vars(state)["v"] == (3, 0x0102)
    assert "too old" in str(refusal(vmsd, version_id=1))


@pytest.mark.parametrize("result", [-5, 5])
def test_the_old_loader_may_refuse(result: int) -> None:
    vmsd = VMStateDescription(
        "d", 5, 4, 2, fields=BYTE, load_state_old=lambda f, state, version: result
    )
    assert refusal(vmsd, version_id=2).errno == 5


# -- hooks -------------------------------------------------------------------------------


def test_hooks_run_round_the_fields_in_qemus_order() -> None:
    heard: list[object] = []
    sub = VMStateDescription(
        "d/s",
        fields=BYTE,
        post_load=lambda state, version: heard.append(("sub", version)),
        needed=lambda state: True,
    )
    vmsd = VMStateDescription(
        "d",
        2,
        1,
        fields=BYTE,
        subsections=(sub,),
        pre_save=lambda state: heard.append("pre_save"),
        pre_load=lambda state: heard.append(("pre_load", state.v)),
        post_load=lambda state, version: heard.append(("post_load", state.v, version)),
    )
    sink = BytesSink()
    f = QEMUFileWriter(sink)
    vmstate_save_state(f, vmsd, State(v=7), None)
    f.flush()
    load(vmsd, bytes(sink.data), State(v=0), 2)
    assert heard == ["pre_save", ("pre_load", 0), ("sub", 1), ("post_load", 7, 2)]


@pytest.mark.parametrize("result", [-22, -1, 1, 5])
@pytest.mark.parametrize("hook", ["pre_load", "post_load"])
def test_any_number_but_zero_refuses(hook: str, result: int) -> None:
    vmsd = VMStateDescription("d", fields=BYTE, **{hook: lambda *arguments: result})  # type: ignore[arg-type]
    error = refusal(vmsd)
    assert (error.errno, error.actual, error.expected) == (abs(result), result, 0)
    assert error.offset == (0 if hook == "pre_load" else 1)
    assert error.reason == f"{hook} refused with {result}"


@pytest.mark.parametrize("result", [0, None, False])
@pytest.mark.parametrize("hook", ["pre_load", "post_load"])
def test_zero_and_none_are_success(hook: str, result: int | None) -> None:
    vmsd = VMStateDescription("d", fields=BYTE, **{hook: lambda *arguments: result})  # type: ignore[arg-type]
    state = State(v=0)
    assert load(vmsd, b"\x07", state) == 0
    assert vars(state)["v"] == 7


def test_under_the_seed_only_negative_numbers_refuse() -> None:
    refusing = VMStateDescription("d", fields=BYTE, post_load=lambda state, version: -7)
    assert refusal(refusing, profile=SEED).errno == 7
    for hook in ("pre_load", "post_load", "load_state_old"):
        vmsd = VMStateDescription("d", 2, 2, fields=BYTE, **{hook: lambda *arguments: 3})  # type: ignore[arg-type]
        version_id = 1 if hook == "load_state_old" else 2
        assert load(vmsd, b"\x07", State(v=0), version_id, SEED) == 3


def test_under_the_seed_a_positive_pre_load_leaves_before_the_fields() -> None:
    state = State(v=0)
    f = QEMUFileReader(b"\x07", profile=SEED)
    vmsd = VMStateDescription("d", fields=BYTE, pre_load=lambda state: 1)
    assert vmstate_load_state(f, vmsd, state, 1) == 1
    assert (f.tell(), vars(state)["v"]) == (0, 0)


def test_under_the_seed_a_positive_subsection_ends_the_load_of_its_parent() -> None:
    heard: list[str] = []
    sub = VMStateDescription(
        "d/s", fields=BYTE, needed=lambda state: True, post_load=lambda state, version: 1
    )
    vmsd = VMStateDescription(
        "d",
        fields=BYTE,
        subsections=(sub,),
        post_load=lambda state, version: heard.append("post_load"),
    )
    wire = b"\x01" + b"\x05\x03d/s\0\0\0\x01\x02"
    log = TraceLog()
    assert load(vmsd, wire, State(v=0), profile=SEED, trace=log) == 1
    assert heard == []
    assert log.named("vmstate_subsection_load_bad") == [("d", "d/s", "(child)")]
    assert refusal(vmsd, wire).path == ("s",)


def test_a_hook_may_raise_its_own_load_error() -> None:
    def post_load(state: State, version_id: int) -> int:
        raise LoadError("no such mode", errno=EIO, path=("mode",), actual=vars(state)["v"])

    error = refusal(VMStateDescription("d", fields=BYTE, post_load=post_load), b"\x09")
    assert (str(error), error.errno, error.actual) == ("mode: no such mode", EIO, 9)


def test_a_failing_post_load_is_traced_with_its_result() -> None:
    log = TraceLog()
    vmsd = VMStateDescription("d", fields=BYTE, post_load=lambda state, version: -5)
    with pytest.raises(LoadError):
        load(vmsd, b"\x01", State(v=0), trace=log)
    assert log.named("vmstate_load_state_end") == [("d", "end", -5)]


def test_a_hook_of_a_struct_is_named_with_its_field() -> None:
    inner = VMStateDescription("inner", fields=BYTE, post_load=lambda state, version: -5)
    outer = VMStateDescription("d", fields=(fields.struct_array("p", inner, 2),))
    with pytest.raises(LoadError) as caught:
        load(outer, b"\x01\x02", State(p=[State(v=0), State(v=0)]))
    assert str(caught.value) == "p[0]: post_load refused with -5 (offset 0x1)"


@pytest.mark.parametrize("result", [-5, 5])
def test_a_refusing_pre_save_ends_the_save(result: int) -> None:
    vmsd = VMStateDescription("d", fields=BYTE, pre_save=lambda state: result)
    with pytest.raises(SaveError, match="pre-save failed: d") as caught:
        vmstate_save_state(QEMUFileWriter(BytesSink()), vmsd, State(v=0), None)
    assert caught.value.errno == 5


def test_a_failing_field_is_traced_with_its_errno() -> None:
    log = TraceLog()
    vmsd = VMStateDescription(
        "d",
        fields=(
            fields.uint32("v"),
            fields.struct_array("p", VMStateDescription("i", fields=BYTE), 1),
        ),
    )
    with pytest.raises(LoadError):
        load(vmsd, b"\0\0", State(v=0, p=[State(v=0)]), trace=log)
    with pytest.raises(LoadError):
        load(vmsd, b"\0\0\0\0", State(v=0, p=[State(v=0)]), trace=log)
    assert log.named("vmstate_load_field_error") == [("v", -EIO), ("v", -EIO), ("p", -EIO)]
    assert log.named("vmstate_n_elems") == [("p", 1)]
