"""Two pipes of the kernel, one for each direction."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from loadfuzz.errors import InfraError
from loadfuzz.transports.descriptors import DescriptorTransport


class PipeTransport(DescriptorTransport):
    """One end; it owns the two descriptors (see :class:`DescriptorTransport`)."""

    def _end_writing(self) -> None:
        os.close(self._outgoing)

    def _give_back(self) -> None:
        os.close(self._incoming)
        if not self._ended:
            os.close(self._outgoing)


@asynccontextmanager
async def pipe_pair() -> AsyncIterator[tuple[PipeTransport, PipeTransport]]:
    """Two ends of a connection, closed with the block.

    A pipe knows no reset, so the ends tell each other.

    Raises:
        InfraError: the kernel gives none.
    """
    descriptors: list[int] = []
    try:
        for _ in range(2):
            descriptors += os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        for descriptor in descriptors:
            os.close(descriptor)
        raise InfraError(f"no pipe: {error}; raise `ulimit -n`") from error
    one = PipeTransport(descriptors[0], descriptors[3])
    other = PipeTransport(descriptors[2], descriptors[1])
    one.peer, other.peer = other, one
    try:
        yield one, other
    finally:
        one.close()
        other.close()
