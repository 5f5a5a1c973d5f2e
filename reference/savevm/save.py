"""Saving a machine: header, live rounds, END and FULL sections, EOF, vmdesc.

The functions carry the seed's names and order of work.  A handler that fails
sets the error state of the file, as in C; the whole save then ends in a
:class:`SaveError`.  Source: QEMU ``migration/savevm.c``.
"""

from errno import EINVAL, EIO
from os import strerror
from typing import Final

from savevm.configuration import VMSTATE_CONFIGURATION, ConfigurationState
from savevm.constants import (
    QEMU_VM_CONFIGURATION,
    QEMU_VM_EOF,
    QEMU_VM_FILE_MAGIC,
    QEMU_VM_FILE_VERSION,
    QEMU_VM_SECTION_END,
    QEMU_VM_SECTION_FOOTER,
    QEMU_VM_SECTION_FULL,
    QEMU_VM_SECTION_PART,
    QEMU_VM_SECTION_START,
    QEMU_VM_VMDESCRIPTION,
)
from savevm.errors import SaveError
from savevm.machine import Machine
from savevm.qemufile import BytesSink, QEMUFileWriter
from savevm.registry import MigrationParams, SaveStateEntry
from savevm.trace import Trace
from savevm.vmstate import vmstate_save_state
from savevm.vmstate.description import Vmdesc
from savevm.vmstate.vmdesc import to_json

ROUNDS_MAX: Final = 1_000_000
"""Rounds of one save.  A handler that never converges must not hold it for
ever; a terabyte of RAM at the smallest useful round stays below this."""


def qemu_savevm_state_blocked(machine: Machine) -> str | None:
    """Why the machine's state cannot be saved or loaded now, or ``None``."""
    for se in machine.savevm.handlers:
        if se.vmsd is not None and se.vmsd.unmigratable:
            return f"State blocked by non-migratable device '{se.idstr}'"
    return None


def save_section_header(f: QEMUFileWriter, se: SaveStateEntry, section_type: int) -> None:
    """What opens a section; START and FULL also say whose it is."""
    f.put_byte(section_type)
    f.put_be32(se.section_id)
    if section_type in (QEMU_VM_SECTION_FULL, QEMU_VM_SECTION_START):
        f.put_counted_string(se.idstr)
        f.put_be32(se.instance_id)
        f.put_be32(se.version_id)


def save_section_footer(f: QEMUFileWriter, machine: Machine, se: SaveStateEntry) -> None:
    """What closes a section, unless the machine is too old to send it."""
    if not machine.skip_section_footers:
        f.put_byte(QEMU_VM_SECTION_FOOTER)
        f.put_be32(se.section_id)


def qemu_savevm_state_header(f: QEMUFileWriter, machine: Machine) -> None:
    """Magic, version, and the configuration if the machine sends one."""
    _trace(f, "savevm_state_header")
    f.put_be32(QEMU_VM_FILE_MAGIC)
    f.put_be32(QEMU_VM_FILE_VERSION)
    if machine.send_configuration:
        f.put_byte(QEMU_VM_CONFIGURATION)
        vmstate_save_state(f, VMSTATE_CONFIGURATION, ConfigurationState(machine), None)


def qemu_savevm_state_begin(f: QEMUFileWriter, machine: Machine, params: MigrationParams) -> None:
    """Early FULL sections, then a START section of every active live handler."""
    _trace(f, "savevm_state_begin")
    for se in machine.savevm.handlers:
        if se.ops is not None and se.ops.set_params is not None:
            se.ops.set_params(params, se.opaque)
    machine.savevm.described = []
    for se in machine.savevm.handlers:
        if se.early:
            _save_full_section(f, machine, se, _described(machine, se))
    for se in machine.savevm.handlers:
        if se.ops is None or se.ops.save_live_setup is None or not _active(se):
            continue
        save_section_header(f, se, QEMU_VM_SECTION_START)
        ret = se.ops.save_live_setup(f, se.opaque)
        save_section_footer(f, machine, se)
        if ret < 0:
            f.set_error(ret)
            break


