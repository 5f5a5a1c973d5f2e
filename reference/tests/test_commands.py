"""VM_COMMANDs: their lengths, their order, and packages."""

from errno import EINVAL, EIO, ERANGE

import pytest

from savevm import SEED, STRICT, LoadError, Profile, load
from savevm.commands import (
    LENGTHS,
    MAX_VM_CMD_PACKAGED_SIZE,
    Command,
    PostcopyState,
    ReceivedCommand,
)
from savevm.load import Loader, load_from_bytes
from savevm.machine import Machine
from savevm.qemufile import QEMUFileReader
from savevm.testing import PlainDevice, command, full_section, header, plug, stream
from savevm.trace import TraceLog
from savevm.vmstate import VMStateDescription, fields

DEV = VMStateDescription("dev", fields=(fields.uint8("v"),))
SECTION = full_section(0, "dev", b"\x07")
OTHER = full_section(1, "other", b"\x08")


def machine(profile: Profile = STRICT) -> Machine:
    board = Machine("none", profile=profile)
    plug(board, DEV, PlainDevice(v=0))
    plug(board, VMStateDescription("other", fields=(fields.uint8("v"),)), PlainDevice(v=0))
    return board


def received(*sections: bytes) -> list[ReceivedCommand]:
    loader = Loader(QEMUFileReader(stream(*sections)), machine())
    loader.load()
    return loader.commands


def refusal(*sections: bytes, profile: Profile = STRICT) -> LoadError:
    board = machine(profile)
    before = board.digest()
    with pytest.raises(LoadError) as caught:
        load_from_bytes(board, stream(*sections))
    assert caught.value.path[:1] == ("command",)
    if profile is STRICT:
        assert board.digest() == before
    return caught.value


DISCARD = b"\0\x03ram\0" + bytes(16)
ADVISE, LISTEN, RUN = (
    command(Command.POSTCOPY_ADVISE), command(Command.POSTCOPY_LISTEN),
    command(Command.POSTCOPY_RUN),
)  # fmt: skip

GOOD = {
    Command.OPEN_RETURN_PATH: b"",
    Command.PING: b"\0\0\0\x01",
    Command.POSTCOPY_ADVISE: bytes(16),
    Command.ENABLE_COLO: b"",
    Command.POSTCOPY_RESUME: b"",
    Command.RECV_BITMAP: b"\x03ram",
    Command.SWITCHOVER_START: b"",
}


@pytest.mark.parametrize("number", GOOD, ids=lambda number: number.name)
def test_a_command_is_received_with_its_payload(number: Command) -> None:
    (one,) = received(command(number, GOOD[number]))
    assert one == ReceivedCommand(8, number, GOOD[number])


def test_commands_stand_between_sections_and_change_nothing() -> None:
    board = machine()
    load_from_bytes(board, stream(command(Command.PING, bytes(4)), SECTION, command(1), OTHER))
    assert vars(board.devices["dev#0"])["v"] == 7


def test_commands_are_traced() -> None:
    log = TraceLog()
    load_from_bytes(machine(), stream(command(Command.PING, bytes(4))), trace=log)
    assert [str(event) for event in log.events] == [
        "qemu_loadvm_state_section 8",
        "loadvm_process_command com=0x2 len=4",
        "qemu_loadvm_state_section_command 0",
        "qemu_loadvm_state_post_main 0",
    ]


@pytest.mark.parametrize("number", [0, 12, 0xFFFF])
def test_an_unknown_command_is_refused(number: int) -> None:
    error = refusal(command(number, b"ab"))
    assert (error.errno, error.offset, error.actual) == (EINVAL, 9, number)
    assert error.qemu == f"MIG_CMD 0x{number:x} unknown (len 0x2)"
    log = TraceLog()
    with pytest.raises(LoadError):
        load_from_bytes(machine(), stream(command(number)), trace=log)
    assert log.named("qemu_loadvm_state_section_command") == [(-EINVAL,)]


@pytest.mark.parametrize("number", [n for n, length in LENGTHS.items() if length >= 0])
def test_a_command_of_another_length_is_refused(number: Command) -> None:
    length = LENGTHS[number]
    error = refusal(command(number, bytes(length + 1)))
    assert (error.errno, error.offset) == (ERANGE, 11)
    assert (error.expected, error.actual) == (length, length + 1)
    assert "bad length" in error.qemu


@pytest.mark.parametrize("profile", [STRICT, SEED], ids=["strict", "seed"])
def test_a_command_cut_off_is_refused(profile: Profile) -> None:
    whole = header() + command(Command.PING, bytes(4))
    for end in range(9, len(whole)):
        with pytest.raises(LoadError):
            load_from_bytes(machine(profile), whole[:end])
    with pytest.raises(LoadError) as caught:
        load_from_bytes(machine(), header() + command(Command.RECV_BITMAP, b"ab", length=9))
    assert (caught.value.errno, caught.value.path) == (EIO, ("command",))


def test_commands_and_states_have_qemus_numbers() -> None:
    assert [command.value for command in Command] == list(range(12))
    assert [state.name for state in sorted(PostcopyState)] == [
        "NONE", "ADVISE", "DISCARD", "LISTENING", "RUNNING",
    ]  # fmt: skip
    assert [state.value for state in PostcopyState] == list(range(5))
    assert MAX_VM_CMD_PACKAGED_SIZE == 16 << 20


# -- postcopy ---------------------------------------------------------------------------------


