"""B15: the number that stands for "no policy" indexes the table of policies."""

from dataclasses import replace
from typing import Final

from loadfuzz.bench.truth import BugRow
from loadfuzz_targets.planted.bug import Parts, PlantedBug, Site
from loadfuzz_targets.planted.examples import with_value
from savevm.devices.disk import ERROR_POLICIES, NO_ERROR_POLICY, Disk, vmstate_error
from savevm.vmstate.description import VMStateDescription


def _plant(site: Site) -> Parts:
    class DiskThatNamesItsPolicy(Disk):
        """Looks up a policy's name when one is loaded."""

        def post_load_error(self, version_id: int) -> int | None:
            del version_id
            policy = self.error_policy
            site.canary.check(policy == NO_ERROR_POLICY)
            if policy < len(ERROR_POLICIES) or policy == NO_ERROR_POLICY:
                names = site.heap.alloc(8 * len(ERROR_POLICIES), "disk/policy names")
                try:
                    pointer = int.from_bytes(names.read(8 * policy, 8), "little")
                    if policy == NO_ERROR_POLICY:
                        # No pointer at all, but what somebody else keeps there.
                        names.read(pointer, 1)
                finally:
                    names.free()
            return 0

        def description(self) -> VMStateDescription:
            vmsd = super().description()
            named = replace(
                vmstate_error, post_load=lambda disk, version: disk.post_load_error(version)
            )
            subsections = tuple(
                named if sub.name == named.name else sub for sub in vmsd.subsections
            )
            return replace(vmsd, subsections=subsections)

    return Parts(devices={"disk": DiskThatNamesItsPolicy})


def _example() -> bytes:
    return with_value("optional-parts-1", "disk/error/error_policy", 255)


DISK_SENTINEL: Final = PlantedBug(
    BugRow(
        name="disk-sentinel-policy",
        bug_class="B15",
        device="disk",
        field="error.error_policy",
        trigger="the subsection of an error with the policy 255, which stands for none",
        oracle="clean-error",
        evidence=r"^SegmentationFault at disk_sentinel\.py:",
        mirrors="QEMU 7b84b90966: usbredir, NO_INTERFACE_INFO used as a number of interfaces",
    ),
    _plant,
    _example,
)