def qemu_savevm_state_iterate(f: QEMUFileWriter, machine: Machine) -> int:
    """One round: a PART section of each active live handler in turn.

    Returns:
        Negative errno; 0 to be called again; positive when every handler says
        that this stage is complete.  A handler that is not finished keeps the
        later ones waiting, so that what changes faster is sent less often.
    """
    ret = 1
    _trace(f, "savevm_state_iterate")
    for se in machine.savevm.handlers:
        if se.ops is None or se.ops.save_live_iterate is None or not _active(se):
            continue
        if se.ops.is_active_iterate is not None and not se.ops.is_active_iterate(se.opaque):
            continue
        if f.rate_limited():
            return 0
        _trace(f, "savevm_section_start", se.idstr, se.section_id)
        save_section_header(f, se, QEMU_VM_SECTION_PART)
        ret = se.ops.save_live_iterate(f, se.opaque)
        _trace(f, "savevm_section_end", se.idstr, se.section_id, ret)
        save_section_footer(f, machine, se)
        if ret < 0:
            f.set_error(ret)
        if ret <= 0:
            break
    return ret


def should_send_vmdesc(machine: Machine) -> bool:
    """Whether the stream ends with its own description."""
    return not machine.suppress_vmdesc


def qemu_savevm_state_complete(f: QEMUFileWriter, machine: Machine) -> None:
    """END of the live handlers, FULL of all others, EOF, vmdesc; then flush.

    A live handler that fails ends it: the error state is set and the stream
    has no EOF.

    Raises:
        SaveError: a device's ``pre_save`` refuses.
    """
    _trace(f, "savevm_state_complete")
    machine.cpu_synchronize_all_states()
    for se in machine.savevm.handlers:
        if se.ops is None or se.ops.save_live_complete is None or not _active(se):
            continue
        _trace(f, "savevm_section_start", se.idstr, se.section_id)
        save_section_header(f, se, QEMU_VM_SECTION_END)
        ret = se.ops.save_live_complete(f, se.opaque)
        _trace(f, "savevm_section_end", se.idstr, se.section_id, ret)
        save_section_footer(f, machine, se)
        if ret < 0:
            f.set_error(ret)
            return
    for se in machine.savevm.handlers:
        if not se.full or se.early:
            continue
        _trace(f, "savevm_section_start", se.idstr, se.section_id)
        _save_full_section(f, machine, se, _described(machine, se))
        _trace(f, "savevm_section_end", se.idstr, se.section_id, 0)
    f.put_byte(QEMU_VM_EOF)
    if should_send_vmdesc(machine):
        text = to_json({"page_size": machine.page_size, "devices": machine.savevm.described})
        machine.savevm.described = []
        f.put_byte(QEMU_VM_VMDESCRIPTION)
        f.put_be32(len(text))
        f.put_buffer(text)
    f.flush()


def qemu_savevm_state_pending(f: QEMUFileWriter, machine: Machine, max_size: int) -> int:
    """Bytes that the active live handlers still have to send."""
    return sum(
        se.ops.save_live_pending(f, se.opaque, max_size)
        for se in machine.savevm.handlers
        if se.ops is not None and se.ops.save_live_pending is not None and _active(se)
    )


def qemu_savevm_state_cancel(machine: Machine, trace: Trace | None = None) -> None:
    """Tell every handler that the save will not be finished."""
    if trace is not None:
        trace("savevm_state_cancel")
    for se in machine.savevm.handlers:
        if se.ops is not None and se.ops.cancel is not None:
            se.ops.cancel(se.opaque)


