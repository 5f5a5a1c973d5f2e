"""The configuration section: which machine the stream is from.

Not in the seed; two weeks younger (QEMU 61964c23e5), and in every stream of a
real QEMU since.  It is a description without name or footer on the wire, and
it is loaded "in version 0".  Source: QEMU ``migration/savevm.c``,
``vmstate_configuration`` and its subsections.
"""

from typing import TYPE_CHECKING, Final

from savevm.constants import TARGET_PAGE_BITS
from savevm.errors import LoadError
from savevm.qemufile import QEMUFileReader, QEMUFileWriter
from savevm.recording import Role
from savevm.state import State
from savevm.vmstate import fields
from savevm.vmstate.description import (
    Opaque,
    VMSFlags,
    VMStateDescription,
    VMStateField,
    VMStateInfo,
)

if TYPE_CHECKING:
    from savevm.machine import Machine

UUID_SIZE: Final = 16
CAPABILITIES: Final = ("x-ignore-shared", "mapped-ram")
"""Capabilities that travel, since they change the stream's layout."""


class ConfigurationState(State):
    """What the configuration section carries (part of QEMU's ``SaveState``).

    Args:
        machine: whose configuration; compared with on load unless it adopts.
    """

    def __init__(self, machine: "Machine") -> None:
        super().__init__()
        self.machine = machine
        name = machine.machine_type.encode("latin-1")
        self.len = len(name)
        self.name = bytearray(name)
        self.target_page_bits = machine.target_page_bits
        self.caps_count = len(machine.capabilities)
        self.capabilities: list[str] = list(machine.capabilities)
        self.uuid = bytearray(machine.uuid or bytes(UUID_SIZE))


def _pre_load(state: ConfigurationState) -> int:
    # A source whose page size is the legacy one does not send it, nor one
    # without capabilities these: what is missing does not mean "as yours".
    state.target_page_bits = TARGET_PAGE_BITS
    state.caps_count = 0
    state.capabilities = []
    return 0


def _post_load(state: ConfigurationState, version_id: int) -> int:
    del version_id
    machine = state.machine
    name = state.name.decode("latin-1")
    if machine.adopts:
        machine.machine_type = name
        machine.target_page_bits = state.target_page_bits
        machine.capabilities = tuple(state.capabilities)
        return 0
    if name != machine.machine_type:
        raise LoadError(
            f"expected machine type {machine.machine_type!r}, read {name[:80]!r}",
            expected=machine.machine_type,
            actual=name,
            qemu=f"Machine type received is '{name}' and local is '{machine.machine_type}'",
        )
    if state.target_page_bits != machine.target_page_bits:
        raise LoadError(
            f"expected target page bits {machine.target_page_bits}, read {state.target_page_bits}",
            expected=machine.target_page_bits,
            actual=state.target_page_bits,
            qemu=f"Received TARGET_PAGE_BITS is {state.target_page_bits} "
            f"but local is {machine.target_page_bits}",
        )
    differing = sorted(set(state.capabilities) ^ set(machine.capabilities))
    if differing:
        here, there = (
            "on" if differing[0] in names else "off"
            for names in (machine.capabilities, state.capabilities)
        )
        raise LoadError(
            f"expected capabilities {sorted(machine.capabilities)}, "
            f"read {sorted(state.capabilities)}",
            expected=sorted(machine.capabilities),
            actual=sorted(state.capabilities),
            qemu=f"Capability {differing[0]} is {here}, but received capability is {there}",
        )
    return 0


def _uuid_post_load(state: ConfigurationState, version_id: int) -> int:
    del version_id
    machine = state.machine
    if machine.adopts:
        machine.uuid = bytes(state.uuid)
    elif machine.uuid is not None and bytes(state.uuid) != machine.uuid:
        raise LoadError(
            f"expected UUID {machine.uuid.hex()}, read {state.uuid.hex()}",
            expected=machine.uuid.hex(),
            actual=state.uuid.hex(),
            qemu="UUID of received vm and local do not match",
        )
    return 0


def _get_capability(
    f: QEMUFileReader, _cur: str, _size: int, _field: VMStateField, _o: Opaque
) -> str:
    offset = f.tell()
    name = f.get_counted_string(Role.FIELD) or ""
    if name not in CAPABILITIES and not f.get_error():
        f.complain(
            LoadError(
                f"unknown capability {name!r}",
                offset=offset,
                expected=CAPABILITIES,
                actual=name,
                qemu=f"Received unknown capability {name}",
            )
        )
    return name


def _put_capability(
    f: QEMUFileWriter, value: str, _size: int, _field: VMStateField, _o: Opaque
) -> None:
    f.put_counted_string(value)


CAPABILITY: Final = VMStateInfo("capability", _get_capability, _put_capability)

VMSTATE_TARGET_PAGE_BITS: Final = VMStateDescription(
    "configuration/target-page-bits",
    minimum_version_id=1,
    fields=(fields.uint32("target_page_bits"),),
    needed=lambda state: state.target_page_bits > TARGET_PAGE_BITS,
)
VMSTATE_CAPABILITIES: Final = VMStateDescription(
    "configuration/capabilities",
    minimum_version_id=1,
    fields=(
        fields.uint32("caps_count"),
        VMStateField(
            "capabilities", "capabilities", CAPABILITY,
            VMSFlags.VARRAY_UINT32 | VMSFlags.ALLOC | VMSFlags.POINTER, 1, num_attr="caps_count",
        ),
    ),
    needed=lambda state: bool(state.capabilities),
)  # fmt: skip
VMSTATE_UUID: Final = VMStateDescription(
    "configuration/uuid",
    minimum_version_id=1,
    fields=(fields.buffer("uuid", UUID_SIZE),),
    needed=lambda state: state.machine.uuid is not None,
    post_load=_uuid_post_load,
)
VMSTATE_CONFIGURATION: Final = VMStateDescription(
    "configuration",
    fields=(fields.uint32("len"), fields.vbuffer("name", "len", alloc=True)),
    subsections=(VMSTATE_TARGET_PAGE_BITS, VMSTATE_CAPABILITIES, VMSTATE_UUID),
    pre_load=_pre_load,
    post_load=_post_load,
)
