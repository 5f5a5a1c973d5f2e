"""The vmstate dump: every description of a machine as JSON, without its state.

Same keys, order and layout as ``qemu-system-* -dump-vmstate FILE``, so that
QEMU's ``scripts/vmstate-static-checker.py`` and a diff can compare the two.
Source: ``dump_vmstate_json_to_file`` of QEMU ``migration/savevm.c``.
"""

import json
from collections.abc import Iterable, Iterator
from typing import Final, TextIO

from savevm.constants import MAX_VMSTATE_DEPTH
from savevm.machine import Machine
from savevm.vmstate.containers import GTREE
from savevm.vmstate.description import (
    VMS_VARRAY,
    Vmdesc,
    VMSFlags,
    VMStateDescription,
    VMStateField,
)

_VARIABLE: Final = VMSFlags.MUST_EXIST | VMSFlags.VBUFFER | VMS_VARRAY
"""Fields that add nothing to the size of their struct that is known beforehand."""


def dump_vmstate_json(machine: Machine, file: TextIO) -> None:
    """Write the dump of a machine.

    Every description in the registry appears once, under its name, in the
    order of registration; QEMU lists all device types it knows instead.

    Raises:
        ValueError: descriptions are nested deeper than any loader follows.
        OSError: from ``file``.
    """
    json.dump(vmstate_dump(machine.machine_type, _described(machine)), file, indent=2)
    file.write("\n")


def vmstate_dump(machine_type: str, descriptions: Iterable[VMStateDescription]) -> Vmdesc:
    """The dump as an object, ready for :func:`json.dumps`.

    Args:
        machine_type: what ``vmschkmachine`` names.
        descriptions: one per device type; a second one of a name already taken
            is listed as ``name#2``.

    Raises:
        ValueError: descriptions are nested deeper than any loader follows.
    """
    dump: Vmdesc = {"vmschkmachine": {"Name": machine_type}}
    for vmsd in descriptions:
        name, turn = vmsd.name, 1
        while name in dump:
            turn += 1
            name = f"{vmsd.name}#{turn}"
        dump[name] = {
            "Name": name,
            "version_id": vmsd.version_id,
            "minimum_version_id": vmsd.minimum_version_id,
            "Description": _description(vmsd, MAX_VMSTATE_DEPTH),
        }
    return dump


def _described(machine: Machine) -> Iterator[VMStateDescription]:
    seen: set[int] = set()
    for se in machine.savevm.handlers:
        if se.vmsd is not None and id(se.vmsd) not in seen:
            seen.add(id(se.vmsd))
            yield se.vmsd


def _description(vmsd: VMStateDescription, depth: int) -> Vmdesc:
    if depth == 0:
        raise ValueError(f"{vmsd.name}: nested deeper than {MAX_VMSTATE_DEPTH} descriptions")
    described: Vmdesc = {
        "name": vmsd.name,
        "version_id": vmsd.version_id,
        "minimum_version_id": vmsd.minimum_version_id,
    }
    # An empty table here stands for a NULL one there: the key is left out.
    if vmsd.fields:
        described["Fields"] = [
            _field(field, depth) for field in vmsd.fields if not field.flags & VMSFlags.MUST_EXIST
        ]
    if vmsd.subsections:
        described["Subsections"] = [_description(sub, depth - 1) for sub in vmsd.subsections]
    return described


def _field(field: VMStateField, depth: int) -> Vmdesc:
    described: Vmdesc = {
        "field": field.name,
        "version_id": field.version_id,
        "field_exists": field.field_exists is not None,
        "size": field.size or _struct_size(field, depth),
    }
    if field.vmsd is not None:
        described["Description"] = _description(field.vmsd, depth - 1)
    return described


def _struct_size(field: VMStateField, depth: int) -> int:
    """Bytes of a nested state: C has ``sizeof``, here its fixed parts add up."""
    if field.vmsd is None or field.info is GTREE:
        return 0  # VMSTATE_GTREE_V does not say a size either
    return _fixed_size(field.vmsd, depth - 1)


def _fixed_size(vmsd: VMStateDescription, depth: int) -> int:
    if depth == 0:
        raise ValueError(f"{vmsd.name}: nested deeper than {MAX_VMSTATE_DEPTH} descriptions")
    total = 0
    for field in vmsd.fields:
        if field.flags & _VARIABLE or (field.vmsd is not None and field.info is not None):
            continue
        size = field.size or _struct_size(field, depth)
        total += size * (field.num if field.flags & VMSFlags.ARRAY else 1)
    return total
