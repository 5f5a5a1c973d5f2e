"""What follows EOF, and when the CPU is told that the load is over."""

from errno import EIO

import pytest

from savevm import SEED, STRICT, LoadError, Profile
from savevm.constants import MAX_VMDESC
from savevm.load import load_from_bytes, qemu_loadvm_state
from savevm.machine import Machine
from savevm.qemufile import ChunkSource, QEMUFileReader
from savevm.testing import PlainDevice, full_section, header, plug, stream, vmdesc
from savevm.vmstate import VMStateDescription, fields

DEV = VMStateDescription("dev", fields=(fields.uint8("v"),))
SECTION = full_section(0, "dev", b"\x07")
WHOLE = stream(SECTION)


def machine(profile: Profile = STRICT) -> Machine:
    board = Machine("none", profile=profile)
    plug(board, DEV, PlainDevice(v=0))
    return board


BOTH = pytest.mark.parametrize("profile", [STRICT, SEED], ids=["strict", "seed"])
BEHIND = {
    "nothing": b"",
    "a description": vmdesc(b'{"page_size": 4096}'),
    "an empty description": vmdesc(b""),
    "a description that is no JSON": vmdesc(b"\xff{[\0"),
    "a description and junk": vmdesc(b"{}") + b"\x04junk",
    "two descriptions": vmdesc(b"{}") * 2,
    "junk": b"\x04\xff\xff",
    "zeros": bytes(64),
}


@BOTH
@pytest.mark.parametrize("behind", BEHIND.values(), ids=BEHIND)
def test_what_follows_eof_does_not_matter(behind: bytes, profile: Profile) -> None:
    board = machine(profile)
    load_from_bytes(board, WHOLE + behind)
    assert vars(board.devices["dev#0"])["v"] == 7
    assert board.synchronized_post_init == 1


DAMAGED = {
    "its mark alone": b"\x06",
    "a cut size": b"\x06\0\0",
    "a cut text": vmdesc(b"{}", size=100),
    "a claim of 4 GiB": vmdesc(b"{}", size=0xFFFFFFFF),
    "a claim above the bound": vmdesc(b"{}", size=MAX_VMDESC + 1),
}


@pytest.mark.parametrize("behind", DAMAGED.values(), ids=DAMAGED)
def test_a_description_that_is_announced_must_be_there(behind: bytes) -> None:
    board = machine()
    before = board.digest()
    with pytest.raises(LoadError) as caught:
        load_from_bytes(board, WHOLE + behind)
    assert caught.value.path == ("vmdesc",)
    assert board.digest() == before
    assert board.synchronized_post_init == 0


@pytest.mark.parametrize("behind", DAMAGED.values(), ids=DAMAGED)
def test_the_seed_does_not_care(behind: bytes) -> None:
    board = machine(SEED)
    load_from_bytes(board, WHOLE + behind)
    assert board.synchronized_post_init == 1


def test_a_description_as_large_as_the_bound_is_looked_for() -> None:
    with pytest.raises(LoadError) as caught:
        load_from_bytes(machine(), WHOLE + vmdesc(b"{}", size=MAX_VMDESC))
    assert (caught.value.errno, caught.value.expected) == (EIO, MAX_VMDESC)


def test_a_long_description_is_skipped_in_pieces() -> None:
    text = b"{" + b" " * 300_000 + b"}"
    f = QEMUFileReader(ChunkSource.split(WHOLE + vmdesc(text), [1000]))
    qemu_loadvm_state(f, machine())
    assert f.tell() == len(WHOLE + vmdesc(text))


def test_a_stream_cut_at_a_section_boundary_is_not_whole() -> None:
    board = machine()
    before = board.digest()
    with pytest.raises(LoadError) as caught:
        load_from_bytes(board, header() + SECTION)
    assert caught.value.errno == EIO
    assert board.digest() == before
    assert board.synchronized_post_init == 0


def test_the_seed_notices_it_only_behind_what_looks_like_eof() -> None:
    board = machine(SEED)
    with pytest.raises(LoadError) as caught:
        load_from_bytes(board, header() + SECTION)
    assert (caught.value.errno, caught.value.reason) == (
        EIO,
        "the stream ended where a section was expected",
    )
    # By then it has loaded the device and told the CPU so.
    assert vars(board.devices["dev#0"])["v"] == 7
    assert board.synchronized_post_init == 1


@BOTH
def test_a_source_that_never_ends_but_in_zeros_looks_finished(profile: Profile) -> None:
    # What a snapshot in a qcow2 image gives: no end of file, zeros for ever.
    class Zeros:
        def __init__(self) -> None:
            self.data = header() + SECTION

        def read(self, size: int) -> bytes:
            taken, self.data = self.data[:size], self.data[size:]
            return taken or bytes(size)

        def close(self) -> None:
            pass

    board = machine(profile)
    load_from_bytes(board, Zeros())
    assert board.synchronized_post_init == 1


@BOTH
def test_post_init_comes_once_per_load(profile: Profile) -> None:
    board = machine(profile)
    for turn in range(1, 4):
        load_from_bytes(board, WHOLE)
        assert board.synchronized_post_init == turn
