"""Old versions, optional parts, names, and the sections that QEMU fixes byte by byte."""

from typing import Any

import pytest

from savevm.board import full_machine, machine_with
from savevm.devices.globalstate import RUNSTATES
from savevm.devices.timer_board import TimerBoard
from savevm.devices.virtio import Virtio
from savevm.errors import LoadError
from savevm.load import load_from_bytes
from savevm.machine import Machine, RunState
from savevm.profile import SEED, STRICT
from savevm.qemufile import BytesSink, QEMUFileWriter
from savevm.save import save_to_bytes
from savevm.testing.copies import load_device, save_device
from savevm.vmstate import vmstate_save_state


def saved_as(machine: Machine, device: str, version_id: int) -> bytes:
    """The section of a device as an older version of its description wrote it."""
    opaque: Any = machine.devices[device]
    sink = BytesSink()
    f = QEMUFileWriter(sink)
    vmstate_save_state(f, opaque.vmsd, opaque, None, version_id)
    f.close()
    return bytes(sink.data)


# -- timer and globalstate -----------------------------------------------------------------


def test_the_timer_section_has_the_bytes_of_qemu() -> None:
    machine = machine_with("timer")
    board: Any = machine.devices["timer"]
    board.cpu_ticks_offset = 0x0102030405060708
    machine.clock.now_ns = -2
    assert save_device(machine, "timer").hex() == "0102030405060708" + "00" * 8 + "f" * 15 + "e"


def test_a_timer_section_of_version_1_has_no_clock_and_leaves_ours() -> None:
    destination = machine_with("timer")
    destination.step(5)
    board: Any = destination.devices["timer"]
    assert load_device(destination, "timer", bytes(7) + b"\x09" + bytes(8), 1) == 16
    assert board.cpu_ticks_offset == 9
    assert destination.clock.now_ns == board.cpu_clock_offset == 50_000


def test_instruction_counting_travels_in_nested_subsections() -> None:
    source = machine_with("icount")
    source.step(21)
    board: Any = source.devices["timer"]
    assert board.vm_clock_warp_start != -1
    data = save_device(source, "timer")
    for name in (b"timer/icount", b"timer/icount/warp_timer", b"timer/icount/shift"):
        assert name in data
    destination: Any = machine_with("icount")
    load_device(destination, "timer", data)
    assert destination.devices["timer"].qemu_icount == 21
    assert destination.devices["timer"].vm_clock_warp_start == board.vm_clock_warp_start
    assert destination.devices["timer"].icount_time_shift == board.icount_time_shift
    board.icount_time_shift = 11
    with pytest.raises(LoadError, match="icount: shift: icount_time_shift: expected 0 to 10"):
        load_device(destination, "timer", save_device(source, "timer"))


def test_a_machine_that_does_not_count_instructions_forgets_the_count() -> None:
    source = machine_with("icount")
    source.step(20)
    destination = machine_with("timer")
    load_device(destination, "timer", save_device(source, "timer"))
    board = destination.devices["timer"]
    assert isinstance(board, TimerBoard)
    assert board.qemu_icount == 0
    assert not board.icount_needed()


def test_a_loaded_clock_is_rolled_back_with_the_section_that_brought_it() -> None:
    source = machine_with("timer", "ps2")
    source.step(9)
    good = save_to_bytes(source)
    destination = machine_with("timer", "ps2")
    before = destination.digest()
    at = good.index(b"ps2kbd") + 20
    with pytest.raises(LoadError):
        load_from_bytes(destination, good[:at])
    assert destination.clock.now_ns == 0
    assert destination.digest() == before


@pytest.mark.parametrize("runstate", sorted(RUNSTATES))
def test_globalstate_remembers_every_run_state_and_changes_none(runstate: str) -> None:
    data = (len(runstate) + 1).to_bytes(4, "big") + runstate.encode().ljust(100, b"\0")
    machine: Any = machine_with("globalstate")
    assert load_device(machine, "globalstate", data) == 104
    assert machine.devices["globalstate"].loaded_runstate == runstate
    assert machine.runstate is RunState.PRELAUNCH


@pytest.mark.parametrize("size", [0, 1, 101, 0xFFFFFFFF])
def test_globalstate_does_not_care_for_its_size(size: int) -> None:
    machine = machine_with("globalstate")
    load_device(machine, "globalstate", size.to_bytes(4, "big") + b"paused".ljust(100, b"\0"))


@pytest.mark.parametrize(
    "text",
    [b"prelaunchX", b"", b"Running", b"running ", b"x" * 100, b"prelaunch" * 12, b"\xff\0"],
)
def test_globalstate_refuses_what_is_no_run_state(text: bytes) -> None:
    machine = machine_with("globalstate")
    with pytest.raises(LoadError, match="invalid parameter value: ") as caught:
        load_device(machine, "globalstate", bytes(4) + text[:100].ljust(100, b"\0"))
    shown = text[:100].split(b"\0")[0].decode("latin-1")
    assert caught.value.qemu == f"invalid parameter value: {shown}"


