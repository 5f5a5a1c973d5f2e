"""States that cannot be: every one is an invariant broken, and no load takes it.

Each row makes a source machine impossible in one way, as a bad stream would.
"""

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest

from savevm.board import machine_with
from savevm.devices.disk_request import Completion, Request, Segment, Slot
from savevm.devices.hpet import HpetTimer
from savevm.devices.kinds import Record
from savevm.devices.nic_ring import NetQueue
from savevm.devices.virtio import VirtQueue
from savevm.errors import LoadError, SaveError
from savevm.machine import Machine
from savevm.qemufile import BytesSink, QEMUFileWriter
from savevm.testing.copies import load_device, save_device
from savevm.vmstate import vmstate_save_state

Spoil = Callable[[Any], object]


def machine() -> Machine:
    return machine_with(
        "timer", "memdev", "cpu", "intc", "rtc", "hpet", "ps2", "serial", "nic", "disk",
        "sdcard", "virtio", "kinds", "globalstate",
    )  # fmt: skip


def put(**values: object) -> Spoil:
    """Set attributes; ``a__b`` is attribute b of attribute a."""

    def spoil(device: Any) -> None:
        for path, value in values.items():
            *owners, last = path.split("__")
            target = device
            for owner in owners:
                target = getattr(target, owner)
            setattr(target, last, value)

    return spoil


def pending(**values: object) -> Spoil:
    return put(exception_pending=True, **values)


def request(**values: object) -> Spoil:
    """A disk with one request, spoilt."""

    def spoil(disk: Any) -> None:
        item = Request()
        item.sectors = 1
        put(**values)(item)
        disk.requests = [item]
        disk.num_requests = 1
        disk.inflight = {item.tag: Slot()}

    return spoil


def two_requests(first: int, second: int, *tags: int) -> Spoil:
    def spoil(disk: Any) -> None:
        disk.requests = [Request(), Request()]
        for item, tag in zip(disk.requests, (first, second), strict=True):
            item.tag, item.sectors = tag, 1
        disk.num_requests = 2
        disk.inflight = {tag: Slot() for tag in tags}

    return spoil


def extend(attr: str, make: Callable[[], object], count: int, **values: object) -> Spoil:
    """Lengthen a list to ``count``, then set attributes."""

    def spoil(device: Any) -> None:
        items = getattr(device, attr)
        items += [make() for _ in range(count - len(items))]
        put(**values)(device)

    return spoil


def ready_queue() -> VirtQueue:
    queue = VirtQueue()
    queue.num = 8
    return queue


def both(*spoils: Spoil) -> Spoil:
    def spoil(device: Any) -> None:
        for one in spoils:
            one(device)

    return spoil


def item(attr: str, index: int, **values: object) -> Spoil:
    return lambda device: put(**values)(getattr(device, attr)[index])