def qemu_savevm_state(f: QEMUFileWriter, machine: Machine) -> None:
    """Save the whole machine, as the savevm command does.

    Raises:
        SaveError: the state is blocked, or writing it failed; the handlers
            have been told to cancel.
    """
    blocked = qemu_savevm_state_blocked(machine)
    if blocked is not None:
        raise SaveError(blocked, errno=EINVAL)
    try:
        qemu_savevm_state_header(f, machine)
        qemu_savevm_state_begin(f, machine, MigrationParams())
        rounds = 0
        while not f.get_error():
            if qemu_savevm_state_iterate(f, machine) > 0:
                break
            f.reset_rate_limit()
            rounds += 1
            if rounds == ROUNDS_MAX:
                f.set_error(-EIO)
        if not f.get_error():
            qemu_savevm_state_complete(f, machine)
    except BaseException:
        # Also a device that raises, or a cancellation: handlers have to be told.
        qemu_savevm_state_cancel(machine, f.trace)
        raise
    error = f.get_error()
    if error:
        qemu_savevm_state_cancel(machine, f.trace)
        raise SaveError(f"Error while writing VM state: {strerror(-error)}", errno=-error)


def qemu_save_device_state(f: QEMUFileWriter, machine: Machine) -> None:
    """Save everything but RAM, without configuration and vmdesc (Xen).

    Raises:
        SaveError: a device's ``pre_save`` refuses or writing failed.
    """
    f.put_be32(QEMU_VM_FILE_MAGIC)
    f.put_be32(QEMU_VM_FILE_VERSION)
    machine.cpu_synchronize_all_states()
    for se in machine.savevm.handlers:
        if se.is_ram or not se.full:
            continue
        _save_full_section(f, machine, se, None)
    f.put_byte(QEMU_VM_EOF)
    f.flush()
    error = f.get_error()
    if error:
        raise SaveError(f"Error while writing VM state: {strerror(-error)}", errno=-error)


def save_to_bytes(machine: Machine, *, trace: Trace | None = None) -> bytes:
    """Save the whole machine into memory.

    Raises:
        SaveError: as :func:`qemu_savevm_state`.
    """
    sink = BytesSink()
    f = QEMUFileWriter(sink, trace=trace)
    qemu_savevm_state(f, machine)
    f.close()
    return bytes(sink.data)


def _described(machine: Machine, se: SaveStateEntry) -> Vmdesc | None:
    """A new vmdesc entry for a section, if the machine sends them."""
    if not should_send_vmdesc(machine):
        return None
    entry: Vmdesc = {"name": se.idstr, "instance_id": se.instance_id}
    machine.savevm.described.append(entry)
    return entry


def _save_full_section(
    f: QEMUFileWriter, machine: Machine, se: SaveStateEntry, vmdesc: Vmdesc | None
) -> None:
    save_section_header(f, se, QEMU_VM_SECTION_FULL)
    vmstate_save(f, se, vmdesc)
    save_section_footer(f, machine, se)


def vmstate_save(f: QEMUFileWriter, se: SaveStateEntry, vmdesc: Vmdesc | None) -> None:
    """The body of a FULL section, described or old-style."""
    _trace(f, "vmstate_save", se.idstr, se.vmsd.name if se.vmsd is not None else "(old)")
    if se.vmsd is None:
        vmstate_save_old_style(f, se, vmdesc)
    else:
        vmstate_save_state(f, se.vmsd, se.opaque, vmdesc)


def vmstate_save_old_style(f: QEMUFileWriter, se: SaveStateEntry, vmdesc: Vmdesc | None) -> None:
    """The body of an old-style device: to vmdesc one buffer called "data"."""
    assert se.ops is not None
    assert se.ops.save_state is not None
    start = f.tell()
    se.ops.save_state(f, se.opaque)
    if vmdesc is not None:
        size = f.tell() - start
        vmdesc["size"] = size
        vmdesc["fields"] = [{"name": "data", "size": size, "type": "buffer"}]


def _active(se: SaveStateEntry) -> bool:
    assert se.ops is not None
    return se.ops.is_active is None or se.ops.is_active(se.opaque)


def _trace(f: QEMUFileWriter, name: str, *arguments: int | str) -> None:
    if f.trace is not None:
        f.trace(name, *arguments)