def test_globalstate_says_what_the_machine_did_before_it_was_stopped_to_save() -> None:
    machine: Any = machine_with("globalstate")
    machine.vm_start()
    machine.devices["globalstate"].store()
    machine.vm_stop(RunState.SAVE_VM)
    assert save_device(machine, "globalstate")[:12] == b"\0\0\0\x08running\0"
    machine.vm_stop(RunState.PAUSED)
    assert save_device(machine, "globalstate")[:12] == b"\0\0\0\x07paused\0\0"


def test_a_reset_does_not_forget_what_globalstate_loaded() -> None:
    machine: Any = machine_with("globalstate")
    load_device(machine, "globalstate", bytes(4) + b"paused".ljust(100, b"\0"))
    machine.reset()
    assert machine.devices["globalstate"].loaded_runstate == "paused"


# -- versions ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("device", "version_id", "default"),
    [
        ("cpu", 3, {"xcr0": 1, "smbase": 0x30000}),
        ("rtc", 1, {"period": 0, "base_rtc": 1_420_070_400}),
        ("rtc", 2, {"base_rtc": 1_420_070_400}),
        ("serial", 2, {"brgr": 0x28B, "bdiv": 0x0F, "fcr": 0}),
        ("nic", 1, {"in_use": 0, "vlans": 0}),
        ("nic", 2, {}),
        ("disk", 1, {"remapped": {}}),
        ("ps2", 2, {"scancode_set": 2}),
        ("hpet", 1, {"num_timers": 3}),
    ],
)
def test_what_an_older_version_lacks_is_as_after_reset(
    device: str, version_id: int, default: dict[str, object]
) -> None:
    source = full_machine()
    source.step(400)
    data = saved_as(source, device, version_id)
    destination: Any = full_machine()
    destination.step(77)
    assert load_device(destination, device, data, version_id) == len(data)
    for name, value in default.items():
        assert getattr(destination.devices[device], name) == value
    assert [f for f in destination.check_invariants() if f.startswith(device)] == []
    destination.step(60)


def test_the_clock_of_an_old_rtc_gets_the_update_timer_it_never_had() -> None:
    source = full_machine()
    source.step(30)
    data = saved_as(source, "rtc", 2)
    early, late = full_machine(), full_machine()
    late.step(400)
    states: list[object] = []
    for destination in (early, late):
        load_device(destination, "rtc", data, 2)
        timer: Any = destination.devices["rtc"]
        states.append(timer.update_timer.expire_ns)
    # Whatever time it was: a section behind it may say what time it is.
    assert states[0] == states[1]
    early.step(1)
    running: Any = early.devices["rtc"]
    assert running.update_timer.pending()


def test_a_field_that_depends_on_the_state_is_there_only_with_it() -> None:
    with_smm = machine_with("cpu")
    without = machine_with("cpu", replace={"cpu": cpu_without_smm})
    difference = len(save_device(with_smm, "cpu")) - len(save_device(without, "cpu"))
    assert difference == 4


def cpu_without_smm() -> Any:
    from savevm.devices.cpu import Cpu

    return Cpu(has_smm=False)


def old_cpu() -> bytes:
    registers = b"".join(n.to_bytes(4, "big") for n in range(16))
    return registers + (7).to_bytes(4, "big") + (0x1200).to_bytes(4, "big") + bytes(7) + b"\x05"


def test_a_cpu_from_before_descriptions_loads_by_its_own_function() -> None:
    destination: Any = machine_with("timer", "cpu")
    destination.step(60)
    assert load_device(destination, "cpu", old_cpu(), 2) == len(old_cpu())
    cpu = destination.devices["cpu"]
    assert cpu.regs == list(range(16))
    assert (cpu.pc, cpu.flags, cpu.lcg, cpu.hflags) == (7, 0x1200, 5, 1)
    assert cpu.vector_counts == [0] * 32
    assert destination.check_invariants() == []
    with pytest.raises(LoadError):
        load_device(destination, "cpu", old_cpu(), 1)
    with pytest.raises(LoadError):
        load_device(destination, "cpu", old_cpu()[:-1], 2)


def test_fewer_coprocessor_registers_are_merged_with_those_that_the_stream_lacks() -> None:
    source: Any = machine_with("cpu")
    cpu = source.devices["cpu"]
    cpu.cpreg_count, cpu.cpreg_indexes, cpu.cpreg_values = 2, [0x20, 0x8055], [5, 6]
    data = save_device(source, "cpu")
    destination: Any = machine_with("cpu")
    destination.devices["cpu"].cpreg_values = [9] * 6
    for _ in range(2):  # and again: a load must not make the list shorter
        load_device(destination, "cpu", data)
        assert destination.devices["cpu"].cpreg_count == 6
        assert destination.devices["cpu"].cpreg_values == [0, 0, 5, 0, 0, 6]


# -- optional parts, allocation ------------------------------------------------------------


