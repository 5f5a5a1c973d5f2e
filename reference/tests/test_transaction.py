"""A failed load leaves the machine as it was; a good one is kept."""

from collections.abc import Callable

import pytest

from savevm import SEED, LoadError
from savevm.load import load_from_bytes
from savevm.machine import Machine
from savevm.qemufile import QEMUFileReader
from savevm.registry import SaveVMHandlers
from savevm.state import State
from savevm.testing import PlainDevice, full_section, plug, plug_handlers, stream
from savevm.transaction import Transaction
from savevm.vmstate import VMStateDescription, fields

INNER = VMStateDescription("inner", fields=(fields.uint8("x"),))
DEV = VMStateDescription(
    "dev",
    fields=(
        fields.uint8("v"), fields.buffer("data", 2), fields.struct("inside", INNER),
        fields.qtailq("queue", INNER, lambda: State(x=0)),
    ),
)  # fmt: skip
GOOD = full_section(0, "dev", b"\x07ab\x01\x01\x02\0")
BAD = full_section(0, "dev", b"\x07ab\x01\x01\x02\x05")
LAST = full_section(1, "last", b"\x01")


class Aside(PlainDevice):
    """State that is loaded aside, as RAM is; it notes what it is asked."""

    def __init__(self) -> None:
        super().__init__(value=0)
        self.heard: list[str] = []

    def stage(self) -> None:
        self.heard.append("stage")

    def commit(self) -> None:
        self.heard.append("commit")

    def rollback(self) -> None:
        self.heard.append("rollback")


def device() -> PlainDevice:
    return PlainDevice(v=1, data=bytearray(b"xy"), inside=State(x=9), queue=[State(x=8)])


def machine() -> tuple[Machine, PlainDevice]:
    board, made = Machine("none"), device()
    plug(board, DEV, made)
    plug(board, VMStateDescription("last", fields=(fields.uint8_equal("k"),)), PlainDevice(k=1))
    return board, made


def test_a_good_load_is_kept() -> None:
    board, made = machine()
    load_from_bytes(board, stream(GOOD, LAST))
    assert (vars(made)["v"], vars(made)["data"]) == (7, b"ab")
    assert [vars(x)["x"] for x in vars(made)["queue"]] == [2]


@pytest.mark.parametrize(
    "wire",
    [
        stream(BAD),
        stream(GOOD, full_section(1, "last", b"\x02")),
        stream(GOOD, LAST)[:-1],
        stream(GOOD, LAST) + b"\x06",
        stream(GOOD, b"\x55"),
    ],
    ids=["in the device", "in a later device", "before EOF", "behind EOF", "between"],
)
def test_a_failed_load_puts_everything_back_where_it_was(wire: bytes) -> None:
    board, made = machine()
    held = dict(vars(made))
    before = board.digest()
    with pytest.raises(LoadError):
        load_from_bytes(board, wire)
    assert board.digest() == before
    assert all(vars(made)[name] is value for name, value in held.items())
    assert vars(made)["data"] == b"xy"


def test_under_the_seed_what_was_loaded_stays() -> None:
    board, made = machine()
    board.profile = SEED
    with pytest.raises(LoadError):
        load_from_bytes(board, stream(GOOD, full_section(1, "last", b"\x02")))
    assert (vars(made)["v"], vars(made)["data"]) == (7, b"ab")


@pytest.mark.parametrize("hook", ["pre_load", "post_load"])
def test_what_a_hook_changed_is_put_back_too(hook: str) -> None:
    def change(state: PlainDevice, *_version: int) -> int:
        vars(state)["seen"] = True
        return -5 if hook == "post_load" else 0

    vmsd = VMStateDescription("dev", fields=(fields.uint8_equal("k"),), **{hook: change})  # type: ignore[arg-type]
    board, made = Machine("none"), PlainDevice(k=1)
    plug(board, vmsd, made)
    with pytest.raises(LoadError):
        load_from_bytes(
            board, stream(full_section(0, "dev", b"\x01" if hook == "post_load" else b"\x02"))
        )
    assert "seen" not in vars(made)


