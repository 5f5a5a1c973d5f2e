"""An old-style device: a virtio console saved by two functions written by hand.

Before descriptions every device was saved like this, and most holes of the
2013-14 audit were in such loops.  Where its fields come from: ``virtio_save``
and ``virtio_load`` of QEMU ``hw/virtio/virtio.c`` at the seed: number of queues
(CVE-2013-4151), ``queue_sel`` that the guest uses later (CVE-2013-6399), length
of the configuration (CVE-2014-0182, and QEMU 2f5732e964 that tolerates a longer
one), ``isr`` and ``status`` before them.  To the stream it is one run of bytes.
"""

from typing import TYPE_CHECKING, Final

from savevm.devices.base import U8, U16, U32, U64, Fault, SimDevice, first_fault, outside, unlike
from savevm.errors import LoadError
from savevm.qemufile import QEMUFileReader, QEMUFileWriter
from savevm.state import State

if TYPE_CHECKING:
    from savevm.machine import Machine

VERSION: Final = 2
QUEUE_MAX: Final = 4
RING_MAX: Final = 64
CONFIG_BYTES: Final = 8
CONFIG_READ_MAX: Final = 4096
"""Longest configuration that is skipped over when it is longer than ours."""
STATUS_BROKEN: Final = 0x40


class VirtQueue(State):
    """One queue.

    Attributes:
        num: entries of its ring: 0 (not set up) or a power of two up to 64.
        pa: guest address of the ring, any value is good.
        last_avail_idx: the guest's, any value is good: it is used modulo
            ``num``; a queue that makes no sense is marked broken, not refused
            (B46, QEMU 4aedda25e8).
    """

    def __init__(self) -> None:
        super().__init__()
        self.num = 0
        self.pa = 0
        self.last_avail_idx = 0


def queue_sel_fault(s: "Virtio") -> Fault | None:
    """A queue."""
    return outside("queue_sel", s.queue_sel, 0, QUEUE_MAX - 1)


def ring_fault(s: "Virtio") -> Fault | None:
    """Ring sizes are 0 or powers of two."""
    return first_fault(
        outside(f"queues[{i}].num", queue.num, 0, RING_MAX)
        or unlike(f"queues[{i}].num", queue.num & (queue.num - 1), 0)
        for i, queue in enumerate(s.queues)
    )


def queues_fault(s: "Virtio") -> Fault | None:
    """There are as many queues as the device has, used or not."""
    return unlike("queues", len(s.queues), QUEUE_MAX)


def config_fault(s: "Virtio") -> Fault | None:
    """The configuration space has its size."""
    return unlike("config", len(s.config), CONFIG_BYTES)


