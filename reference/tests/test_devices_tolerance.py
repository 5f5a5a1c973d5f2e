"""What a guest may set must load, and a machine that loaded it must run.

A load that refuses what a guest can write pins the guest: it can never be
migrated again.  The values here are extreme but legal.
"""

from typing import Any

import pytest

from savevm.board import machine_with
from savevm.machine import Machine
from savevm.migratable import migratable_digest
from savevm.testing.copies import load_device, save_device
from savevm.timers import NOT_ARMED

U64 = (1 << 64) - 1
INT64_MAX = (1 << 63) - 1

LEGAL: list[tuple[str, dict[str, object]]] = [
    ("timer", {"cpu_ticks_offset": -1}),
    ("timer", {"cpu_ticks_offset": INT64_MAX}),
    ("cpu", {"pc": U64, "flags": 0xFFFFFFFF, "lcg": U64, "interrupt_request": 0xFFFFFFFF}),
    ("cpu", {"interrupt_injected": -1}),
    ("cpu", {"interrupt_injected": 31}),
    ("cpu", {"halted": True, "hflags": 4}),
    ("cpu", {"regs": [U64] * 16, "xcr0": 0, "smbase": 0xFFFFFFFF}),
    ("cpu", {"exception_pending": True, "exception_nr": 31, "error_code": -(1 << 31)}),
    ("intc", {"irr": 0xFFFF, "imr": 0xFFFF, "isr": 0xFFFF, "levels": 0xFFFF}),
    ("intc", {"spurious": 0xFFFF, "init_state": 3}),
    ("rtc", {"cmos_data": bytearray(b"\xff" * 128), "cmos_index": 127}),
    ("rtc", {"next_periodic_time": -(1 << 63), "offset": -(1 << 63), "period": 32_768}),
    ("rtc", {"base_rtc": U64, "last_update": U64, "next_alarm_time": U64}),
    ("rtc", {"irq_coalesced": 0xFFFFFFFF, "irq_reinject_on_ack_count": 0xFFFF}),
    ("hpet", {"config": U64, "isr": U64, "hpet_counter": U64, "hpet_offset": U64}),
    ("hpet", {"rtc_irq_level": 255}),
    ("ps2", {"write_cmd": -(1 << 31), "scan_enabled": -1, "translate": 1 << 30}),
    ("ps2", {"ledstate": -1, "scancode_set": 3}),
    ("serial", {"divider": 0}),
    ("serial", {"divider": 0xFFFF, "ier": 255, "lcr": 255, "mcr": 255, "lsr": 255}),
    ("serial", {"thr_ipending": 1, "iir": 255, "last_break_enable": -128}),
    ("serial", {"brgr": 0xFFFF, "bdiv": 255}),
    ("serial", {"brgr": 1, "bdiv": 4}),
    ("nic", {"status": 0xFFFF, "mac": bytearray(6), "vlans": (1 << 256) - 1}),
    ("nic", {"ctrl_queue": 255, "curr_queues": 4, "event_int_idx": 7}),
    ("nic", {"rdtr": 0xFFFFFFFF, "itr": 0xFFFFFFFF, "mac_reg": [0xFFFFFFFF] * 8}),
    ("nic", {"in_use": 16, "first_multi": 16, "macs": bytearray(b"\xff" * 96)}),
    ("disk", {"last_avail_idx": 0xFFFF, "used_idx": 1, "next_tag": 0xFFFFFFFF}),
    ("disk", {"dma_address": U64, "setup_len": 4096, "setup_index": 4096}),
    ("disk", {"dma_address": U64, "setup_len": 4096, "setup_index": 0}),
    ("disk", {"error_policy": 255, "error_tag": 7}),
    ("disk", {"error_policy": 3}),
    ("sdcard", {"cmd": -(1 << 31), "arglen": -5, "response_pos": 99, "mode": 0}),
    ("sdcard", {"cmd": 13, "mode": 1, "arglen": 3}),
    ("sdcard", {"cmd": -1, "mode": 2, "arglen": 0, "response_pos": 4}),
    ("sdcard", {"mode": 3, "column": 63, "row": 79, "column_end": 0, "row_end": 0}),
    ("virtio", {"status": 255, "isr": 255, "guest_features": 0xFFFFFFFF, "queue_sel": 3}),
    ("memdev", {"plugged": (1 << 40) - 1, "plugged_blocks": 40, "requested_blocks": 0}),
    ("kinds", {"cursor": 5, "padding": 64}),
]


