"""Saving a described state, and describing in a vmdesc what was written.

The mirror of :mod:`savevm.vmstate.loading`.  Source: QEMU
``migration/vmstate.c``, ``vmstate_save_state_v``.
"""

from errno import EINVAL, EPERM
from typing import Any

from savevm.constants import QEMU_VM_SUBSECTION
from savevm.errors import SaveError
from savevm.qemufile import QEMUFileWriter
from savevm.vmstate.compiled import Run, pack_run, plan_for
from savevm.vmstate.description import (
    Opaque,
    Vmdesc,
    VMSFlags,
    VMStateDescription,
    VMStateField,
)
from savevm.vmstate.elements import (
    element_count,
    element_size,
    exists,
    is_array,
    target_of,
)
from savevm.vmstate.fieldtypes import put_pointer_marker
from savevm.vmstate.vmdesc import VmdescFields


def vmstate_save_state(
    f: QEMUFileWriter,
    vmsd: VMStateDescription,
    opaque: Opaque,
    vmdesc: Vmdesc | None,
    version_id: int | None = None,
) -> None:
    """Save a state, and describe in ``vmdesc`` what was written if that is given.

    Args:
        version_id: version to write; the description's own if ``None``.

    Raises:
        SaveError: ``pre_save`` refuses (its number negated is the errno).
    """
    version = vmsd.version_id if version_id is None else version_id
    if vmsd.pre_save is not None:
        result = vmsd.pre_save(opaque)
        if result:
            raise SaveError(f"pre-save failed: {vmsd.name}", errno=abs(result) or EINVAL)
    if vmdesc is None:
        _save_planned(f, vmsd, opaque, version)
        _save_subsections(f, vmsd, opaque, None)
        return
    vmdesc["vmsd_name"] = vmsd.name
    vmdesc["version"] = version
    described = VmdescFields(vmsd)
    for position, field in enumerate(vmsd.fields):
        if exists(field, opaque, version):
            save_field(f, field, opaque, described, position)
        else:
            _check_output(vmsd, field)
    vmdesc["fields"] = described.entries
    _save_subsections(f, vmsd, opaque, vmdesc)


def _save_planned(
    f: QEMUFileWriter, vmsd: VMStateDescription, opaque: Opaque, version_id: int
) -> None:
    for step in plan_for(vmsd, version_id):
        if isinstance(step, Run):
            data = pack_run(step, opaque)
            if data is not None:
                f.put_buffer(data)
                continue
            for field in step.fields:
                save_field(f, field, opaque, None, 0)
        elif exists(step, opaque, version_id):
            save_field(f, step, opaque, None, 0)
        else:
            _check_output(vmsd, step)


def _check_output(vmsd: VMStateDescription, field: VMStateField) -> None:
    if field.flags & VMSFlags.MUST_EXIST:
        # C asserts here: no destination would take such a state.
        raise SaveError(f"Output state validation failed: {vmsd.name}/{field.name}", errno=EPERM)


def save_field(
    f: QEMUFileWriter,
    field: VMStateField,
    opaque: Opaque,
    described: VmdescFields | None,
    position: int,
) -> None:
    """Save one field that exists in this version."""
    if not is_array(field):
        entry = described.begin(position, field, 0, 1) if described is not None else None
        start = f.tell()
        _save_element(f, field, opaque, target_of(field, opaque), entry)
        if entry is not None:
            entry["size"] = f.tell() - start
        return
    count = element_count(field, opaque)
    sequence = getattr(opaque, field.attr) if field.attr else ()
    if count > len(sequence or ()):
        # C would send what lies behind the array.
        raise SaveError(f"{field.name}: {len(sequence or ())} elements, {count} to be saved")
    for index in range(count):
        entry = None
        if described is not None and not (index and described.compressible(field)):
            entry = described.begin(position, field, index, count)
        start = f.tell()
        value = sequence[index]
        if field.flags & VMSFlags.ARRAY_OF_POINTER_AUTO_ALLOC:
            put_pointer_marker(f, value is not None)
        elif field.flags & VMSFlags.ARRAY_OF_POINTER and value is None:
            put_pointer_marker(f, valid=False)
        if value is not None or not field.flags & VMSFlags.ARRAY_OF_POINTER:
            _save_element(f, field, opaque, value, entry)
        if entry is not None:
            entry["size"] = f.tell() - start


def _save_element(
    f: QEMUFileWriter, field: VMStateField, opaque: Opaque, value: Any, entry: Vmdesc | None
) -> None:
    flags = field.flags
    if flags & (VMSFlags.STRUCT | VMSFlags.VSTRUCT):
        assert field.vmsd is not None, field.name
        inner: Vmdesc | None = None
        if entry is not None:
            # As QEMU has it: a struct is an object of its own, a vstruct's
            # description becomes part of the field's.
            inner = entry if flags & VMSFlags.VSTRUCT else {}
            if inner is not entry:
                entry["struct"] = inner
        version = field.struct_version_id if flags & VMSFlags.VSTRUCT else None
        vmstate_save_state(f, field.vmsd, value, inner, version)
    else:
        info = field.info
        assert info is not None, field.name
        size = element_size(field, opaque)
        if entry is not None and info.put_described is not None:
            info.put_described(f, value, size, field, opaque, entry)
        else:
            info.put(f, value, size, field, opaque)


def _save_subsections(
    f: QEMUFileWriter, vmsd: VMStateDescription, opaque: Opaque, vmdesc: Vmdesc | None
) -> None:
    described: list[Vmdesc] = []
    for sub in vmsd.subsections:
        if sub.needed is not None and not sub.needed(opaque):
            continue
        inner: Vmdesc | None = None
        if vmdesc is not None:
            inner = {}
            described.append(inner)
        f.put_byte(QEMU_VM_SUBSECTION)
        f.put_counted_string(sub.name)
        f.put_be32(sub.version_id)
        vmstate_save_state(f, sub, opaque, inner)
    if vmdesc is not None and described:
        vmdesc["subsections"] = described