BAD: list[tuple[str, str, Spoil]] = [
    ("cpu", "vector past the table", put(interrupt_injected=32)),
    ("cpu", "vector below the sentinel", put(interrupt_injected=-2)),
    ("cpu", "exception past the table", pending(exception_nr=32)),
    ("cpu", "top of the FPU stack", put(fpu__fpstt=8)),
    ("cpu", "format of the FPU registers", put(fpu__fpregs_format=1)),
    ("cpu", "unknown coprocessor register", lambda d: d.cpreg_indexes.__setitem__(5, 0x9999)),
    ("cpu", "coprocessor register twice", lambda d: d.cpreg_indexes.__setitem__(1, 0x10)),
    ("cpu", "coprocessor registers out of order", lambda d: d.cpreg_indexes.reverse()),
    ("cpu", "more coprocessor registers", lambda d: (
        d.cpreg_indexes.append(0x9000), d.cpreg_values.append(0), put(cpreg_count=7)(d))),
    ("cpu", "negative number of coprocessor registers", put(cpreg_count=-1)),
    ("intc", "raised line that is not there", put(irr=1 << 16)),
    ("intc", "masked line that is not there", put(imr=1 << 31)),
    ("intc", "served line that is not there", put(isr=1 << 20)),
    ("intc", "level of a line that is not there", put(levels=1 << 16)),
    ("intc", "priority of a source", item("sources", 3, priority=16)),
    ("intc", "vector of a source", item("sources", 15, vector=32)),
    ("intc", "step of the initialisation", put(init_state=4)),
    ("rtc", "index past CMOS memory", put(cmos_index=128)),
    ("rtc", "period", put(period=32_769)),
    ("rtc", "month 12", put(calendar__mon=12)),
    ("rtc", "month -1", put(calendar__mon=-1)),
    ("rtc", "30 February", put(calendar__mon=1, calendar__mday=30)),
    ("rtc", "day 0", put(calendar__mday=0)),
    ("rtc", "second 60", put(calendar__sec=60)),
    ("rtc", "negative year", put(calendar__year=-1)),
    ("hpet", "two timers", put(num_timers=2)),
    ("hpet", "four timers on a host with three", lambda d: extend(
        "timers", lambda: HpetTimer(3, d.timers[0].qemu_timer), 4, num_timers=4)(d)),
    ("hpet", "255 timers", lambda d: extend(
        "timers", lambda: HpetTimer(0, d.timers[0].qemu_timer), 255, num_timers=255)(d)),
    ("hpet", "a timer with another's number", item("timers", 0, tn=1)),
    ("ps2", "count above the capacity", put(queue__count=17, queue__wptr=17)),
    ("ps2", "negative count", put(queue__count=-1, queue__wptr=255)),
    ("ps2", "read index past the ring", put(queue__rptr=256)),
    ("ps2", "negative write index", put(queue__wptr=-1)),
    ("ps2", "indices that contradict the count", put(queue__count=16, queue__wptr=15)),
    ("ps2", "full ring that looks empty", put(queue__count=0, queue__wptr=16)),
    ("ps2", "scancode set 0", put(scancode_set=0)),
    ("ps2", "scancode set 4", put(scancode_set=4)),
    ("serial", "divider 0", put(brgr=0)),
    ("serial", "divider wider than its register", put(brgr=0x10000)),
    ("serial", "reserved divider", put(bdiv=3)),
    ("serial", "sentinel plus three", put(thr_ipending=2)),
    ("serial", "sentinel minus one", put(thr_ipending=-2)),
    ("serial", "level above the capacity", put(recv_fifo__num=17)),
    ("serial", "head past the ring", put(recv_fifo__head=16)),
    ("serial", "head past the other ring", put(xmit_fifo__head=0xFFFFFFFF)),
    ("nic", "transmit head past the ring", put(tx__head=8)),
    ("nic", "receive tail past the ring", put(rx__tail=0xFFFFFFFF)),
    ("nic", "packet longer than its buffer", lambda d: put(length=2049)(d.rx.descriptors[7])),
    ("nic", "no queue", put(curr_queues=0)),
    ("nic", "a queue too many", extend("queues", NetQueue, 5, curr_queues=5)),
    ("nic", "command queue not in use", put(ctrl_queue=1)),
    ("nic", "sentinel minus one", put(ctrl_queue=254)),
    ("nic", "interrupt index", put(event_int_idx=8)),
    ("nic", "packets waiting in a queue", item("queues", 0, num=9)),
    ("nic", "start of a queue", item("queues", 0, start=8)),
    ("nic", "an address too many", both(
        lambda d: d.macs.extend(bytes(6)), put(in_use=17))),
    ("nic", "in_use that wraps when multiplied", lambda d: put(in_use=0x8000_0001)(d)),
    ("nic", "first_multi past in_use", put(first_multi=1)),
    ("disk", "count that is not the list's", put(num_requests=1)),
    ("disk", "request past the end", request(sector=4096)),
    ("disk", "request across the end", request(sector=4095, sectors=2)),
    ("disk", "request that wraps", request(sector=(1 << 64) - 1)),
    ("disk", "request of no sectors", request(sectors=0)),
    ("disk", "request of too many sectors", request(sectors=9)),
    ("disk", "direction", request(direction=2)),
    ("disk", "segments", request(segment_count=5, segments=[Segment() for _ in range(5)])),
    ("disk", "one tag twice", two_requests(1, 1, 1)),
    ("disk", "tag that nobody knows", two_requests(1, 2, 1)),
    ("disk", "slot that nobody asked for", two_requests(1, 2, 1, 2, 3)),
    ("disk", "slot past the end", both(request(), item("inflight", 0, sector=4096))),
    ("disk", "too many completions", extend("completions", Completion, 9)),
    ("disk", "remapped to past the end", lambda d: d.remapped.update({1: Slot(4096)})),
    ("disk", "too many remapped", lambda d: d.remapped.update({n: Slot() for n in range(17)})),
    ("disk", "transfer longer than its buffer", both(
        put(setup_len=4097), lambda d: d.transfer.append(0))),
    ("disk", "negative transfer", put(setup_len=-1, setup_index=-1)),
    ("disk", "index past the transfer", put(setup_len=4, setup_index=5)),
    ("disk", "negative index", put(setup_index=-1)),
    ("disk", "policy", put(error_policy=4)),
    ("disk", "sentinel minus one", put(error_policy=254)),
    ("sdcard", "mode", put(mode=4)),
    ("sdcard", "argument past its buffer", put(mode=1, arglen=4)),
    ("sdcard", "negative argument length", put(mode=1, arglen=-1)),
    ("sdcard", "place in the response", put(mode=2, response_pos=5)),
    ("sdcard", "length of the response", put(mode=2, arglen=6)),
    ("sdcard", "row", put(row=80)),
    ("sdcard", "rows the wrong way round", put(row_start=5, row_end=4)),
    ("sdcard", "column", put(column=-1)),
    ("sdcard", "last column", put(column_end=64)),
    ("virtio", "selected queue", put(queue_sel=4)),
    ("virtio", "a queue too many", extend("queues", ready_queue, 5)),
    ("virtio", "ring that is no power of two", item("queues", 1, num=12)),
    ("virtio", "ring too large", item("queues", 0, num=128)),
    ("virtio", "configuration too long to skip", lambda d: d.config.extend(bytes(5000))),
    ("memdev", "block that does not exist", put(plugged=1 << 40, plugged_blocks=1)),
    ("memdev", "count that is not the bitmap's", put(plugged=3, plugged_blocks=1)),
    ("memdev", "more asked for than there is", put(requested_blocks=41)),
    ("kinds", "rows", both(lambda d: d.cells.extend([0] * 4), put(rows=7))),
    ("kinds", "notes", put(notes=[0] * 13, notes_count=13)),
    ("kinds", "wide notes", put(wide_notes=[0] * 13, wide_notes_count=13)),
    ("kinds", "small notes", put(small_notes=[0] * 13, small_notes_count=13)),
    ("kinds", "records", extend("records", Record, 6, records_count=6)),
    ("kinds", "pages", put(pages=bytearray(40), pages_count=5)),
    ("kinds", "stamp", put(stamp=bytearray(9), stamp_size=9)),
    ("kinds", "title", put(title=bytearray(19), title_size=17)),
    ("kinds", "padding", put(padding=65)),
    ("kinds", "label", put(label=bytearray(33))),
    ("kinds", "cursor", put(cursor=6)),
]  # fmt: skip


