"""Laws of the VMState engine that hold for every description and state."""

import random
from collections import Counter
from contextlib import suppress

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from savevm import SEED, LoadError
from savevm.qemufile import BytesSink, ChunkSource, QEMUFileReader, QEMUFileWriter
from savevm.state import State, walk
from savevm.testing import Drawn, draw_description
from savevm.trace import TraceLog
from savevm.vmstate import VMSFlags, vmstate_load_state, vmstate_save_state
from savevm.vmstate.description import Vmdesc, VMStateDescription

MODEST = settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))


@st.composite
def described_states(draw: st.DrawFn) -> tuple[Drawn, State]:
    def choose(low: int, high: int) -> int:
        return draw(st.integers(low, high))

    drawn = draw_description(choose)
    state = drawn.blank()
    drawn.fill(state, choose)
    return drawn, state


def save(vmsd: VMStateDescription, state: State, vmdesc: Vmdesc | None = None) -> bytes:
    sink = BytesSink()
    f = QEMUFileWriter(sink)
    vmstate_save_state(f, vmsd, state, vmdesc)
    f.flush()
    return bytes(sink.data)


def leaves(state: State) -> dict[str, object]:
    return dict(walk(state))


Outcome = tuple[dict[str, object], int, str, int | None, tuple[str, ...]]


def load(
    drawn: Drawn, source: bytes | ChunkSource, *, traced: bool, into: State | None = None
) -> Outcome:
    """What is observable of a load: state, bytes consumed, the error's words and place."""
    state = drawn.blank() if into is None else into
    f = QEMUFileReader(source, trace=TraceLog() if traced else None)
    try:
        vmstate_load_state(f, drawn.vmsd, state, drawn.vmsd.version_id)
    except LoadError as error:
        return leaves(state), f.tell(), str(error), error.offset, error.path
    return leaves(state), f.tell(), "", None, ()


@MODEST
@given(described_states())
def test_what_is_saved_loads_into_another_state_as_it_was(pair: tuple[Drawn, State]) -> None:
    drawn, state = pair
    data = save(drawn.vmsd, state)
    loaded, consumed, error, _offset, _path = load(drawn, data + b"\0", traced=False)
    assert error == ""
    assert consumed == len(data)
    assert loaded == leaves(state)


@MODEST
@given(described_states())
def test_loading_twice_leaves_what_loading_once_left(pair: tuple[Drawn, State]) -> None:
    drawn, state = pair
    data = save(drawn.vmsd, state)
    target = drawn.blank()
    once = load(drawn, data, traced=False, into=target)
    assert load(drawn, data, traced=False, into=target) == once


@MODEST
@given(described_states())
def test_compiled_runs_and_single_fields_agree_at_every_truncation(
    pair: tuple[Drawn, State],
) -> None:
    drawn, state = pair
    data = save(drawn.vmsd, state)
    step = max(1, len(data) // 60)
    for end in [*range(0, len(data), step), len(data)]:
        fast = load(drawn, data[:end], traced=False)
        assert fast == load(drawn, data[:end], traced=True)
        # Before its last subsection a state looks complete.
        if end < len(data) and "/s" not in repr(drawn):
            assert fast[2], "a proper prefix was accepted"


@MODEST
@given(described_states(), st.binary(max_size=80))
def test_compiled_runs_and_single_fields_agree_on_any_bytes(
    pair: tuple[Drawn, State], data: bytes
) -> None:
    drawn, _state = pair
    assert load(drawn, data, traced=False) == load(drawn, data, traced=True)


@MODEST
@given(described_states())
def test_a_save_with_vmdesc_writes_the_same_bytes_and_counts_them(
    pair: tuple[Drawn, State],
) -> None:
    drawn, state = pair
    vmdesc: Vmdesc = {}
    data = save(drawn.vmsd, state, vmdesc)
    assert data == save(drawn.vmsd, state)
    fields = vmdesc["fields"]
    assert isinstance(fields, list)
    total = 0
    for entry in fields:
        total += entry["size"] * entry.get("array_len", 1) if _uniform(entry) else 0
    if all(_uniform(entry) for entry in fields) and not drawn.vmsd.subsections:
        assert total == len(data)


def _uniform(entry: Vmdesc) -> bool:
    # The first of several compressed elements speaks for all only if all have
    # its size; elements with lists inside do not.
    return "array_len" not in entry or entry["type"] not in ("struct", "vstruct")


@MODEST
@given(described_states(), st.lists(st.integers(1, 9), min_size=1, max_size=4))
def test_every_chunking_of_a_state_loads_alike(pair: tuple[Drawn, State], sizes: list[int]) -> None:
    drawn, state = pair
    data = save(drawn.vmsd, state)
    for end in {0, len(data) // 2, max(len(data) - 1, 0), len(data)}:
        whole = load(drawn, data[:end], traced=False)
        assert load(drawn, ChunkSource.split(data[:end], sizes), traced=False) == whole


@MODEST
@given(described_states(), st.binary(max_size=120))
def test_the_seed_too_lets_nothing_but_load_errors_out(
    pair: tuple[Drawn, State], data: bytes
) -> None:
    drawn, _state = pair
    f = QEMUFileReader(data, profile=SEED)
    with suppress(LoadError):
        vmstate_load_state(f, drawn.vmsd, drawn.blank(), drawn.vmsd.version_id)


def test_drawn_descriptions_use_every_flag_there_is() -> None:
    rng = random.Random(1)
    used: Counter[VMSFlags] = Counter()

    def visit(vmsd: VMStateDescription) -> None:
        for item in vmsd.fields:
            used.update(flag for flag in VMSFlags if flag & item.flags)
            if item.vmsd is not None:
                visit(item.vmsd)

    for _ in range(200):
        visit(draw_description(rng.randint).vmsd)
    missing = [flag.name for flag in VMSFlags if not used[flag]]
    assert missing == []


@pytest.mark.parametrize("seed", range(20))
def test_a_seeded_generator_draws_the_same_description_twice(seed: int) -> None:
    texts = []
    for _ in range(2):
        rng = random.Random(seed)
        drawn = draw_description(rng.randint)
        state = drawn.blank()
        drawn.fill(state, rng.randint)
        texts.append(save(drawn.vmsd, state))
    assert texts[0] == texts[1]
