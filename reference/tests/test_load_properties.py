"""Laws of loading that hold for any bytes and any chunking."""

import random
from contextlib import suppress

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from savevm import SEED, STRICT, LoadError, Profile, SaveError
from savevm.load import load_from_bytes
from savevm.machine import Machine
from savevm.qemufile import BytesSink, ChunkSource, QEMUFileReader, QEMUFileWriter
from savevm.registry import SaveVMHandlers
from savevm.save import qemu_savevm_state, save_to_bytes
from savevm.state import State
from savevm.testing import Drawn, PlainDevice, draw_description, plug, plug_handlers
from savevm.trace import Trace, TraceLog

MODEST = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
PROFILES = pytest.mark.parametrize("profile", [STRICT, SEED], ids=["strict", "seed"])


class Drawer(PlainDevice):
    """A device that holds one state of a drawn description."""


class Board:
    """A machine of drawn devices, a live device and an old-style one."""

    def __init__(self, drawn: list[Drawn], profile: Profile = STRICT) -> None:
        self.machine = Machine("none", profile=profile)
        self.drawn = drawn
        self.states: list[State] = []
        for number, one in enumerate(drawn):
            state = Drawer(f"slot{number}", **vars(one.blank()))
            self.states.append(state)
            plug(self.machine, one.vmsd, state)
        live = SaveVMHandlers(
            save_live_setup=_put, save_live_iterate=_put_last, save_live_complete=_put,
            load_state=_get,
        )  # fmt: skip
        plug_handlers(self.machine, "ram", live, PlainDevice(got=bytearray(4)), version_id=4)
        old = SaveVMHandlers(save_state=_put_old, load_state=_get)
        plug_handlers(self.machine, "old", old, PlainDevice(got=bytearray(4)))

    def fill(self, rng: random.Random) -> None:
        for one, state in zip(self.drawn, self.states, strict=True):
            one.fill(state, rng.randint)
        for name in ("ram#0", "old#0"):
            vars(self.machine.devices[name])["got"][:] = rng.randbytes(4)


def _put(f: QEMUFileWriter, device: PlainDevice) -> int:
    f.put_buffer(vars(device)["got"])
    return 0


def _put_old(f: QEMUFileWriter, device: PlainDevice) -> None:
    _put(f, device)


def _put_last(f: QEMUFileWriter, device: PlainDevice) -> int:
    return _put(f, device) + 1


def _get(f: QEMUFileReader, device: PlainDevice, _version_id: int) -> int:
    vars(device)["got"][:] = f.get_buffer(4).ljust(4, b"\0")
    return 0


def boards(seed: int, profile: Profile = STRICT) -> tuple[Board, bytes]:
    """A machine as after power-on, and what one like it saved after use."""
    rng = random.Random(seed)
    drawn = [draw_description(rng.randint, depth=1, name=f"dev{n}") for n in range(3)]
    source = Board(drawn)
    source.fill(rng)
    return Board(drawn, profile), save_to_bytes(source.machine)


def outcome(
    board: Board, source: bytes | ChunkSource, trace: Trace | None = None
) -> tuple[str, int, str]:
    """Digest, and errno and words of the refusal if there was one."""
    errno, text = 0, ""
    try:
        load_from_bytes(board.machine, source, trace=trace)
    except LoadError as error:
        errno, text = error.errno, str(error)
    assert bool(errno) is bool(text)
    assert errno >= 0
    return board.machine.digest(), errno, text


@pytest.mark.parametrize("seed", range(12))
def test_what_is_saved_loads_and_saves_again_byte_for_byte(seed: int) -> None:
    board, data = boards(seed)
    load_from_bytes(board.machine, data)
    assert save_to_bytes(board.machine) == data
    once = board.machine.digest()
    load_from_bytes(board.machine, data)
    assert board.machine.digest() == once


@pytest.mark.parametrize("seed", range(6))
def test_truncation_at_every_offset_is_refused_and_changes_nothing(seed: int) -> None:
    board, data = boards(seed)
    before = board.machine.digest()
    whole = data.index(b"\0\x06\0\0") + 1
    for end in range(len(data)):
        if end == whole:
            continue  # no description at all is allowed
        with pytest.raises(LoadError):
            load_from_bytes(board.machine, data[:end])
        assert board.machine.digest() == before
    assert board.machine.synchronized_post_init == 0
    load_from_bytes(board.machine, data[:whole])


@PROFILES
@MODEST
@given(data=st.binary(max_size=200), magic=st.booleans())
def test_only_load_errors_leave_a_load_of_any_bytes(
    profile: Profile, data: bytes, magic: bool
) -> None:
    board, good = boards(3, profile)
    before = board.machine.digest()
    digest, errno, _text = outcome(board, good[:8] + data if magic else data)
    if errno and profile is STRICT:
        assert digest == before


@st.composite
def mutated(draw: st.DrawFn) -> tuple[int, bytes]:
    """A valid stream with a few bytes changed, cut out or doubled."""
    seed = draw(st.integers(0, 7))
    data = bytearray(boards(seed)[1])
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(data) - 1))
        size = draw(st.integers(1, 8))
        kind = draw(st.sampled_from(["set", "cut", "double", "ones", "zeros"]))
        if kind == "set":
            data[at] = draw(st.integers(0, 255))
        elif kind == "cut":
            del data[at : at + size]
        elif kind == "double":
            data[at:at] = data[at : at + size]
        else:
            data[at : at + size] = (b"\xff" if kind == "ones" else b"\0") * len(
                data[at : at + size]
            )
        if not data:
            break
    return seed, bytes(data)


@PROFILES
@settings(MODEST, max_examples=200)
@given(stream=mutated())
def test_only_load_errors_leave_a_load_of_a_damaged_stream(
    profile: Profile, stream: tuple[int, bytes]
) -> None:
    seed, data = stream
    board, _good = boards(seed, profile)
    before = board.machine.digest()
    digest, errno, _text = outcome(board, data)
    if profile is STRICT:
        assert board.machine.synchronized_post_init == (0 if errno else 1)
        if errno:
            assert digest == before
        else:
            # What was accepted can be saved, and that is accepted again.
            again, _ = boards(seed)
            load_from_bytes(again.machine, save_to_bytes(board.machine))


@PROFILES
@MODEST
@given(stream=mutated(), sizes=st.lists(st.integers(1, 40), min_size=1, max_size=4))
def test_every_chunking_gives_the_same_verdict_and_state(
    profile: Profile, stream: tuple[int, bytes], sizes: list[int]
) -> None:
    seed, data = stream
    whole = outcome(boards(seed, profile)[0], data)
    assert outcome(boards(seed, profile)[0], ChunkSource.split(data, sizes)) == whole


@MODEST
@given(stream=mutated())
def test_tracing_changes_no_verdict(stream: tuple[int, bytes]) -> None:
    seed, data = stream
    plain, traced = boards(seed)[0], boards(seed)[0]
    log = TraceLog()
    assert outcome(traced, data, log) == outcome(plain, data)


@MODEST
@given(stream=mutated())
def test_a_seed_that_kept_anything_saves_or_says_why_not(stream: tuple[int, bytes]) -> None:
    # What a failed load left behind may be nonsense, but it stays a state.
    seed, data = stream
    board = boards(seed, SEED)[0]
    outcome(board, data)
    with suppress(SaveError):
        qemu_savevm_state(QEMUFileWriter(BytesSink()), board.machine)