@pytest.mark.parametrize(
    ("device", "spoil"),
    [(device, spoil) for device, _, spoil in BAD],
    ids=[f"{device}: {what}" for device, what, _ in BAD],
)
def test_an_impossible_state_is_an_invariant_broken_and_is_not_loaded(
    device: str, spoil: Spoil
) -> None:
    source = machine()
    assert source.check_invariants() == []
    spoil(source.devices[device])
    assert any(fault.startswith(f"{device}: ") for fault in source.check_invariants())
    make_careless(source.devices[device])
    data = save_as_far_as_possible(source, device)
    with pytest.raises(LoadError) as caught:
        load_device(machine(), device, data + bytes(4096))
    assert "ended" not in caught.value.reason


def make_careless(device: Any) -> None:
    """A save asserts what the load would: take those checks away."""
    for state in (device, *getattr(device, "requests", ())):
        for name in dir(state):
            if name.startswith("check_") and name != "check_invariants":
                setattr(state, name, lambda *_: None)


def save_as_far_as_possible(source: Machine, device: str) -> bytes:
    """The bytes of a device, up to a count that promises more than there is."""
    opaque: Any = source.devices[device]
    if opaque.vmsd is None:
        return save_device(source, device)
    sink = BytesSink()
    f = QEMUFileWriter(sink)
    with suppress(IndexError, SaveError):
        vmstate_save_state(f, opaque.vmsd, opaque, None)
    f.close()
    return bytes(sink.data)


