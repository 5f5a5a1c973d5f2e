"""Whatever the bytes: a Document covers them, writes them back, and never raises."""

from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from savevm.board import full_machine, small_machine
from savevm.document import Document
from savevm.document.resync import BUDGET_FACTOR, BUDGET_LEAST, RESYNCS_MAX
from savevm.machine import Machine
from savevm.save import save_to_bytes
from savevm.testing.documents import QEMU_NONE_STREAM, fault_of

MODEST = settings(deadline=None, max_examples=120)
HEADER = b"QEVM\0\0\0\3"


@cache
def saved(name: str) -> bytes:
    machine = machine_called(name)
    machine.step(40)
    return save_to_bytes(machine)


def machine_called(name: str) -> Machine:
    return {"small": small_machine, "full": full_machine}[name]()


def be(number: int) -> bytes:
    return number.to_bytes(4, "big")


@MODEST
@given(st.binary(max_size=400))
def test_any_bytes_come_back_unchanged(data: bytes) -> None:
    assert not fault_of(Document.parse(data), data)


@MODEST
@given(st.binary(max_size=200), st.sampled_from([b"", b"\x07\0\0\0\4none"]))
def test_any_bytes_behind_a_header_come_back_unchanged(data: bytes, configuration: bytes) -> None:
    whole = HEADER + configuration + data
    assert not fault_of(Document.parse(whole), whole)
    assert not fault_of(Document.parse(whole, small_machine), whole)


@st.composite
def damaged(draw: st.DrawFn, base: bytes) -> bytes:
    data = bytearray(base)
    for _ in range(draw(st.integers(1, 6))):
        start = draw(st.integers(0, len(data)))
        end = min(len(data), start + draw(st.sampled_from([0, 1, 2, 4, 5, 16, 300])))
        action = draw(st.sampled_from(["set", "cut", "insert", "repeat", "end"]))
        if action == "set" and start < len(data):
            data[start] = draw(st.sampled_from([0, 1, 2, 3, 4, 5, 6, 7, 8, 0x7E, 0x80, 0xFF]))
        elif action == "cut":
            del data[start:end]
        elif action == "insert":
            data[start:start] = draw(st.binary(max_size=12))
        elif action == "repeat":
            data[start:start] = data[start:end]
        elif action == "end" and draw(st.booleans()):
            del data[start:]
    return bytes(data)


@pytest.mark.parametrize("name", ["small", "full"])
@pytest.mark.parametrize("known", [True, False], ids=["machine", "vmdesc"])
def test_damaged_streams_come_back_unchanged(name: str, known: bool) -> None:
    base = saved(name)
    machine = machine_called(name)
    before = machine.digest()

    @MODEST
    @given(damaged(base))
    def check(data: bytes) -> None:
        document = Document.parse(data, (lambda: machine) if known else None)
        assert not fault_of(document, data)

    check()
    # A machine that only lends its descriptions is left as it was.
    assert machine.digest() == before


@MODEST
@given(damaged(QEMU_NONE_STREAM))
def test_a_damaged_real_stream_comes_back_unchanged(data: bytes) -> None:
    assert not fault_of(Document.parse(data), data)


def test_every_prefix_of_a_stream_comes_back_unchanged() -> None:
    for end in range(len(QEMU_NONE_STREAM)):
        data = QEMU_NONE_STREAM[:end]
        document = Document.parse(data)
        assert not fault_of(document, data)
        # Behind its EOF a stream needs no vmdesc; cut before that, it must be told.
        assert document.problems or end > 0xFF


SECTION = b"\x04" + be(1) + b"\x02ab" + be(0) + be(1)
RAM_START = b"\x01" + be(2) + b"\x03ram" + be(0) + be(4) + bytes(7) + b"\4" + bytes(7) + b"\x10"
HOSTILE = {
    "zeros": bytes(50_000),
    "footer marks": b"\x7e" * 50_000,
    "section types": b"\x01" * 50_000,
    "headers only": HEADER + SECTION * 4000,
    "footers of one section": HEADER + SECTION + (b"\x7e" + be(1) + b"\x09") * 10_000,
    "broken parts": HEADER + RAM_START + b"\x7e" + be(2) + (b"\x02" + be(2) + b"\x7e") * 9000,
    "ends everywhere": HEADER + (b"\0" + SECTION + b"\x7e" + be(1)) * 3000,
    "packages": HEADER + (b"\x08\0\7\0\4" + be(9)) * 6000,
    "vmdescs": (b"\x06" + be(100) + b"{") * 8000,
    "deep vmdesc": HEADER + b"\0\x06" + be(60_000) + b'{"devices":' * 5500,
    "deep list": HEADER + b"\0\x06" + be(60_001) + b"{" + b"[" * 60_000,
}


@pytest.mark.parametrize("data", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_streams_come_back_unchanged(data: bytes) -> None:
    assert not fault_of(Document.parse(data), data)
    assert not fault_of(Document.parse(data, small_machine), data)


@pytest.mark.parametrize("data", HOSTILE.values(), ids=HOSTILE.keys())
def test_searching_a_hostile_stream_stays_within_its_budget(
    data: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    from savevm.document import store

    looked_at = 0
    searches = 0
    find = store.MemoryStore.find

    def counting(self: store.MemoryStore, pattern: bytes, start: int, end: int) -> int:
        nonlocal looked_at, searches
        found = find(self, pattern, start, end)
        searches += 1
        looked_at += max((found if found >= 0 else end) - start, 0)
        return found

    monkeypatch.setattr(store.MemoryStore, "find", counting)
    Document.parse(data)
    # One search may begin with the last byte of the budget and run to the end.
    assert looked_at <= BUDGET_FACTOR * len(data) + BUDGET_LEAST + len(data)
    assert searches <= 2 * RESYNCS_MAX + len(data)


def test_problems_do_not_keep_the_load_alive() -> None:
    for problem in Document.parse(b"QEVM\0\0\0\x09" + SECTION).problems:
        assert problem.__traceback__ is None
        assert problem.__context__ is None
