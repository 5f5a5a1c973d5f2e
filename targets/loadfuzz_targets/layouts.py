"""What the devices of a stream look like, remembered over many streams of one machine."""

from collections import OrderedDict
from collections.abc import Callable
from hashlib import sha256
from typing import Final

from savevm.errors import LoadError
from savevm.foreign import foreign_machine, locate_vmdesc
from savevm.machine import Machine

MACHINES_MAX: Final = 8
"""Machines kept, each some MB: one serves nearly all streams of a campaign, and a mutated
description is used by a stream and its children."""


class Layouts:
    """Machines made from vmdescs, each once.

    Streams of one campaign nearly all have the same vmdesc, and making a machine from it takes
    longer than parsing a stream with it.
    """

    __slots__ = ("_first", "_machines")

    def __init__(self) -> None:
        self._first: Machine | None = None
        self._machines: OrderedDict[bytes, Machine | None] = OrderedDict()

    def factory_for(self, stream: bytes) -> Callable[[], Machine] | None:
        """What :meth:`savevm.document.Document.parse` wants: the machine that the stream's own
        vmdesc describes; where it has no good one, the first that was ever seen; ``None``
        before that."""
        machine = self._machine_of(stream) or self._first
        if machine is None:
            return None
        if self._first is None:
            self._first = machine
        found = machine
        # A parse puts the machine back as it was, so one serves all of them.
        return lambda: found

    def _machine_of(self, stream: bytes) -> Machine | None:
        span = locate_vmdesc(_Bytes(stream))
        if span is None:
            return None
        # A machine also knows whether its streams begin with a configuration.
        key = sha256(span.text).digest() + stream[8:9]
        # A description too large for a stream that was cut off may fit another one.
        unfit = key + len(stream).to_bytes(8, "big")
        for known in (key, unfit):
            if known in self._machines:
                self._machines.move_to_end(known)
                return self._machines[known]
        try:
            machine = foreign_machine(stream, store=False)
        except LoadError:
            machine = None
        self._machines[unfit if machine is None else key] = machine
        if len(self._machines) > MACHINES_MAX:
            self._machines.popitem(last=False)
        return machine


class _Bytes:
    __slots__ = ("_data",)

    def __init__(self, data: bytes) -> None:
        self._data = data

    @property
    def size(self) -> int:
        return len(self._data)

    def read(self, start: int, end: int) -> bytes:
        return self._data[start:end]
