"""The configuration section: whose stream this is."""

from errno import EINVAL, EIO, ENOENT

import pytest

from savevm import SEED, STRICT, LoadError, Profile
from savevm.constants import MAX_ALLOC, MAX_ELEMENTS
from savevm.load import load_from_bytes
from savevm.machine import Machine
from savevm.save import save_to_bytes
from savevm.testing import configuration, header, stream

UUID = bytes(range(16))
BOTH = ("x-ignore-shared", "mapped-ram")


def subsection(name: str, payload: bytes, version_id: int = 1) -> bytes:
    full = f"configuration/{name}"
    return b"\x05" + bytes([len(full)]) + full.encode() + version_id.to_bytes(4, "big") + payload


def capabilities(*names: str, count: int | None = None) -> bytes:
    announced = len(names) if count is None else count
    inside = b"".join(bytes([len(name)]) + name.encode() for name in names)
    return subsection("capabilities", announced.to_bytes(4, "big") + inside)


def page_bits(bits: int) -> bytes:
    return subsection("target-page-bits", bits.to_bytes(4, "big"))


def machine(profile: Profile = STRICT, /, **settings: object) -> Machine:
    board = Machine("none", profile=profile)
    for name, value in settings.items():
        assert hasattr(board, name)
        setattr(board, name, value)
    return board


def refusal(wire: bytes, profile: Profile = STRICT, /, **settings: object) -> LoadError:
    with pytest.raises(LoadError) as caught:
        load_from_bytes(machine(profile, **settings), wire)
    assert caught.value.path[0] == "configuration"
    return caught.value


# -- what is sent ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "behind"),
    [
        ({}, b""),
        ({"target_page_bits": 12}, b""),
        ({"target_page_bits": 14}, page_bits(14)),
        ({"capabilities": ("mapped-ram",)}, capabilities("mapped-ram")),
        ({"uuid": UUID}, subsection("uuid", UUID)),
        (
            {"target_page_bits": 16, "capabilities": BOTH, "uuid": UUID},
            page_bits(16) + capabilities(*BOTH) + subsection("uuid", UUID),
        ),
    ],
)  # fmt: skip
def test_a_machine_sends_its_name_and_what_is_unusual_about_it(
    settings: dict[str, object], behind: bytes
) -> None:
    board = machine(suppress_vmdesc=True, **settings)
    wire = header() + configuration("none", behind) + b"\0"
    assert save_to_bytes(board) == wire
    load_from_bytes(machine(**settings), wire)
    load_from_bytes(machine(SEED, **settings), wire)


def test_a_machine_of_its_time_sends_none_and_takes_none() -> None:
    board = machine(suppress_vmdesc=True, send_configuration=False)
    assert save_to_bytes(board) == stream()
    load_from_bytes(board, stream())
    load_from_bytes(machine(), stream())


# -- what is taken ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["nonex", "non", "", "None", "none\0", "\xff"])
def test_another_machine_type_is_refused(name: str) -> None:
    error = refusal(header() + configuration(name) + b"\0")
    assert (error.errno, error.expected, error.actual) == (EINVAL, "none", name)
    assert error.qemu == f"Machine type received is '{name}' and local is 'none'"
    assert error.offset == 8


def test_a_long_machine_type_is_cut_in_the_message() -> None:
    assert len(str(refusal(header() + configuration("x" * 65536) + b"\0"))) < 200


@pytest.mark.parametrize("claim", [MAX_ALLOC + 1, 0x7FFFFFFF, 0xFFFFFFFF])
def test_no_length_of_the_name_is_believed(claim: int) -> None:
    for profile in (STRICT, SEED):
        error = refusal(header() + b"\x07" + claim.to_bytes(4, "big") + b"none\0", profile)
        assert (error.path, error.offset) == (("configuration", "name"), 13)