def checks_of(device: str) -> list[str]:
    state = machine().devices[device]
    names = [n for n in dir(state) if n.startswith("check_") and n != "check_invariants"]
    # A CPU's FPU and a port's FIFOs check themselves, and a request its segments.
    inner = {"cpu": "fpu", "serial": "recv_fifo"}.get(device)
    if inner is not None:
        names += [f"{inner}.{n}" for n in dir(getattr(state, inner)) if n.startswith("check_")]
    return names


EVERY_CHECK = [
    (device, check)
    for device in sorted({device for device, _, _ in BAD})
    for check in checks_of(device)
    # Whether a source was set up alike has its own test, below; the FIFOs'
    # checks are made twice, so that neither is the only one.
    if check not in ("check_sanity", "check_fifos")
]


def outcome(device: str, without: str, data: bytes) -> str:
    """What becomes of a load with one check taken away."""
    destination = machine()
    state: Any = destination.devices[device]
    *inner, name = without.split(".")
    for attr in inner:
        state = getattr(state, attr)
    setattr(state, name, lambda *_: None)
    try:
        load_device(destination, device, data + bytes(4096))
    except LoadError:
        return "refused"
    except Exception as error:
        return f"broken: {error!r}"
    return "accepted"


@pytest.mark.parametrize(
    ("device", "check"), EVERY_CHECK, ids=[".".join(row) for row in EVERY_CHECK]
)
def test_without_any_one_check_something_impossible_gets_in(device: str, check: str) -> None:
    # Each check is the only thing that stands before some state; this is what
    # lets a bug be planted by taking one away.
    outcomes = []
    for row, _, spoil in BAD:
        if row == device:
            source = machine()
            spoil(source.devices[device])
            make_careless(source.devices[device])
            outcomes.append(outcome(device, check, save_as_far_as_possible(source, device)))
    assert set(outcomes) - {"refused"}


DERIVED: list[tuple[str, Spoil]] = [
    ("cpu", put(hflags=7)),
    ("rtc", put(yday=3)),
    ("serial", put(char_ns=1)),
    ("nic", put(link_up=False)),
    ("hpet", put(capability=0)),
    ("intc", put(next_priority=2)),
    ("kinds", put(total=1)),
]


@pytest.mark.parametrize(("device", "spoil"), DERIVED, ids=[device for device, _ in DERIVED])
def test_a_derived_field_is_an_invariant_and_a_load_makes_it_right(
    device: str, spoil: Spoil
) -> None:
    source = machine()
    source.step(40)
    data = save_device(source, device)
    destination = machine()
    spoil(destination.devices[device])
    assert destination.check_invariants() != []
    load_device(destination, device, data)
    assert destination.check_invariants() == []


@pytest.mark.parametrize(
    ("device", "spoil"),
    [
        ("cpu", put(cpuid_level=12)),
        ("intc", put(nb_irqs=15)),
        ("intc", put(nb_cpus=2)),
        ("nic", put(max_queues=3)),
        ("disk", put(capacity=8192)),
        ("memdev", put(block_size=4096)),
        ("kinds", put(layout=7)),
        ("kinds", put(serial_number=1)),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_source_that_was_set_up_differently_is_refused(device: str, spoil: Spoil) -> None:
    source = machine()
    spoil(source.devices[device])
    with pytest.raises(LoadError):
        load_device(machine(), device, save_device(source, device))


def test_the_refusal_names_device_field_and_bound() -> None:
    source = machine()
    put(queue__count=17)(source.devices["ps2"])
    with pytest.raises(LoadError, match=r"^queue\.count: expected 0 to 16, read 17") as caught:
        load_device(machine(), "ps2", save_device(source, "ps2"))
    assert caught.value.expected == (0, 16)
    assert caught.value.actual == 17