class Virtio(SimDevice):
    """State of the console.

    Attributes:
        status, isr, guest_features: the guest's.
        queue_sel: queue that the registers show (B02): an index for the next
            access; the guest's writes are checked when they are made.
        config: configuration space.
        queues: always four; a stream says how many it brings.
    """

    name = "virtio"
    invariants = (queue_sel_fault, queues_fault, ring_fault, config_fault)

    def register(self, machine: "Machine") -> None:
        machine.savevm.register_savevm(
            None,
            "virtio-console",
            0,
            VERSION,
            lambda f, device: device.save(f),
            lambda f, device, version_id: device.load(f, version_id),
            self,
        )

    def reset(self) -> None:
        self.status = 0
        self.isr = 0
        self.queue_sel = 0
        self.guest_features = 0
        self.config = bytearray(CONFIG_BYTES)
        self.queues = [VirtQueue() for _ in range(QUEUE_MAX)]

    # -- save and load -----------------------------------------------------------------

    def save(self, f: QEMUFileWriter) -> None:
        """``virtio_save``."""
        f.put_byte(self.status)
        f.put_byte(self.isr)
        f.put_be16(self.queue_sel)
        f.put_be32(self.guest_features)
        f.put_be32(len(self.config))
        f.put_buffer(bytes(self.config))
        # Queues behind the last one that is set up do not travel.
        count = max((i + 1 for i, q in enumerate(self.queues) if q.num), default=0)
        f.put_be32(count)
        for queue in self.queues[:count]:
            f.put_be32(queue.num)
            f.put_be64(queue.pa)
            f.put_be16(queue.last_avail_idx)

    def load(self, f: QEMUFileReader, version_id: int) -> int | None:
        """``virtio_load``; version 1 had no features.

        Raises:
            LoadError: a value is impossible or the stream ends.
        """
        if not 1 <= version_id <= VERSION:
            raise LoadError(
                f"version {version_id} is not read", expected=(1, VERSION), actual=version_id
            )
        self.reset()
        self.status = f.get_byte("status")
        self.isr = f.get_byte("isr")
        self.queue_sel = f.get_be16("queue_sel")
        self.complain(f, self.check_queue_sel())
        if version_id >= 2:
            self.guest_features = f.get_be32("guest_features")
        self.load_config(f)
        self.load_queues(f)
        self.complain(f, self.check_rings())
        return f.get_error()

    def load_config(self, f: QEMUFileReader) -> None:
        """The configuration: at most our size is kept, the rest is skipped."""
        at = f.tell()
        length = f.get_be32("config_len")
        self.refuse(self.check_config_length(length), at)
        kept = f.get_buffer(min(length, CONFIG_BYTES), "config")
        self.config[: len(kept)] = kept
        f.skip_bytes(max(length - CONFIG_BYTES, 0), "config")

    def load_queues(self, f: QEMUFileReader) -> None:
        """The queues, as many as the stream says."""
        at = f.tell()
        count = f.get_be32("num")
        self.refuse(self.check_queue_count(count), at)
        for index in range(count):
            queue = self.queues[index]
            queue.num = f.get_be32("queue num")
            queue.pa = f.get_be64("queue pa")
            queue.last_avail_idx = f.get_be16("last_avail_idx")
            if not queue.num:
                # A queue that is not set up has no state (virtio_queue_reset).
                self.queues[index] = VirtQueue()

    @staticmethod
    def complain(f: QEMUFileReader, fault: Fault | None) -> None:
        """A value is wrong, but the layout behind it is known."""
        if fault is not None and not f.get_error():
            error = fault.error()
            error.offset = f.tell()
            f.complain(error)

    @staticmethod
    def refuse(fault: Fault | None, offset: int) -> None:
        """A count is wrong: what lies behind it cannot be read."""
        if fault is not None:
            error = fault.error()
            error.offset = offset
            raise error

    # -- what a load checks ------------------------------------------------------------

    def check_queue_sel(self) -> Fault | None:
        """B02 (CVE-2013-6399)."""
        return queue_sel_fault(self)

    def check_config_length(self, length: int) -> Fault | None:
        """B06, B35 (CVE-2014-0182): not more than is worth reading."""
        return outside("config_len", length, 0, CONFIG_READ_MAX)

    def check_queue_count(self, count: int) -> Fault | None:
        """B03, B04, B10 (CVE-2013-4151): no more queues than there are."""
        return outside("num", count, 0, QUEUE_MAX)

    def check_rings(self) -> Fault | None:
        """B14: ring sizes are divided by; B08: and multiplied."""
        return ring_fault(self)

    # -- running -----------------------------------------------------------------------

    def write(self, value: int) -> None:
        """The guest selects a queue and sets it up or tears it down."""
        self.queue_sel = value % QUEUE_MAX
        self.status = value >> 3 & U8 & ~STATUS_BROKEN
        self.guest_features = value & U32
        self.config[value % CONFIG_BYTES] = value >> 8 & U8
        queue = self.queues[self.queue_sel]
        if value & 4:
            queue.num = 1 << (value >> 4) % 7
            queue.pa = value << 12 & U64
        else:
            self.queues[self.queue_sel] = VirtQueue()

    def step(self) -> None:
        queue = self.queues[self.queue_sel]
        if queue.num:
            queue.last_avail_idx = queue.last_avail_idx + 1 & U16
            slot = queue.last_avail_idx % queue.num
            self.isr |= slot == 0
            if queue.pa == U64:
                self.status |= STATUS_BROKEN