def test_other_page_bits_are_refused() -> None:
    error = refusal(header() + configuration("none", page_bits(13)) + b"\0")
    assert (error.expected, error.actual) == (12, 13)
    assert error.qemu == "Received TARGET_PAGE_BITS is 13 but local is 12"
    error = refusal(header() + configuration("none") + b"\0", target_page_bits=14)
    assert (error.expected, error.actual) == (14, 12)


def test_other_capabilities_are_refused() -> None:
    error = refusal(header() + configuration("none", capabilities("mapped-ram")) + b"\0")
    assert (error.expected, error.actual) == ([], ["mapped-ram"])
    assert error.qemu == "Capability mapped-ram is off, but received capability is on"
    # What is not sent is off, whatever the destination has.
    error = refusal(header() + configuration("none") + b"\0", capabilities=("mapped-ram",))
    assert (error.expected, error.actual) == (["mapped-ram"], [])
    assert error.qemu == "Capability mapped-ram is on, but received capability is off"
    unknown = refusal(header() + configuration("none", capabilities("xbzrle")) + b"\0")
    assert unknown.qemu == "Received unknown capability xbzrle"
    assert unknown.path == ("configuration", "capabilities", "capabilities[0]")


def test_capabilities_are_compared_as_a_set() -> None:
    wire = header() + configuration("none", capabilities("mapped-ram", "x-ignore-shared")) + b"\0"
    load_from_bytes(machine(capabilities=("x-ignore-shared", "mapped-ram")), wire)


@pytest.mark.parametrize("count", [MAX_ELEMENTS + 1, 0xFFFFFFFF])
def test_no_number_of_capabilities_is_believed(count: int) -> None:
    wire = header() + configuration("none", capabilities(count=count)) + b"\0"
    for profile in (STRICT, SEED):
        assert refusal(wire, profile).expected == MAX_ELEMENTS


def test_under_the_seed_a_capability_cut_off_is_the_end_of_the_stream() -> None:
    wire = header() + configuration("none", capabilities("mapped-ram"))[:-3]
    assert refusal(wire, SEED).errno == EIO
    assert refusal(wire).errno == EIO


def test_another_uuid_is_refused_by_who_has_one() -> None:
    wire = header() + configuration("none", subsection("uuid", UUID)) + b"\0"
    load_from_bytes(machine(), wire)
    load_from_bytes(machine(uuid=UUID), wire)
    load_from_bytes(machine(uuid=UUID), stream())
    error = refusal(wire, uuid=bytes(16))
    assert (error.expected, error.actual) == (bytes(16).hex(), UUID.hex())
    assert error.path == ("configuration", "uuid")


def test_an_unknown_subsection_is_refused() -> None:
    assert refusal(header() + configuration("none", subsection("x", b"")) + b"\0").errno == ENOENT


def test_truncation_at_every_offset_is_refused() -> None:
    settings: dict[str, object] = {"uuid": UUID, "capabilities": ("mapped-ram",)}
    wire = save_to_bytes(machine(suppress_vmdesc=True, **settings))
    for end in range(len(wire)):
        with pytest.raises(LoadError):
            load_from_bytes(machine(**settings), wire[:end])


# -- a machine that adopts -----------------------------------------------------------------------


def identity(board: Machine) -> tuple[object, ...]:
    return board.machine_type, board.target_page_bits, board.capabilities, board.uuid


def test_an_adopting_machine_takes_over_what_it_reads() -> None:
    source = machine(target_page_bits=14, capabilities=("mapped-ram",), uuid=UUID)
    board = Machine("anything")
    board.adopts = True
    load_from_bytes(board, save_to_bytes(source))
    assert identity(board) == identity(source)
    assert save_to_bytes(board) == save_to_bytes(source)


def test_a_failed_load_leaves_an_adopting_machine_its_identity() -> None:
    wire = save_to_bytes(machine(target_page_bits=14, capabilities=("mapped-ram",), uuid=UUID))
    board = Machine("anything")
    board.adopts = True
    before = identity(board)
    with pytest.raises(LoadError):
        load_from_bytes(board, wire[:-1])
    assert identity(board) == before