def test_postcopy_goes_forward_step_by_step() -> None:
    discard = command(Command.POSTCOPY_RAM_DISCARD, DISCARD + bytes(16))
    assert len(received(ADVISE, discard, discard, LISTEN, RUN)) == 5
    assert len(received(ADVISE, LISTEN, RUN)) == 3


@pytest.mark.parametrize(
    ("before", "last", "state"),
    [
        ((), LISTEN, "NONE"),
        ((), RUN, "NONE"),
        ((), command(Command.POSTCOPY_RAM_DISCARD, DISCARD), "NONE"),
        ((ADVISE,), ADVISE, "ADVISE"),
        ((ADVISE,), RUN, "ADVISE"),
        ((ADVISE, LISTEN), LISTEN, "LISTENING"),
        ((ADVISE, LISTEN, RUN), RUN, "RUNNING"),
        ((ADVISE, LISTEN), command(Command.POSTCOPY_RAM_DISCARD, DISCARD), "LISTENING"),
    ],
)
def test_a_command_out_of_its_turn_is_refused(
    before: tuple[bytes, ...], last: bytes, state: str
) -> None:
    error = refusal(*before, last)
    assert error.actual == state
    assert error.offset == 8 + len(b"".join(before)) + 1
    assert f"in wrong postcopy state ({PostcopyState[state].value})" in error.qemu


@pytest.mark.parametrize("size", [1, 8, 15, 17])
def test_an_advice_has_no_bytes_or_sixteen(size: int) -> None:
    error = refusal(command(Command.POSTCOPY_ADVISE, bytes(size)))
    assert (error.expected, error.actual, error.offset) == (16, size, 11)


@pytest.mark.parametrize(
    "payload",
    [
        b"", b"\0", b"\0\0", b"\x01\x03ram\0" + bytes(16), b"\0\x19ram\0" + bytes(16),
        b"\0\x03ram\x01" + bytes(16), b"\0\x03ram\0" + bytes(15), b"\0\x03ram\0" + bytes(17),
        b"\0\x03ram\0" + bytes(31), b"\0\x03ram", b"\0\x03ram\0", b"\0\0\0" + bytes(16),
    ],
)  # fmt: skip
def test_a_malformed_discard_is_refused(payload: bytes) -> None:
    error = refusal(ADVISE, command(Command.POSTCOPY_RAM_DISCARD, payload))
    assert error.offset == 8 + len(ADVISE) + 5


@pytest.mark.parametrize("payload", [b"", b"\x01", b"\x03ra", b"\x02ram"])
def test_a_malformed_bitmap_request_is_refused(payload: bytes) -> None:
    error = refusal(command(Command.RECV_BITMAP, payload))
    assert "disagree" in str(error)
    assert error.offset == 13


# -- packages -----------------------------------------------------------------------------------


def package(inside: bytes, size: int | None = None) -> bytes:
    announced = len(inside) if size is None else size
    return command(Command.PACKAGED, announced.to_bytes(4, "big")) + inside


@pytest.mark.parametrize("profile", [STRICT, SEED], ids=["strict", "seed"])
@pytest.mark.parametrize("end", [b"", b"\0"], ids=["at its size", "at EOF"])
def test_the_sections_of_a_package_are_loaded_in_place(end: bytes, profile: Profile) -> None:
    board = machine(profile)
    load_from_bytes(board, stream(package(SECTION + end), OTHER))
    assert [vars(board.devices[name])["v"] for name in ("dev#0", "other#0")] == [7, 8]


def test_an_empty_package_is_a_package() -> None:
    assert [c.command for c in received(package(b""), SECTION)] == [Command.PACKAGED]


def test_commands_may_be_packaged_and_are_traced() -> None:
    log = TraceLog()
    load_from_bytes(
        machine(), stream(package(command(Command.PING, bytes(4)) + SECTION)), trace=log
    )
    assert log.named("qemu_loadvm_state_section") == [(8,), (8,), (4,)]
    assert log.named("loadvm_process_command") == [(7, 4), (2, 4)]


def test_a_package_inside_a_package_is_refused() -> None:
    error = refusal(package(package(SECTION)))
    assert error.path == ("command", "command")
    assert "a package inside a package" in str(error)


def test_a_package_larger_than_any_is_refused() -> None:
    for size in (MAX_VM_CMD_PACKAGED_SIZE + 1, 0xFFFFFFFF):
        error = refusal(package(SECTION, size))
        assert (error.expected, error.actual, error.offset) == (
            MAX_VM_CMD_PACKAGED_SIZE, size, 13,
        )  # fmt: skip
        assert "Unreasonably large packaged state" in error.qemu


@pytest.mark.parametrize("profile", [STRICT, SEED], ids=["strict", "seed"])
@pytest.mark.parametrize("change", [-1, -5, -len(SECTION) + 1, 2, 20])
def test_a_package_ends_where_it_says(change: int, profile: Profile) -> None:
    # The first of the two zeros behind the section is an EOF.
    refusal(package(SECTION + b"\0" * 2, len(SECTION) + change), OTHER, profile=profile)


def test_an_error_inside_a_package_names_the_way() -> None:
    error = refusal(package(full_section(0, "dev", b"\x07", footer_id=9)))
    assert error.path == ("command", "dev", "footer")


def test_sections_inside_packages_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load, "MAX_SECTIONS", 4)
    pings = command(Command.PING, bytes(4)) * 3
    load_from_bytes(machine(), stream(package(pings)))
    with pytest.raises(LoadError, match="more than 4 sections"):
        load_from_bytes(machine(), stream(package(pings + command(1))))