@pytest.mark.parametrize("profile", [STRICT, SEED], ids=["strict", "seed"])
def test_loading_over_a_machine_that_ran_gives_what_loading_into_a_fresh_one_gives(
    profile: Any,
) -> None:
    source = machine_with("timer", "cpu", "serial", "kinds", "disk", "nic", "ps2")
    stream = save_to_bytes(source)
    fresh = machine_with("timer", "cpu", "serial", "kinds", "disk", "nic", "ps2", profile=profile)
    used = machine_with("timer", "cpu", "serial", "kinds", "disk", "nic", "ps2", profile=profile)
    used.step(500)
    for machine in (fresh, used):
        load_from_bytes(machine, stream)
        for device in machine.devices:
            assert save_device(machine, device) == save_device(source, device)
    load_from_bytes(used, stream)
    assert len(used.devices["kinds"].records) == 0  # type: ignore[attr-defined]


def test_a_serial_port_works_out_what_its_stream_does_not_say() -> None:
    for iir, expected in ((0x02, 1), (0x01, 0)):
        source: Any = machine_with("serial")
        source.devices["serial"].iir = iir
        source.devices["serial"].thr_ipending = expected
        data = save_device(source, "serial")
        assert b"thr_ipending" not in data
        destination: Any = machine_with("serial")
        load_device(destination, "serial", data)
        assert destination.devices["serial"].thr_ipending == expected


# -- names ---------------------------------------------------------------------------------


def test_the_nic_is_known_by_its_path_and_by_the_name_it_had_before() -> None:
    source = machine_with("nic")
    stream = save_to_bytes(source)
    assert b"\x100000:00:03.0/nic" in stream
    old = stream.replace(b"\x100000:00:03.0/nic", b"\x03nic")
    load_from_bytes(machine_with("nic"), old)


def test_the_interrupt_controller_answers_to_its_port_number_too() -> None:
    source = machine_with("intc")
    stream = save_to_bytes(source)
    name = b"\x04intc"
    at = stream.index(name) + len(name)
    for instance, loads in ((0, True), (0x20, True), (0x21, False)):
        changed = stream[:at] + instance.to_bytes(4, "big") + stream[at + 4 :]
        if loads:
            load_from_bytes(machine_with("intc"), changed)
        else:
            with pytest.raises(LoadError):
                load_from_bytes(machine_with("intc"), changed)


def test_the_memory_device_is_saved_before_ram() -> None:
    stream = save_to_bytes(full_machine())
    assert stream.index(b"\x06memdev") < stream.index(b"\x03ram") < stream.index(b"\x03cpu")


# -- the old-style device ------------------------------------------------------------------


def virtio_bytes(*, config: bytes = bytes(8), queues: int = 0, features: bool = True) -> bytes:
    head = b"\x0f\x01\x00\x02" + (b"\0\0\0\x07" if features else b"")
    body = len(config).to_bytes(4, "big") + config + queues.to_bytes(4, "big")
    return head + body + (b"\0\0\0\x10" + b"\xff" * 8 + b"\xff\xff") * queues


def test_an_old_style_device_loads_both_of_its_versions() -> None:
    machine: Any = machine_with("virtio")
    device: Virtio = machine.devices["virtio"]
    load_device(machine, "virtio", virtio_bytes(queues=4))
    assert (device.status, device.isr, device.queue_sel) == (15, 1, 2)
    assert device.guest_features == 7
    assert [queue.num for queue in device.queues] == [16] * 4
    load_device(machine, "virtio", virtio_bytes(features=False), 1)
    assert device.guest_features == 0
    assert [queue.num for queue in device.queues] == [0] * 4
    with pytest.raises(LoadError, match="version 3 is not read"):
        load_device(machine, "virtio", virtio_bytes(), 3)


def test_a_configuration_of_another_length_is_cut_or_filled_up() -> None:
    machine: Any = machine_with("virtio")
    device: Virtio = machine.devices["virtio"]
    data = virtio_bytes(config=bytes(range(1, 21)))
    assert load_device(machine, "virtio", data) == len(data)
    assert device.config == bytearray(range(1, 9))
    load_device(machine, "virtio", virtio_bytes(config=b"\x05"))
    assert device.config == bytearray(b"\x05" + bytes(7))


def test_a_queue_that_makes_no_sense_is_marked_broken_not_refused() -> None:
    machine: Any = machine_with("virtio")
    load_device(machine, "virtio", virtio_bytes(queues=3))
    machine.step(1)
    assert machine.devices["virtio"].status & 0x40
    assert machine.check_invariants() == []


@pytest.mark.parametrize("size", range(len(virtio_bytes(queues=1))))
def test_a_cut_off_old_style_section_is_refused(size: int) -> None:
    with pytest.raises(LoadError, match="needed"):
        load_device(machine_with("virtio"), "virtio", virtio_bytes(queues=1)[:size])


def test_under_the_seed_profile_a_cut_off_section_is_an_error_in_the_file() -> None:
    machine = machine_with("virtio", profile=SEED)
    stream = save_to_bytes(machine)
    at = stream.index(b"virtio-console") + 30
    with pytest.raises(LoadError):
        load_from_bytes(machine, stream[:at])