def test_the_board_and_its_clock_are_protected() -> None:
    def load_state(f: QEMUFileReader, made: PlainDevice, version_id: int) -> int:
        board.vm_start()
        board.clock.now_ns += 1
        return -1

    board = Machine("none")
    plug_handlers(
        board, "old", SaveVMHandlers(save_state=lambda f, o: None, load_state=load_state),
        PlainDevice(),
    )  # fmt: skip
    before = board.digest()
    with pytest.raises(LoadError):
        load_from_bytes(board, stream(full_section(0, "old")))
    assert board.digest() == before
    assert not board.is_running()


def test_anything_that_stops_a_load_rolls_it_back() -> None:
    class Interrupted(BaseException):
        pass

    def post_load(state: PlainDevice, version_id: int) -> int:
        raise Interrupted

    board, made = Machine("none"), PlainDevice(v=1)
    plug(board, VMStateDescription("dev", fields=(fields.uint8("v"),), post_load=post_load), made)
    with pytest.raises(Interrupted):
        load_from_bytes(board, stream(full_section(0, "dev", b"\x07")))
    assert vars(made)["v"] == 1


# -- state that stages itself ------------------------------------------------------------------


def staged_machine(
    load_state: Callable[[QEMUFileReader, Aside, int], int],
) -> tuple[Machine, Aside]:
    board, aside = Machine("none"), Aside()
    ops = SaveVMHandlers(save_live_setup=lambda f, o: 0, load_state=load_state)
    plug_handlers(board, "ram", ops, aside)
    return board, aside


START = b"\x01\0\0\0\0\x03ram\0\0\0\0\0\0\0\x01\x7e\0\0\0\0"
PART = b"\x02\0\0\0\0\x7e\0\0\0\0"


def test_what_stages_itself_is_asked_once_and_told_the_outcome() -> None:
    board, aside = staged_machine(lambda f, o, version: 0)
    load_from_bytes(board, stream(START, PART, PART))
    assert aside.heard == ["stage", "commit"]
    with pytest.raises(LoadError):
        load_from_bytes(board, stream(START, PART, b"\x55"))
    assert aside.heard == ["stage", "commit", "stage", "rollback"]


def test_under_the_seed_nothing_is_staged() -> None:
    board, aside = staged_machine(lambda f, o, version: -5)
    board.profile = SEED
    with pytest.raises(LoadError):
        load_from_bytes(board, stream(START))
    assert aside.heard == []


def test_a_transaction_commits_and_rolls_back_each_once() -> None:
    board, one, two = Machine("none"), Aside(), Aside()
    transaction = Transaction(board)
    for opaque in (one, two, one, device()):
        transaction.protect(opaque)
    transaction.rollback()
    transaction.rollback()
    transaction.commit()
    assert one.heard == two.heard == ["stage", "rollback"]


def test_what_was_committed_is_not_rolled_back_afterwards() -> None:
    aside = Aside()
    transaction = Transaction(Machine("none"))
    transaction.protect(aside)
    transaction.commit()
    transaction.rollback()
    assert aside.heard == ["stage", "commit"]


def test_an_adopting_machine_gets_its_numbers_back() -> None:
    board, _made = machine()
    ops = SaveVMHandlers(save_state=lambda f, o: None, load_state=lambda f, o, version: 0)
    plug_handlers(board, "old", ops, PlainDevice(), version_id=9)
    board.adopts = True

    def numbers() -> list[tuple[object, ...]]:
        return [
            (se.section_id, se.version_id, se.early, board.skip_section_footers)
            for se in board.savevm.handlers
        ]

    before = numbers()
    adopted = stream(
        full_section(41, "dev", GOOD[17:-5], footer_id=None),
        full_section(43, "old", version_id=5, footer_id=None),
    )
    load_from_bytes(board, adopted)
    assert numbers() != before
    board, _made = machine()
    plug_handlers(board, "old", ops, PlainDevice(), version_id=9)
    board.adopts = True
    with pytest.raises(LoadError):
        load_from_bytes(board, adopted[:-1])
    assert numbers() == before
