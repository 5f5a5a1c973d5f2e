"""B35: the memory for a byte array is made before a byte of it was read."""

from dataclasses import replace
from typing import Final

from loadfuzz.bench.truth import BugRow
from loadfuzz_targets.planted.bug import Parts, PlantedBug, Site
from loadfuzz_targets.planted.descriptions import with_field
from loadfuzz_targets.planted.examples import document
from savevm.devices.kinds import BYTE_ARRAY, NAME_BYTES_MAX, Kinds
from savevm.errors import LoadError
from savevm.qemufile import QEMUFileReader
from savevm.recording import Role
from savevm.vmstate.description import Opaque, VMStateDescription, VMStateField


def _plant(site: Site) -> Parts:
    class KindsThatBelievesALength(Kinds):
        """Sizes the array by the length on the wire."""

        def description(self) -> VMStateDescription:
            def get(
                f: QEMUFileReader, _current: object, _size: int, _field: VMStateField, _o: Opaque
            ) -> bytearray:
                at = f.tell()
                length = f.get_be32(Role.COUNT)
                site.canary.check(length > 32 << 20)
                array = bytearray(length)
                array[:] = f.get_buffer(length, Role.FIELD)
                if length > NAME_BYTES_MAX:
                    raise LoadError(f"a label of {length} bytes", offset=at, actual=length)
                return array

            info = replace(BYTE_ARRAY, get=get)
            return with_field(super().description(), ("label",), info=info)

    return Parts(devices={"kinds": KindsThatBelievesALength})


def _example() -> bytes:
    tree = document("kinds-ran")
    leaf = tree.find("kinds/label/count")
    stream = tree.to_bytes()
    return stream[: leaf.start] + (64 << 20).to_bytes(4, "big") + stream[leaf.end :]


KINDS_LABEL: Final = PlantedBug(
    BugRow(
        name="kinds-label-unbounded",
        bug_class="B35",
        device="kinds",
        field="label",
        trigger="a label of 32 MiB or more, by its length alone",
        oracle="bounded-memory",
        evidence=r"kinds_label\.py:|^kinds/label",
        mirrors="QEMU 1d9688c074: GByteArray, its length unchecked",
    ),
    _plant,
    _example,
)
