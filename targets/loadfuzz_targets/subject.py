"""A machine of the reference as a live loader, for the executor in this process.

It is loaded into again and again, many hundred times a second, so what happens
between two loads must cost less than a load: the state at the start is captured
once, :meth:`MachineSubject.reset` writes it back into the same objects, and
:meth:`MachineSubject.digest` computes nothing anew of what is as it was then.
"""

import os
import threading
from collections.abc import Mapping, Sequence

from loadfuzz.faults.kinds import Layer, PlaceKind
from loadfuzz.faults.plan import Fault, FaultPlan
from loadfuzz.faults.source import FaultySource
from loadfuzz.faults.steps import InjectedKillError, SteppingSource, Steps
from loadfuzz.inputs import Delivery
from loadfuzz_targets.baseline import Baseline
from loadfuzz_targets.digest import MachineDigest
from loadfuzz_targets.faulty_machine import faulty_hooks, refusals
from loadfuzz_targets.hooks import LOADING, hooks_of
from loadfuzz_targets.interruptions import cancellations, killed
from loadfuzz_targets.memory import MemoryImage
from loadfuzz_targets.struck import StruckLog
from savevm.load import Loader
from savevm.machine import Machine
from savevm.qemufile import ChunkSource, QEMUFileReader
from savevm.save import save_to_bytes
from savevm.trace import Trace


class MachineSubject:
    """A machine with its loader (:class:`loadfuzz.abc.Subject`).

    Args:
        machine: is loaded into; nobody else may touch it.
        loader: serves one load; a subclass of the reference's.
        reader: reads the stream; a subclass of the reference's.
        plain: read every field and every page one by one, past all fast paths.
    """

    def __init__(
        self,
        machine: Machine,
        *,
        loader: type[Loader] = Loader,
        reader: type[QEMUFileReader] = QEMUFileReader,
        plain: bool = False,
    ) -> None:
        self.machine = machine
        self._plain = plain
        self._loader = loader
        self._reader = reader
        self._baseline = Baseline(*machine.roots())
        self._memory = MemoryImage(machine.ram) if machine.ram is not None else None
        self._digest = MachineDigest(machine)
        self._digest_at_start = self._digest.now()
        self._nics_at_start = list(machine.nics)
        self._struck: Sequence[Fault] = ()

    def load(self, stream: bytes, delivery: Delivery, trace: Trace | None) -> None:
        """Load ``stream`` as the machine's profile has it.

        Raises:
            LoadError: the stream is refused.
        """
        # Fields are not traced: that would take every one of them the slow way.
        f = self._reader(
            ChunkSource.split(stream, delivery.chunks) if delivery.chunks else stream,
            profile=self.machine.profile,
            trace=_unheard if self._plain else trace,
            trace_fields=self._plain,
        )
        try:
            self._loader(f, self.machine).load()
        finally:
            f.close()

    @property
    def layers(self) -> frozenset[Layer]:
        """The stream on its way, the devices' hooks, and interruptions
        (:class:`loadfuzz.abc.TakesFaults`)."""
        return frozenset({Layer.TRANSPORT, Layer.DEVICE, Layer.PROCESS})

    def fault_places(self) -> Mapping[PlaceKind, Sequence[str]]:
        """Hooks that a load calls (:class:`loadfuzz.abc.NamesFaultPlaces`)."""
        called = [str(place) for place in hooks_of(self.machine) if place.hook in LOADING]
        return {PlaceKind.CALL: called}

    def load_under(
        self, stream: bytes, delivery: Delivery, faults: FaultPlan, trace: Trace | None
    ) -> None:
        """Load ``stream`` while ``faults`` happen; a read of the stream is a step.

        A machine whose process was killed is put back to the start: it is gone, and
        another process begins.

        Raises:
            LoadError: the stream is refused, the load was cancelled (``ECANCELED``), or
                its process was killed (``EINTR``).
            UsageError: the plan names a hook that no device has.
        """
        source = FaultySource(stream, faults, delivery.chunks)
        steps = Steps(faults)
        log = StruckLog(lambda: source.struck, lambda: steps.struck)
        f = self._reader(
            SteppingSource(source, steps),
            profile=self.machine.profile,
            trace=_unheard if self._plain else trace,
            trace_fields=self._plain,
        )
        try:
            with refusals(), cancellations(), faulty_hooks(self.machine, faults, log.add):
                self._loader(f, self.machine).load()
        except InjectedKillError:
            self.reset()
            raise killed() from None
        finally:
            f.close()
            self._struck = log.all()

    def struck(self) -> Sequence[Fault]:
        """The faults of the last :meth:`load_under` that did happen, in order."""
        return self._struck

    def reset(self) -> None:
        """Back to the state at the start."""
        self._baseline.restore()
        self.machine.nics[:] = self._nics_at_start
        if self._memory is not None:
            self._memory.restore()

    def digest(self) -> str:
        """State by device and RAM: see :mod:`loadfuzz_targets.digest`."""
        if self._as_at_start():
            return self._digest_at_start
        return self._digest.now()

    def save(self) -> bytes:
        """The present state as a stream."""
        return save_to_bytes(self.machine)

    def check_invariants(self) -> list[str]:
        """What is impossible about the present state."""
        return self.machine.check_invariants()

    def step(self, count: int) -> None:
        """Let the guest run ``count`` steps."""
        self.machine.step(count)

    def resources(self) -> Mapping[str, int]:
        """What a load must not pile up (:class:`loadfuzz.abc.Accountable`)."""
        machine = self.machine
        return {
            "handlers": len(machine.savevm.handlers),
            "timers": len(machine.timers.timers),
            "announced NICs": len(machine.nics),
            "stop handlers": len(machine.stop_handlers),
            "RAM blocks": len(machine.ram.blocks) if machine.ram is not None else 0,
            "threads": threading.active_count(),
            "open files": len(os.listdir("/proc/self/fd")),
        }

    def damages(self) -> Sequence[str]:
        """Nothing: the reference has no memory that can be overrun."""
        return ()

    def _as_at_start(self) -> bool:
        return not self._baseline.changed() and (
            self._memory is None or self._memory.contents_unchanged()
        )


def _unheard(*event: object) -> None:
    """A trace that nobody listens to."""
