"""Self-announce: telling the switches where a machine lives now.

After a migration each NIC sends RARP frames, so that switches learn its new
port.  Five rounds, 50, 150, 250 and 350 ms apart.  Source: the first functions
of QEMU ``migration/savevm.c``; ``self_announce_delay`` of
``include/migration/vmstate.h``; ``qemu_send_packet_raw`` of ``net/net.c``.
"""

from struct import pack
from typing import TYPE_CHECKING, Final

from savevm.errors import SavevmError
from savevm.timers import QEMUTimer, TimerList, VirtualClock
from savevm.trace import Trace

if TYPE_CHECKING:
    from savevm.machine import Machine

SELF_ANNOUNCE_ROUNDS: Final = 5
MAC_SIZE: Final = 6
FRAME_SIZE: Final = 60
"""Least size of an Ethernet frame without its check sequence."""
MAX_SENT: Final = 4096
"""Frames a NIC remembers: far more than any test looks at, and a machine that
runs for days must not grow with what it sent."""

_ETH_P_RARP: Final = 0x8035
_ARP_HTYPE_ETH: Final = 0x0001
_ARP_PTYPE_IP: Final = 0x0800
_ARP_OP_REQUEST_REV: Final = 0x0003
_NS_PER_MS: Final = 1_000_000


class AnnounceAborted(SavevmError):
    """QEMU's process would have died here, of the assertion in
    ``self_announce_delay``."""


class NICState:
    """A NIC as the network sees it (``NICState``).

    Args:
        mac: its address, 6 bytes.
        link_down: the cable is out; what is sent is lost.

    Attributes:
        sent: frames that went out, oldest first, at most :data:`MAX_SENT`.

    Raises:
        ValueError: the address has not 6 bytes.
    """

    def __init__(self, mac: bytes, *, link_down: bool = False) -> None:
        _check_mac(mac)
        self.mac = bytes(mac)
        self.link_down = link_down
        self.sent: list[bytes] = []

    def send_packet_raw(self, frame: bytes) -> int:
        """Send one frame; a NIC without a link swallows it.

        Returns:
            The frame's size, sent or lost, as ``qemu_send_packet_raw`` does.
        """
        if not self.link_down:
            if len(self.sent) >= MAX_SENT:
                del self.sent[0]
            self.sent.append(bytes(frame))
        return len(frame)


def _check_mac(mac: bytes) -> None:
    if len(mac) != MAC_SIZE:
        raise ValueError(f"a MAC address has {MAC_SIZE} bytes, not {len(mac)}")


def ether_ntoa(mac: bytes) -> str:
    """A MAC address as text (``qemu_ether_ntoa``).

    >>> ether_ntoa(bytes.fromhex("52540012abcd"))
    '52:54:00:12:ab:cd'
    """
    return mac.hex(":")


def announce_self_create(mac: bytes) -> bytes:
    """The RARP request that announces ``mac``, padded to 60 bytes.

    Raises:
        ValueError: the address has not 6 bytes.
    """
    _check_mac(mac)
    ethernet = b"\xff" * MAC_SIZE + mac + pack(">H", _ETH_P_RARP)
    kinds = pack(">HHBBH", _ARP_HTYPE_ETH, _ARP_PTYPE_IP, MAC_SIZE, 4, _ARP_OP_REQUEST_REV)
    source = target = mac + bytes(4)
    return (ethernet + kinds + source + target).ljust(FRAME_SIZE, b"\0")


def self_announce_delay(round_: int) -> int:
    """Milliseconds until the next round.

    Args:
        round_: rounds still to come, 1 to 4.

    Raises:
        AnnounceAborted: there is no such round (an assertion in C).
    """
    if not 0 < round_ < SELF_ANNOUNCE_ROUNDS:
        raise AnnounceAborted(
            f"self_announce_delay: round {round_} is not within 1 to {SELF_ANNOUNCE_ROUNDS - 1}"
        )
    return 50 + (SELF_ANNOUNCE_ROUNDS - round_ - 1) * 100


class SelfAnnounce:
    """Announces every NIC of a machine (``qemu_announce_self``).

    Time is the caller's: rounds fire when :attr:`clock` has been moved and
    :attr:`timers` is run, or all in one with :meth:`advance_ms`.

    Every announcement has five rounds, and a new one replaces one under way.
    In the seed (``profile.announce_count_is_static``) the rounds left are a
    ``static int`` that nothing sets back.  So a second announcement after a
    whole first one sends its first frames and then dies of an assertion, and one
    that begins during the first shares its rounds: five in all, on the newer
    timer, and the older timer is lost once it has fired.

    Args:
        machine: whose :attr:`~savevm.machine.Machine.nics` announce themselves.
        trace: hears ``qemu_announce_self_iter`` for each frame.

    Attributes:
        clock: ``QEMU_CLOCK_REALTIME`` of this model.
        timers: the timers on it; empty when no announcement is under way.
    """

    def __init__(self, machine: "Machine", *, trace: Trace | None = None) -> None:
        self._machine = machine
        self._trace = trace
        self._count = SELF_ANNOUNCE_ROUNDS
        self._timer: QEMUTimer | None = None
        self.clock = VirtualClock()
        self.timers = TimerList(self.clock)

    def announce(self) -> None:
        """Send the first round and arm the timer for the others.

        Raises:
            AnnounceAborted: this is the seed's second announcement.
        """
        if not self._machine.profile.announce_count_is_static:
            self._end()
            self._count = SELF_ANNOUNCE_ROUNDS
        self._timer = self.timers.new_ns(self._once)
        self._once()

    def active(self) -> bool:
        """Whether rounds are still to come."""
        return any(timer.pending() for timer in self.timers.timers)

    def advance_ms(self, milliseconds: int) -> None:
        """Let time pass, each timer firing when it is due.

        Raises:
            AnnounceAborted: a leftover timer of the seed fired.
        """
        end = self.clock.now_ns + milliseconds * _NS_PER_MS
        while due := [t.expire_ns for t in self.timers.timers if 0 <= t.expire_ns <= end]:
            self.clock.now_ns = max(self.clock.now_ns, min(due))
            self.timers.run_expired()
        self.clock.now_ns = end

    def _once(self) -> None:
        for nic in self._machine.nics:
            if self._trace is not None:
                self._trace("qemu_announce_self_iter", ether_ntoa(nic.mac))
            nic.send_packet_raw(announce_self_create(nic.mac))
        self._count -= 1
        if self._count == 0:
            self._end()
            return
        delay = self_announce_delay(self._count)
        # The callback is handed the slot, not the timer: in an overlap an older
        # timer re-arms the newest one.  A count below zero never gets here.
        assert self._timer is not None
        now_ms = self.clock.now_ns // _NS_PER_MS
        self._timer.mod_ns((now_ms + delay) * _NS_PER_MS)

    def _end(self) -> None:
        if self._timer is not None:
            self._timer.delete()
            self.timers.timers.remove(self._timer)
            self._timer = None
