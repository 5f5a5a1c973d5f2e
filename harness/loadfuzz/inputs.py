"""What is fed to a loader: the stream and the way it is delivered.

An :class:`Input` is complete: a finding stores its Input and depends on no
seed.  A corpus entry is an Input with its history.
"""

from dataclasses import dataclass
from hashlib import sha256
from typing import Final

from loadfuzz.faults.plan import NO_FAULTS, FaultPlan

STREAM_SIZE_MAX: Final = 2 << 20
"""Largest input a mutator makes: real device state is some tens of kB, a
pc with two network cards and their ROMs just over a MiB, and a mutator that may
grow its input must stop somewhere."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """How the stream's bytes arrive.

    Attributes:
        chunks: sizes of the pieces in bytes, repeated as long as needed; none
            for everything at once.
    """

    chunks: tuple[int, ...] = ()


WHOLE: Final = Delivery()


@dataclass(frozen=True, slots=True)
class Input:
    """One input of a target.

    Attributes:
        stream: what is loaded and judged.
        delivery: how it arrives.
        before: streams that the same loader is given first, whatever becomes of them: a
            loader with a memory may have to be prepared.
        faults: what goes wrong meanwhile.
    """

    stream: bytes
    delivery: Delivery = WHOLE
    before: tuple[bytes, ...] = ()
    faults: FaultPlan = NO_FAULTS

    @property
    def digest(self) -> str:
        """Content address: SHA-256 of the stream, in hex (WHOLE delivery)."""
        return digest_of(self.stream)


def digest_of(stream: bytes) -> str:
    """Content address of a stream: its SHA-256 in hex."""
    return sha256(stream).hexdigest()


@dataclass(frozen=True, slots=True)
class Seed:
    """A stream to start from.

    Attributes:
        name: what people call it, such as ``full`` or a file's name.
        stream: its bytes.
        origin: who made it: ``reference``, ``qemu 7.2.22 pc``, a path.
    """

    name: str
    stream: bytes
    origin: str
