"""B06: a configuration is copied as long as it comes into a buffer of eight bytes."""

from typing import Final

from loadfuzz.bench.truth import BugRow
from loadfuzz_targets.planted.bug import Parts, PlantedBug, Site
from loadfuzz_targets.planted.examples import virtio_with
from savevm.devices.virtio import CONFIG_BYTES, CONFIG_READ_MAX, Virtio
from savevm.qemufile import QEMUFileReader


def _plant(site: Site) -> Parts:
    class VirtioThatCopiesItsConfig(Virtio):
        """Has no min() around the length."""

        def load_config(self, f: QEMUFileReader) -> None:
            head = f.peek_buffer(4)
            length = int.from_bytes(head, "big") if len(head) == 4 else 0
            long = CONFIG_BYTES < length <= CONFIG_READ_MAX
            if long:
                config = site.heap.alloc(CONFIG_BYTES, "virtio/config")
                # What the stream does not have is not written, and refused below.
                came = f.peek_buffer(length, 4)
                site.canary.check(len(came) > CONFIG_BYTES)
                config.write(0, came)
                config.free()
            else:
                site.canary.reached()
            super().load_config(f)

    return Parts(devices={"virtio": VirtioThatCopiesItsConfig})


def _example() -> bytes:
    return virtio_with(8, 4, 24)


VIRTIO_CONFIG: Final = PlantedBug(
    BugRow(
        name="virtio-config-length",
        bug_class="B06",
        device="virtio-console",
        field="config_len",
        trigger="a configuration of more than 8 bytes",
        oracle="no-leak",
        evidence=r"^redzone/virtio/config",
        mirrors="CVE-2014-0182 (QEMU a890a2f913): virtio, config_len unchecked",
    ),
    _plant,
    _example,
)
