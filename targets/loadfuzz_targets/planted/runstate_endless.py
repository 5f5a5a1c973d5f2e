"""B33: the run state is read up to its NUL, which need not be there."""

from typing import Final

from loadfuzz.bench.truth import BugRow
from loadfuzz_targets.planted.bug import Parts, PlantedBug, Site
from loadfuzz_targets.planted.examples import with_value
from savevm.devices.base import Fault
from savevm.devices.globalstate import RUNSTATE_BYTES, GlobalState


def _plant(site: Site) -> Parts:
    class GlobalStateWithStrlen(GlobalState):
        """Measures the text as C does."""

        def check_runstate(self) -> Fault | None:
            site.canary.check(0 not in self.runstate)
            text = site.heap.alloc(RUNSTATE_BYTES, "globalstate/runstate")
            text.write(0, bytes(self.runstate))
            try:
                at = 0
                while text.read(at, 1) != b"\0":
                    at += 1 if at < RUNSTATE_BYTES else RUNSTATE_BYTES
            finally:
                text.free()
            return super().check_runstate()

    return Parts(devices={"globalstate": GlobalStateWithStrlen})


def _example() -> bytes:
    return with_value("none-ran", "globalstate/runstate", b"prelaunch" + b"X" * 91)


RUNSTATE_ENDLESS: Final = PlantedBug(
    BugRow(
        name="runstate-unterminated",
        bug_class="B33",
        device="globalstate",
        field="runstate",
        trigger="a run state without a NUL in its 100 bytes",
        oracle="clean-error",
        evidence=r"^SegmentationFault at runstate_endless\.py:",
        mirrors="QEMU a346af9c88: strlen over a fixed buffer of 100 bytes",
    ),
    _plant,
    _example,
)
