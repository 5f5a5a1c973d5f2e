"""A target that does as its input says: the fifth byte is the script.

====  ====================================================
``R``  refuses cleanly
``X``  raises something that is no LoadError
``H``  does not end
``S``  takes its time, and accepts
``K``  kills its process
``E``  leaves its process
``P``  prints, and accepts
other  accepts
====  ====================================================

What to start from and whether it opens at all is said by environment variables,
so that a test decides it for processes it does not start itself.
"""

import os
import signal
import time
from collections.abc import Iterable, Sequence
from typing import Final

from loadfuzz.inputs import Delivery, Seed
from savevm import LoadError
from savevm.document import Document
from savevm.trace import Trace

SEEDS_VARIABLE: Final = "LOADFUZZ_SCRIPTED_SEEDS"
"""Streams to start from, separated by commas."""
OPEN_VARIABLE: Final = "LOADFUZZ_SCRIPTED_OPEN"
"""``fails`` when no loader can be had."""

MAGIC: Final = b"QEVM"
EXIT_STATUS: Final = 9
LOAD_S: Final = 0.2
"""How long a load takes that takes its time."""


class ScriptedSubject:
    """A loader without a machine: its state is the stream that it accepted last."""

    def __init__(self) -> None:
        self._stream = MAGIC

    def load(self, stream: bytes, delivery: Delivery, trace: Trace | None) -> None:
        """Do what the stream says.

        Raises:
            LoadError: the stream asks for it, or has no magic.
            IndexError: the stream asks for it.
        """
        if stream[:4] != MAGIC:
            raise LoadError("no magic", offset=0, path=("header",))
        match stream[4:5]:
            case b"R":
                raise LoadError("refused as asked", offset=4, path=("body",))
            case b"X":
                raise IndexError("out of range, as asked")
            case b"H":
                while True:
                    pass
            case b"S":
                time.sleep(LOAD_S)
            case b"K":
                os.kill(os.getpid(), signal.SIGKILL)
            case b"E":
                os._exit(EXIT_STATUS)
            case b"P":
                print("the target prints this")
            case _:
                pass
        self._stream = stream

    def reset(self) -> None:
        """As new."""
        self._stream = MAGIC

    def digest(self) -> str:
        """The state itself, in hex."""
        return self._stream.hex()

    def save(self) -> bytes:
        """The stream that was accepted last."""
        return self._stream

    def check_invariants(self) -> list[str]:
        """Nothing is impossible."""
        return []

    def step(self, count: int) -> None:
        """There is no guest."""


class ScriptedTarget:
    """See the module."""

    name: Final = "scripted"
    summary: Final = "does as its input says"
    instrument: Sequence[str] = ()

    def open(self) -> ScriptedSubject:
        """A loader.

        Raises:
            RuntimeError: the environment asks for it.
        """
        if os.environ.get(OPEN_VARIABLE) == "fails":
            raise RuntimeError("no machine today")
        return ScriptedSubject()

    def seeds(self) -> Iterable[Seed]:
        """What the environment says."""
        texts = os.environ.get(SEEDS_VARIABLE, "QEVMaa,QEVMbbb").split(",")
        return [Seed(text, text.encode(), "scripted") for text in texts if text]

    def parse(self, stream: bytes) -> Document:
        """The stream as a tree, as far as it is one."""
        return Document.parse(stream)


TARGET: Final = ScriptedTarget()
