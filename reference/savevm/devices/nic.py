"""A network card: two descriptor rings, queues, a MAC table, a VLAN filter.

Where its fields come from: QEMU ``hw/net/virtio-net.c`` (MAC table, queue count,
VLANs), ``hw/net/e1000.c`` (rings with head and tail, mitigation timer, optional
subsections), ``hw/net/vmxnet3.c`` and ``stellaris_enet.c`` (indices and lengths).
It sits on a bus, so its section is named by a path and known by a compat name.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from savevm.announce import NICState
from savevm.devices.base import (
    U16,
    U32,
    Fault,
    SimDevice,
    device_vmsd,
    first_fault,
    outside,
    unlike,
)
from savevm.devices.nic_ring import (
    PACKET_MAX,
    RING_SIZE,
    NetQueue,
    Ring,
    queue_fault,
    ring_fault,
    vmstate_queue,
    vmstate_ring,
)
from savevm.timers import QEMUTimer, timer_field
from savevm.vmstate import fields, fieldtypes
from savevm.vmstate.description import VMStateDescription

if TYPE_CHECKING:
    from savevm.machine import Machine

ETH_ALEN: Final = 6
MAC_TABLE_ENTRIES: Final = 16
QUEUES_MAX: Final = 4
VLANS: Final = 256
INTERRUPTS: Final = 8
NO_QUEUE: Final = 0xFF
IRQ_LINE: Final = 11
MAC: Final = bytes.fromhex("525400123456")
_MITIGATION_NS: Final = 50_000

vmstate_mit_state: Final = VMStateDescription(
    "nic/mit_state",
    1,
    1,
    fields=(
        fields.uint32("rdtr"),
        fields.uint32("itr"),
        fields.bool_("mit_irq_level"),
    ),
    needed=lambda s: bool(s.mit_needed()),
)
vmstate_nic: Final = device_vmsd(
    "nic",
    (
        fields.buffer("mac", ETH_ALEN),
        fields.uint16("status"),
        fields.array("mac_reg", fieldtypes.UINT32, 8),
        fields.struct("tx", vmstate_ring),
        fields.struct("rx", vmstate_ring),
        fields.uint16_equal("max_queues"),
        fields.uint16("curr_queues"),
        fields.validate("curr_queues in max_queues", lambda s, _v: s.check_queues() is None),
        fields.struct_varray("queues", vmstate_queue, "curr_queues", "uint16"),
        fields.uint8("ctrl_queue"),
        fields.uint8("event_int_idx"),
        fields.array("interrupt_counts", fieldtypes.UINT16, INTERRUPTS),
        fields.uint32("in_use", 2),
        fields.uint32("first_multi", 2),
        fields.validate("mac table fits", lambda s, _v: s.check_mac_table() is None),
        fields.vbuffer("macs", "in_use", 2, multiply=ETH_ALEN),
        fields.bitmap("vlans", "vlan_bits", 2, VLANS),
        timer_field("mit_timer", 3),
    ),
    version_id=3,
    minimum_version_id=1,
    subsections=(vmstate_mit_state,),
)


def mac_table_fault(s: "Nic") -> Fault | None:
    """``first_multi <= in_use <= MAC_TABLE_ENTRIES``."""
    return outside("in_use", s.in_use, 0, MAC_TABLE_ENTRIES) or outside(
        "first_multi", s.first_multi, 0, s.in_use
    )


def queues_fault(s: "Nic") -> Fault | None:
    """At least one queue, at most what the host gave."""
    return outside("curr_queues", s.curr_queues, 1, s.max_queues)


def queue_list_fault(s: "Nic") -> Fault | None:
    """There are as many queues as the host gave, used or not."""
    return unlike("queues", len(s.queues), s.max_queues)


def ctrl_queue_fault(s: "Nic") -> Fault | None:
    """A queue in use, or 255 for none."""
    if s.ctrl_queue == NO_QUEUE:
        return None
    return outside("ctrl_queue", s.ctrl_queue, 0, s.curr_queues - 1)


def event_fault(s: "Nic") -> Fault | None:
    """An interrupt of the card."""
    return outside("event_int_idx", s.event_int_idx, 0, INTERRUPTS - 1)


def macs_fault(s: "Nic") -> Fault | None:
    """Past the entries in use the table is empty."""
    if mac_table_fault(s):
        return None
    return unlike("macs", bytes(s.macs[s.in_use * ETH_ALEN :]).strip(b"\0"), b"")


def link_fault(s: "Nic") -> Fault | None:
    """``link_up`` follows from ``status``."""
    return unlike("link_up", s.link_up, bool(s.status & 1))


class Nic(SimDevice):
    """State of the card.

    Attributes:
        mac, status, mac_reg: the guest's.
        link_up: derived from ``status`` (B17, B19).
        tx, rx: descriptor rings; the card works from head to tail.
        max_queues: host's, must be equal.
        curr_queues: how many of ``queues`` are in use (CVE-2013-4150).
        ctrl_queue: queue that took the last command, 255 for none: a sentinel
            that was used as a count in usbredir (B15, QEMU 7b84b90966).
        event_int_idx: index of an interrupt (CVE-2013-4544).
        in_use, first_multi, macs: MAC table of ``in_use * 6`` bytes: the int
            that went negative and the product that wrapped (CVE-2013-4148),
            the over-long table (CVE-2013-4149).
        vlans, vlan_bits: VLANs that are let through.
        mit_timer, rdtr, itr, mit_irq_level: interrupt mitigation.
    """

    name = "nic"
    vmsd = vmstate_nic
    invariants = (
        lambda s: ring_fault("tx", s.tx),
        lambda s: ring_fault("rx", s.rx),
        queues_fault,
        queue_list_fault,
        lambda s: first_fault(queue_fault(f"queues[{i}]", q) for i, q in enumerate(s.queues)),
        ctrl_queue_fault,
        event_fault,
        mac_table_fault,
        macs_fault,
        link_fault,
    )
    mit_timer: QEMUTimer

    def __init__(self, mac: bytes = MAC) -> None:
        super().__init__()
        self.own_mac = mac
        self.max_queues = QUEUES_MAX
        self.vlan_bits = VLANS
        self.tx, self.rx = Ring(), Ring()

    def create(self, machine: "Machine") -> None:
        self.mit_timer = machine.timers.new_ns(self.mitigated)
        machine.nics.append(NICState(self.own_mac))

    def dev_path(self) -> str | None:
        return "0000:00:03.0"

    def reset(self) -> None:
        self.mac = bytearray(self.own_mac)
        self.status = 1
        self.mac_reg = [0] * 8
        self.tx.reset()
        self.rx.reset()
        self.curr_queues = 1
        self.queues = [NetQueue() for _ in range(self.max_queues)]
        self.ctrl_queue = NO_QUEUE
        self.event_int_idx = 0
        self.interrupt_counts = [0] * INTERRUPTS
        self.in_use = self.first_multi = 0
        self.macs = bytearray(MAC_TABLE_ENTRIES * ETH_ALEN)
        self.vlans = 0
        self.rdtr = self.itr = 0
        self.mit_irq_level = False
        self.mit_timer.delete()
        self.update_link()

    def update_link(self) -> None:
        """Recompute ``link_up`` (``e1000_post_load`` sets ``link_down``)."""
        self.link_up = bool(self.status & 1)

    def mit_needed(self) -> bool:
        """``e1000_mit_state_needed``: registers that are not as after reset."""
        return bool(self.rdtr or self.itr or self.mit_irq_level)

    # -- what a load checks ------------------------------------------------------------

    def check_rings(self) -> Fault | None:
        """B01, B02, B11, B13: of both rings."""
        return ring_fault("tx", self.tx) or ring_fault("rx", self.rx)

    def check_queues(self) -> Fault | None:
        """B03 (CVE-2013-4150): before ``curr_queues`` queues are loaded."""
        return queues_fault(self)

    def check_queue_indices(self) -> Fault | None:
        """B06, B11: of every queue."""
        return first_fault(queue_fault(f"queues[{i}]", q) for i, q in enumerate(self.queues))

    def check_ctrl_queue(self) -> Fault | None:
        """B15: an index or the sentinel, nothing between."""
        return ctrl_queue_fault(self)

    def check_event(self) -> Fault | None:
        """B02 (CVE-2013-4544)."""
        return event_fault(self)

    def check_mac_table(self) -> Fault | None:
        """B04, B07, B08, B09, B11 (CVE-2013-4148, -4149)."""
        return mac_table_fault(self)

    def load_checks(self) -> tuple[Callable[[], Fault | None], ...]:
        return (
            self.check_rings,
            self.check_queues,
            self.check_queue_indices,
            self.check_ctrl_queue,
            self.check_event,
            self.check_mac_table,
        )

    def derive(self, version_id: int) -> None:
        self.update_link()

    # -- running -----------------------------------------------------------------------

    def transmit(self, address: int, length: int) -> None:
        """The guest puts a packet on the transmit ring; lost when it is full."""
        self.tx.post(address, length)

    def add_mac(self, seed: int) -> None:
        """The guest adds an address; a full table is emptied first, as a
        driver does that falls back to promiscuous mode."""
        if self.in_use == MAC_TABLE_ENTRIES:
            self.macs = bytearray(MAC_TABLE_ENTRIES * ETH_ALEN)
            self.in_use = self.first_multi = 0
        entry = bytes((0x52, 0x54, 0, seed >> 16 & 0xFF, seed >> 8 & 0xFF, seed & 0xFF))
        at = self.in_use * ETH_ALEN
        self.macs[at : at + ETH_ALEN] = entry
        self.in_use += 1
        self.first_multi = self.in_use // 2

    def command(self, value: int) -> None:
        """The guest sends a control command: queues, VLANs, mitigation, link."""
        # Queues that go out of use lose their state: it would not travel.
        self.curr_queues = 1 + value % self.max_queues
        for index in range(self.curr_queues, self.max_queues):
            self.queues[index] = NetQueue()
        self.ctrl_queue = value % self.curr_queues if value & 8 else NO_QUEUE
        self.vlans ^= 1 << (value >> 8) % VLANS
        self.itr = value >> 4 & 0xFF
        self.rdtr = value >> 12 & 0xFF
        self.event_int_idx = value % INTERRUPTS
        self.mac_reg[value % len(self.mac_reg)] = value & U32
        self.mac[ETH_ALEN - 1] = value & 0xFF
        self.status = self.status & ~1 & U16 | (value >> 5 & 1)
        self.update_link()

    def mitigated(self) -> None:
        """The mitigation timer fired: now the interrupt goes out."""
        self.mit_irq_level = False
        self.interrupt_counts[self.event_int_idx] += 1
        self.interrupt_counts[self.event_int_idx] &= U16
        self.raise_irq(IRQ_LINE)

    def step(self) -> None:
        # Loopback: one packet a step from the transmit to the receive ring,
        # which the guest empties when it is half full.
        packet = self.tx.take()
        if packet is not None and self.link_up:
            self.rx.post(packet.address, min(packet.length, PACKET_MAX))
            self.queues[packet.address % self.curr_queues].push(packet.length & U16)
            self.mac_reg[0] = self.mac_reg[0] + packet.length & U32
            self.mit_irq_level = True
            if not self.mit_timer.pending():
                self.arm(self.mit_timer, _MITIGATION_NS)
        if self.rx.level() > RING_SIZE // 2:
            self.rx.take()
        if self.ctrl_queue != NO_QUEUE:
            self.queues[self.ctrl_queue].pop()
