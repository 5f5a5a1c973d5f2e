"""The guest runs, always the same, and whatever it does can be saved and loaded."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from savevm import guest
from savevm.board import DEVICE_SETS, full_machine, machine_of, machine_with
from savevm.devices.cpu import Cpu
from savevm.errors import LoadError
from savevm.load import load_from_bytes
from savevm.machine import Machine
from savevm.migratable import migratable_digest
from savevm.save import save_to_bytes
from savevm.state import walk
from savevm.testing.copies import copy_by_stream, load_device, migratable_differences, save_device

STEPS = st.integers(0, 600)
RAM_BYTES = 16384
SETS = sorted(DEVICE_SETS)


def build(name: str = "full") -> Machine:
    machine = (
        machine_of(name)
        if name == "none"
        else machine_with(*DEVICE_SETS[name], ram_bytes=RAM_BYTES)
    )
    # The stream's own description is most of its bytes and none of the state.
    machine.suppress_vmdesc = True
    return machine


@settings(max_examples=60, deadline=None)
@given(name=st.sampled_from(SETS), steps=STEPS, more=st.integers(0, 80))
def test_after_any_number_of_steps_the_state_saves_loads_and_stays_equal(
    name: str, steps: int, more: int
) -> None:
    source = build(name)
    source.step(steps)
    assert source.check_invariants() == []
    copy = copy_by_stream(source, build(name))
    assert copy.check_invariants() == []
    assert migratable_differences(source, copy) == []
    source.step(more)
    copy.step(more)
    assert migratable_digest(source) == migratable_digest(copy)


def test_every_one_of_a_thousand_states_is_possible_and_loads_with_the_same_digest() -> None:
    source, copy = full_machine(ram_bytes=4096), full_machine(ram_bytes=4096)
    source.suppress_vmdesc = copy.suppress_vmdesc = True
    for step in range(1000):
        source.step()
        assert source.check_invariants() == []
        if step % 7 == 0:
            load_from_bytes(copy, save_to_bytes(source))
            assert migratable_digest(copy) == migratable_digest(source)


def test_two_guests_with_one_seed_do_the_same_and_with_two_they_do_not() -> None:
    one, other = full_machine(), full_machine()
    stranger = machine_with(*DEVICE_SETS["full"], replace={"cpu": lambda: Cpu(seed=1)})
    for machine in (one, other, stranger):
        machine.step(500)
    assert one.digest() == other.digest()
    assert one.ram is not None
    assert stranger.ram is not None
    assert one.ram.digest() != stranger.ram.digest()


def test_the_guest_changes_every_device_and_dirties_memory() -> None:
    machine = full_machine()
    before = {name: dict(walk(device)) for name, device in machine.devices.items()}
    assert machine.ram is not None
    memory = machine.ram.digest()
    machine.step(400)
    unchanged = {
        name for name, device in machine.devices.items() if dict(walk(device)) == before[name]
    }
    assert unchanged == {"globalstate"}
    assert machine.ram.digest() != memory


def test_the_program_uses_every_operation_and_takes_interrupts() -> None:
    assert set(guest.PROGRAM) == set(guest.Op)
    machine: Any = full_machine()
    machine.step(1500)
    counts = machine.devices["cpu"].vector_counts
    assert sum(1 for count in counts if count) >= 8
    # No device keeps the guest so busy that it gets nothing done.
    assert machine.devices["cpu"].pc > 4 * len(guest.PROGRAM)


@pytest.mark.parametrize("pc", [0, 7, 1 << 40, (1 << 64) - 1])
def test_a_program_counter_of_any_value_finds_an_instruction(pc: int) -> None:
    machine: Any = build("cpu")
    machine.devices["cpu"].pc = pc
    machine.step(3)
    assert machine.check_invariants() == []


def test_a_guest_without_memory_or_devices_runs() -> None:
    machine = machine_with("cpu")
    machine.step(500)
    assert machine.check_invariants() == []


# -- whatever a load accepts, the guest can live with ----------------------------------------

INTERESTING = (0, 1, 2, 0x7F, 0x80, 0xFE, 0xFF)


@st.composite
def spoilt_devices(draw: st.DrawFn) -> tuple[str, int, list[tuple[float, int]]]:
    """A device of the full machine, a number of steps, and bytes to overwrite."""
    device = draw(st.sampled_from([n for n in DEVICE_SETS["full"] if n != "ram"]))
    byte = st.sampled_from(INTERESTING) | st.integers(0, 255)
    place = st.floats(0, 1, exclude_max=True)
    edits = draw(st.lists(st.tuples(place, byte), min_size=1, max_size=4))
    return device, draw(st.integers(0, 300)), edits


@settings(max_examples=400, deadline=None)
@given(spoilt_devices())
def test_a_device_that_accepted_changed_bytes_keeps_its_invariants_and_runs(
    spoilt: tuple[str, int, list[tuple[float, int]]],
) -> None:
    device, steps, edits = spoilt
    source, destination = build(), build()
    source.step(steps)
    data = bytearray(save_device(source, device))
    for place, value in edits:
        data[int(place * len(data))] = value
    load_device_of_running_machine(source, destination, device, bytes(data))


def load_device_of_running_machine(
    source: Machine, destination: Machine, device: str, data: bytes
) -> None:
    """Load everything from ``source`` but one device from ``data``; if that is
    accepted, the machine must be good for all that a machine is for."""
    load_from_bytes(destination, save_to_bytes(source))
    try:
        load_device(destination, device, data)
    except LoadError:
        return
    assert destination.check_invariants() == []
    destination.step(50)
    assert destination.check_invariants() == []
    again = copy_by_stream(destination, build())
    assert migratable_differences(destination, again) == []


@settings(max_examples=200, deadline=None)
@given(data=st.data(), steps=st.integers(0, 300))
def test_every_byte_of_every_device_may_be_anything(data: st.DataObject, steps: int) -> None:
    # The same with bytes that mean something else entirely: a device's bytes
    # from another moment, shifted by a few.
    device = data.draw(st.sampled_from([n for n in DEVICE_SETS["full"] if n != "ram"]))
    source, destination = build(), build()
    source.step(steps)
    whole = save_device(source, device)
    at = data.draw(st.integers(0, len(whole)))
    junk = data.draw(st.binary(max_size=8))
    changed = whole[:at] + junk + whole[at + data.draw(st.integers(0, 8)) :]
    load_device_of_running_machine(source, destination, device, changed + bytes(64))


@pytest.mark.slow
@pytest.mark.parametrize("device", [name for name in DEVICE_SETS["full"] if name != "ram"])
def test_any_single_byte_of_a_device_may_have_any_extreme_value(device: str) -> None:
    source, destination = build(), build()
    source.step(260)
    whole = save_device(source, device)
    for at in range(len(whole)):
        for value in (0x00, 0x7F, 0x80, 0xFF, whole[at] ^ 1):
            changed = whole[:at] + bytes((value,)) + whole[at + 1 :]
            try:
                load_device(destination, device, changed)
            except LoadError:
                continue
            assert destination.check_invariants() == []
            destination.step(8)
            assert destination.check_invariants() == []