def machine() -> Machine:
    return machine_with(
        "timer", "ram", "memdev", "cpu", "intc", "rtc", "hpet", "ps2", "serial", "nic", "disk",
        "sdcard", "virtio", "kinds", "globalstate", ram_bytes=8192,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("device", "values"), LEGAL, ids=[f"{device}: {', '.join(v)}" for device, v in LEGAL]
)
def test_what_a_guest_can_set_loads_and_runs(device: str, values: dict[str, object]) -> None:
    source: Any = machine()
    for name, value in values.items():
        setattr(source.devices[device], name, value)
    destination = machine()
    data = save_device(source, device)
    assert load_device(destination, device, data) == len(data)
    assert destination.check_invariants() == []
    assert save_device(destination, device) == data
    destination.step(100)
    assert destination.check_invariants() == []


TIMERS = {
    "cpu": "deadline",
    "rtc": "periodic_timer",
    "serial": "fifo_timeout_timer",
    "nic": "mit_timer",
    "disk": "service_timer",
}


@pytest.mark.parametrize("device", TIMERS)
@pytest.mark.parametrize("expire", [NOT_ARMED, 0, 1, INT64_MAX])
def test_a_timer_of_any_time_loads_and_the_guest_goes_on(device: str, expire: int) -> None:
    source: Any = machine()
    getattr(source.devices[device], TIMERS[device]).expire_ns = expire
    destination: Any = machine()
    load_device(destination, device, save_device(source, device))
    assert getattr(destination.devices[device], TIMERS[device]).expire_ns == expire
    destination.step(100)
    assert destination.check_invariants() == []


@pytest.mark.parametrize("now", [-(1 << 63), -1, INT64_MAX - 5000, INT64_MAX])
def test_a_clock_at_its_end_wraps_and_the_machine_still_saves_and_loads(now: int) -> None:
    source: Any = machine()
    source.clock.now_ns = now
    destination = machine()
    load_device(destination, "timer", save_device(source, "timer"))
    assert destination.clock.now_ns == now
    destination.step(100)
    assert destination.check_invariants() == []
    copy = machine()
    for device in destination.devices:
        load_device(copy, device, save_device(destination, device))
    assert copy.clock.now_ns == destination.clock.now_ns
    assert copy.check_invariants() == []


def test_what_differs_only_in_a_default_is_left_out_and_comes_back() -> None:
    # A subsection is needed exactly when its fields are not as after reset.
    source = machine()
    source.step(333)
    destination = machine()
    destination.step(200)
    for device in source.devices:
        load_device(destination, device, save_device(source, device))
    assert destination.ram is not None
    assert source.ram is not None
    destination.ram.blocks[0].write(0, source.ram.blocks[0].read(0, 8192))
    assert migratable_digest(destination) == migratable_digest(source)


# -- corners of devices that a guest seldom gets into ----------------------------------------


def test_a_tag_that_is_taken_is_passed_over() -> None:
    board: Any = machine()
    disk = board.devices["disk"]
    for sector in range(12):
        disk.submit(sector, 0)
    assert len(disk.requests) == 8
    disk.serve()
    disk.next_tag = 7
    disk.submit(99, 0)
    assert [item.tag for item in disk.requests] == [1, 2, 3, 4, 5, 6, 7]
    assert disk.next_tag == 8
    assert board.check_invariants() == []


def test_a_disk_that_is_told_to_stop_drops_its_completions() -> None:
    board: Any = machine()
    disk = board.devices["disk"]
    for _ in range(2):
        disk.submit(31, 0)
        disk.serve()
    assert disk.error_policy == 3
    for _ in range(4):
        disk.step()
    assert disk.completions == []
    assert disk.error_policy == 255


def test_what_comes_when_a_queue_is_full_is_lost_and_nothing_else() -> None:
    board: Any = machine()
    keyboard, port = board.devices["ps2"], board.devices["serial"]
    for value in range(40):
        keyboard.queue.put(value)
        port.write_thr(value)
    assert keyboard.queue.count == 16
    assert port.xmit_fifo.num == 16
    assert board.check_invariants() == []
    assert keyboard.queue.drain() == list(range(16))
    assert [port.xmit_fifo.pop() for _ in range(17)] == [*range(16), None]


def test_a_transfer_without_memory_goes_nowhere() -> None:
    lonely: Any = machine_with("timer", "cpu", "disk")
    disk = lonely.devices["disk"]
    disk.submit(5, 0)
    disk.serve()
    lonely.step(20)
    assert disk.setup_index == disk.setup_len > 0
    assert lonely.devices["cpu"].dma_read(7, 3) == bytes(3)


def test_an_interrupt_without_a_controller_is_spurious() -> None:
    lonely: Any = machine_with("timer", "cpu")
    lonely.devices["cpu"].interrupt()
    lonely.step(2)
    assert lonely.devices["cpu"].vector_counts[31] == 1
    with_controller: Any = machine_with("timer", "cpu", "intc")
    with_controller.devices["cpu"].interrupt()
    with_controller.step(2)
    assert with_controller.devices["intc"].spurious == 1
