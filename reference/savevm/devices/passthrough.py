"""A device that cannot be migrated: it has state that nobody can read.

Where it comes from: host devices that are passed through (QEMU
``hw/vfio/pci.c``, ``hw/misc/ivshmem.c`` at the seed), whose descriptions say
``unmigratable`` so that savevm and migration are refused as long as they are
there.  No machine has one unless it is asked for.
"""

from typing import Final

from savevm.devices.base import SimDevice
from savevm.vmstate.description import VMStateDescription

vmstate_passthrough: Final = VMStateDescription("passthrough", unmigratable=True)


class Passthrough(SimDevice):
    """A device without migratable state."""

    name = "passthrough"
    vmsd = vmstate_passthrough
