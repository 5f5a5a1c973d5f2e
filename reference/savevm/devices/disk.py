"""A disk with a queue of requests, completions, and a transfer buffer.

Where its fields come from: QEMU ``hw/block/virtio-blk.c`` and ``hw/scsi`` (the
queue), ``hw/ide/core.c`` (the transfer buffer), ``hw/usb/core.c`` (an index, a
length and a capacity whose relation took three fixes: CVE-2013-4541,
CVE-2014-3461), ``hw/display/virtio-gpu.c`` (objects by id: QEMU b0ee78ff31).
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

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
from savevm.devices.disk_request import (
    REQUEST_SECTORS_MAX,
    SECTOR,
    Completion,
    Request,
    Segment,
    Slot,
    request_fault,
    vmstate_completion,
    vmstate_request,
    vmstate_slot,
)
from savevm.timers import QEMUTimer, timer_field
from savevm.vmstate import fields
from savevm.vmstate.description import VMStateDescription

if TYPE_CHECKING:
    from savevm.machine import Machine

CAPACITY: Final = 4096
QUEUE_MAX: Final = 8
COMPLETIONS_MAX: Final = 8
REMAPPED_MAX: Final = 16
TRANSFER_BYTES: Final = REQUEST_SECTORS_MAX * SECTOR
IRQ_LINE: Final = 14
ERROR_POLICIES: Final = ("report", "ignore", "enospc", "stop")
NO_ERROR_POLICY: Final = 0xFF
_SERVICE_NS: Final = 25_000

vmstate_remap_key: Final = VMStateDescription(
    "disk/remap_key", 1, 1, fields=(fields.uint64("key"),)
)
vmstate_error: Final = VMStateDescription(
    "disk/error",
    1,
    1,
    fields=(fields.uint8("error_policy"), fields.uint32("error_tag")),
    needed=lambda s: bool(s.error_needed()),
)
vmstate_disk: Final = device_vmsd(
    "disk",
    (
        fields.uint64_equal("capacity"),
        fields.uint16("num_requests"),
        fields.qtailq("requests", vmstate_request, Request),
        fields.qlist("completions", vmstate_completion, Completion),
        fields.gtree("inflight", vmstate_slot, Slot),
        fields.gtree("remapped", vmstate_slot, Slot, 2, key_vmsd=vmstate_remap_key),
        fields.uint16("last_avail_idx"),
        fields.uint16("used_idx"),
        fields.int32("setup_index"),
        fields.int32("setup_len"),
        fields.validate("transfer fits", lambda s, _v: s.check_transfer() is None),
        fields.vbuffer("transfer", "setup_len"),
        fields.uint64("dma_address"),
        timer_field("service_timer"),
        fields.uint32("next_tag"),
    ),
    version_id=2,
    minimum_version_id=1,
    subsections=(vmstate_error,),
)


def queue_fault(s: "Disk") -> Fault | None:
    """The count is the list's, and the list fits the queue."""
    return outside("requests", len(s.requests), 0, QUEUE_MAX) or unlike(
        "num_requests", s.num_requests, len(s.requests)
    )


def completions_fault(s: "Disk") -> Fault | None:
    """No more completions than the card has room for."""
    return outside("completions", len(s.completions), 0, COMPLETIONS_MAX)


def requests_fault(s: "Disk") -> Fault | None:
    """Each request is possible."""
    return first_fault(
        request_fault(f"requests[{i}]", r, s.capacity) for i, r in enumerate(s.requests)
    )


def inflight_fault(s: "Disk") -> Fault | None:
    """The tree has exactly the queue's tags, no tag comes twice, and all lie on the disk."""
    tags = [r.tag for r in s.requests]
    return (
        unlike("requests.tag", len(set(tags)), len(tags))
        or unlike("inflight", sorted(s.inflight), sorted(tags))
        or first_fault(
            outside(f"inflight{{{tag}}}.sector", slot.sector, 0, s.capacity - 1)
            for tag, slot in s.inflight.items()
        )
    )


