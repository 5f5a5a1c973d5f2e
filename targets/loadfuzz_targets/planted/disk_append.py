"""B24: a list is appended to what is there already."""

from dataclasses import replace
from typing import Final

from loadfuzz.bench.truth import BugRow
from loadfuzz_targets.planted.bug import Parts, PlantedBug, Site
from loadfuzz_targets.planted.descriptions import with_field
from loadfuzz_targets.planted.examples import document
from savevm.devices.disk import COMPLETIONS_MAX, Disk
from savevm.devices.disk_request import Completion
from savevm.qemufile import QEMUFileReader
from savevm.vmstate.containers import QLIST
from savevm.vmstate.description import Opaque, VMStateDescription, VMStateField


def _plant(site: Site) -> Parts:
    class DiskThatAppends(Disk):
        """Does not empty its list before a load."""

        def pre_load(self) -> int | None:
            kept = list(self.completions)
            result = super().pre_load()
            self.completions[:] = kept
            return result

        def description(self) -> VMStateDescription:
            def get(
                f: QEMUFileReader,
                current: list[Completion],
                size: int,
                field: VMStateField,
                o: Opaque,
            ) -> list[Completion]:
                loaded: list[Completion] = QLIST.get(f, current, size, field, o)
                site.canary.check(current and len(current) + len(loaded) <= COMPLETIONS_MAX)
                return [*current, *loaded]

            info = replace(QLIST, get=get)
            return with_field(super().description(), ("completions",), info=info)

    return Parts(devices={"disk": DiskThatAppends})


def _example() -> bytes:
    return document("optional-parts-1").to_bytes()


DISK_APPEND: Final = PlantedBug(
    BugRow(
        name="disk-completions-append",
        bug_class="B24",
        device="disk",
        field="completions",
        trigger="a stream with completions that is loaded twice",
        oracle="idempotent",
        evidence=r"^state/disk",
        mirrors="QTAILQ and QLIST of QEMU append when a machine is loaded over (libafl-bridge 128)",
    ),
    _plant,
    _example,
)