def remapped_fault(s: "Disk") -> Fault | None:
    """Remapped sectors lie on the disk, and are few."""
    return outside("remapped", len(s.remapped), 0, REMAPPED_MAX) or first_fault(
        outside(f"remapped{{{key}}}.sector", slot.sector, 0, s.capacity - 1)
        for key, slot in s.remapped.items()
    )


def error_policy_fault(s: "Disk") -> Fault | None:
    """One of the policies, or 255 for none."""
    if s.error_policy == NO_ERROR_POLICY:
        return None
    return outside("error_policy", s.error_policy, 0, len(ERROR_POLICIES) - 1)


def transfer_fault(s: "Disk") -> Fault | None:
    """``0 <= setup_index <= setup_len <= sizeof(transfer)``."""
    return outside("setup_len", s.setup_len, 0, TRANSFER_BYTES) or outside(
        "setup_index", s.setup_index, 0, s.setup_len
    )


def host_offset_fault(s: "Disk") -> Fault | None:
    """Host offsets follow from guest addresses."""
    return first_fault(
        unlike(f"requests[{i}].host_offset", r.host_offset, s.host_offset_of(r))
        for i, r in enumerate(s.requests)
    )


class Disk(SimDevice):
    """State of the disk.

    Attributes:
        capacity: sectors, host's configuration, must be equal.
        requests, num_requests: the queue and its count; the count decided in
            C how much was read (CVE-2013-4151).
        completions: results that wait for the guest.
        inflight: what is known of each request under way, by tag (B42).
        remapped: bad sectors and what stands for them; since version 2.
        last_avail_idx, used_idx: the guest's ring indices: any value must
            load (B46; QEMU d68cdae30e), they are used modulo the queue size.
        transfer, setup_len, setup_index: bytes on their way, ``setup_len`` of
            them, of which ``setup_index`` are done (B11); ``dma_address`` is where
            they go, the guest's.
        service_timer: fires when the oldest request is done.
        error_policy: 255 for none (B15), error_tag: subsection.
    """

    name = "disk"
    vmsd = vmstate_disk
    invariants = (
        queue_fault,
        completions_fault,
        requests_fault,
        inflight_fault,
        remapped_fault,
        transfer_fault,
        error_policy_fault,
        host_offset_fault,
    )
    service_timer: QEMUTimer

    def __init__(self, capacity: int = CAPACITY) -> None:
        super().__init__()
        self.capacity = capacity

    def create(self, machine: "Machine") -> None:
        self.service_timer = machine.timers.new_ns(self.serve)
        self.ram_bytes = self.dma_bytes()

    def reset(self) -> None:
        self.requests: list[Request] = []
        self.num_requests = 0
        self.completions: list[Completion] = []
        self.inflight: dict[int, Slot] = {}
        self.remapped: dict[int, Slot] = {}
        self.last_avail_idx = self.used_idx = 0
        self.setup_index = self.setup_len = 0
        self.transfer = bytearray(TRANSFER_BYTES)
        self.dma_address = 0
        self.service_timer.delete()
        self.next_tag = 0
        self.error_policy = NO_ERROR_POLICY
        self.error_tag = 0

    def error_needed(self) -> bool:
        """Whether an error is remembered."""
        return self.error_policy != NO_ERROR_POLICY or self.error_tag != 0

    def host_offset_of(self, request: Request) -> int:
        """Where in RAM the request's first segment lies (B43)."""
        if not request.segments or not self.ram_bytes:
            return 0
        return request.segments[0].address % self.ram_bytes

    # -- what a load checks ------------------------------------------------------------

    def check_queue(self) -> Fault | None:
        """B03 (CVE-2013-4151): count and list agree and fit."""
        return queue_fault(self)

    def check_completions(self) -> Fault | None:
        """B03."""
        return completions_fault(self)

    def check_requests(self) -> Fault | None:
        """B01, B03, B08: of every request."""
        return requests_fault(self)

    def check_inflight(self) -> Fault | None:
        """B42, B01: one tag, one request, on a sector that there is."""
        return inflight_fault(self)

    def check_remapped(self) -> Fault | None:
        """B01: sectors that are used in the place of others."""
        return remapped_fault(self)

    def check_transfer(self) -> Fault | None:
        """B04, B06, B11 (CVE-2013-4541, CVE-2014-3461): before the bytes."""
        return transfer_fault(self)

    def check_error_policy(self) -> Fault | None:
        """B15, B02: an index or the sentinel."""
        return error_policy_fault(self)

    def load_checks(self) -> tuple[Callable[[], Fault | None], ...]:
        return (
            self.check_queue,
            self.check_completions,
            self.check_requests,
            self.check_inflight,
            self.check_remapped,
            self.check_transfer,
            self.check_error_policy,
        )

    def derive(self, version_id: int) -> None:
        for request in self.requests:
            request.host_offset = self.host_offset_of(request)

    # -- running -----------------------------------------------------------------------

    def submit(self, sector: int, value: int) -> None:
        """The guest queues a request; lost when the queue is full."""
        self.last_avail_idx = self.last_avail_idx + 1 & U16
        if len(self.requests) >= QUEUE_MAX or self.next_tag in self.inflight:
            # A tag that a load brought may be taken still.
            self.next_tag = self.next_tag + 1 & U32
            return
        request = Request()
        request.tag = self.next_tag
        request.sectors = 1 + value % REQUEST_SECTORS_MAX
        request.sector = sector % (self.capacity - REQUEST_SECTORS_MAX)
        request.direction = value >> 4 & 1
        request.segments = [Segment(value * 0x1001, SECTOR) for _ in range(1 + (value >> 5 & 1))]
        request.segment_count = len(request.segments)
        request.host_offset = self.host_offset_of(request)
        self.requests.append(request)
        self.num_requests = len(self.requests)
        self.inflight[request.tag] = Slot(request.sector, self.machine.clock.now_ns)
        self.next_tag = self.next_tag + 1 & U32
        if not self.service_timer.pending():
            self.arm(self.service_timer, _SERVICE_NS)

    def serve(self) -> None:
        """The oldest request is done: its data is on its way."""
        if not self.requests:
            return
        request = self.requests.pop(0)
        self.num_requests = len(self.requests)
        slot = self.inflight.pop(request.tag)
        self.begin_transfer(request, slot)
        if len(self.completions) < COMPLETIONS_MAX:
            self.completions.append(Completion(request.tag, request.size()))
        if request.sector % 8 == 7:
            self.error_policy = (request.sector >> 3) % len(ERROR_POLICIES)
            self.error_tag = request.tag
        self.used_idx = self.used_idx + 1 & U16
        self.raise_irq(IRQ_LINE)
        if self.requests:
            self.arm(self.service_timer, _SERVICE_NS)

    def begin_transfer(self, request: Request, slot: Slot) -> None:
        """Fill the transfer buffer with what a sector holds: its number."""
        target = self.remapped.get(slot.sector)
        sector = slot.sector if target is None else target.sector
        self.setup_len = request.size()
        self.setup_index = 0
        self.dma_address = request.host_offset
        self.transfer = bytearray(TRANSFER_BYTES)
        pattern = (sector & U32).to_bytes(4, "big") * (self.setup_len // 4)
        self.transfer[: self.setup_len] = pattern
        if request.retries == 0 and sector % 64 == 63 and len(self.remapped) < REMAPPED_MAX:
            self.remapped[sector] = Slot(sector - 1, self.machine.clock.now_ns)

    def step(self) -> None:
        # One sector a step goes over; the rest stays in the buffer.
        left = self.setup_len - self.setup_index
        if left:
            chunk = min(SECTOR, left)
            end = self.setup_index + chunk
            self.dma_write(
                self.dma_address + self.setup_index, bytes(self.transfer[self.setup_index : end])
            )
            self.setup_index = end
        elif self.completions:
            self.completions.pop(0)
            if self.error_policy != NO_ERROR_POLICY and ERROR_POLICIES[self.error_policy] == "stop":
                self.completions.clear()
            if not self.completions:
                self.error_policy, self.error_tag = NO_ERROR_POLICY, 0
