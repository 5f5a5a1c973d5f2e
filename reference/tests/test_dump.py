"""The vmstate dump: QEMU's keys, order and layout."""

import io
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from savevm.constants import MAX_VMSTATE_DEPTH
from savevm.dump import dump_vmstate_json, vmstate_dump
from savevm.machine import Machine
from savevm.state import State
from savevm.vmstate import fields, fieldtypes
from savevm.vmstate.description import VMSFlags, VMStateDescription, VMStateField

QEMU_TIMEOUT_S = 60

# What QEMU 7.2 says of one of its devices, to the byte.
ACPI_ERST = """\
{
  "vmschkmachine": {
    "Name": "pc-i440fx-7.2"
  },
  "acpi-erst": {
    "Name": "acpi-erst",
    "version_id": 1,
    "minimum_version_id": 1,
    "Description": {
      "name": "acpi-erst",
      "version_id": 1,
      "minimum_version_id": 1,
      "Fields": [
        {
          "field": "operation",
          "version_id": 0,
          "field_exists": false,
          "size": 1
        },
        {
          "field": "record_offset",
          "version_id": 0,
          "field_exists": false,
          "size": 4
        },
        {
          "field": "reg_value",
          "version_id": 0,
          "field_exists": false,
          "size": 8
        }
      ]
    }
  }
}
"""


def always(opaque: object, version_id: int) -> bool:
    return True


def dump_of(machine: Machine) -> str:
    file = io.StringIO()
    dump_vmstate_json(machine, file)
    return file.getvalue()


def description_of(vmsd: VMStateDescription) -> Any:
    return vmstate_dump("m", [vmsd])[vmsd.name]["Description"]  # type: ignore[index]  # JSON


def test_a_device_is_dumped_as_qemu_dumps_it_byte_for_byte() -> None:
    vmsd = VMStateDescription(
        "acpi-erst",
        version_id=1,
        minimum_version_id=1,
        fields=(
            fields.uint8("operation"),
            fields.uint32("record_offset"),
            fields.uint64("reg_value"),
        ),
    )
    machine = Machine("pc-i440fx-7.2")
    machine.savevm.vmstate_register(None, 0, vmsd, State())
    assert dump_of(machine) == ACPI_ERST


def test_fields_say_version_existence_and_size() -> None:
    vmsd = VMStateDescription(
        "d",
        version_id=3,
        fields=(
            fields.buffer("bytes", 40, version_id=2),
            fields.array("words", fieldtypes.UINT16, 8, exists=always),
            fields.unused(5),
            fields.vbuffer("tail", "size"),
            fields.vbuffer("sectors", "count", multiply=512),
            fields.pointer("p", fieldtypes.UINT64),
        ),
    )
    rows = [tuple(row.values()) for row in description_of(vmsd)["Fields"]]
    assert rows == [
        ("bytes", 2, False, 40),
        ("words", 0, True, 2),
        ("unused", 0, False, 5),
        ("tail", 0, False, 0),
        ("sectors", 0, False, 512),
        ("p", 0, False, 8),
    ]


def test_validations_are_left_out() -> None:
    vmsd = VMStateDescription("d", fields=(fields.validate("ok", always), fields.uint8("a")))
    assert [row["field"] for row in description_of(vmsd)["Fields"]] == ["a"]
    only = VMStateDescription("e", fields=(fields.validate("ok", always),))
    assert description_of(only)["Fields"] == []


def test_a_description_without_fields_or_subsections_has_no_such_key() -> None:
    assert list(description_of(VMStateDescription("d"))) == [
        "name",
        "version_id",
        "minimum_version_id",
    ]


def test_structs_and_subsections_carry_their_descriptions() -> None:
    inner = VMStateDescription("inner", version_id=4, fields=(fields.uint8("a"),))
    sub = VMStateDescription("d/sub", fields=(fields.uint16("b"),), subsections=(inner,))
    vmsd = VMStateDescription("d", fields=(fields.struct("s", inner),), subsections=(sub,))
    described = description_of(vmsd)
    assert list(described) == [
        "name",
        "version_id",
        "minimum_version_id",
        "Fields",
        "Subsections",
    ]
    field = described["Fields"][0]
    assert list(field) == ["field", "version_id", "field_exists", "size", "Description"]
    assert field["Description"]["name"] == "inner"
    assert [below["name"] for below in described["Subsections"]] == ["d/sub"]
    assert described["Subsections"][0]["Subsections"][0]["version_id"] == 4


def test_a_struct_is_as_large_as_its_fixed_parts() -> None:
    inner = VMStateDescription("inner", fields=(fields.uint8("a"), fields.buffer("b", 10)))
    outer = VMStateDescription(
        "outer",
        fields=(
            fields.array("words", fieldtypes.UINT16, 8),
            fields.struct_array("rows", inner, 3),
            fields.struct("row", inner),
            fields.vstruct("old", inner, 1),
            fields.array_of_pointers("pointers", inner, 2),
            fields.validate("ok", always),
            fields.vbuffer("tail", "size"),
            fields.varray("more", fieldtypes.UINT32, "count"),
            fields.qtailq("queue", inner, State),
        ),
    )
    vmsd = VMStateDescription("d", fields=(fields.struct("all", outer),))
    field = description_of(vmsd)["Fields"][0]
    assert field["size"] == 16 + 33 + 11 + 11 + 16
    sizes = {row["field"]: row["size"] for row in field["Description"]["Fields"]}
    assert sizes == {
        "words": 2,
        "rows": 11,
        "row": 11,
        "old": 11,
        "pointers": 8,
        "tail": 0,
        "more": 4,
        "queue": 11,
    }


def test_a_tree_says_no_size_as_in_qemu() -> None:
    inner = VMStateDescription("inner", fields=(fields.uint8("a"),))
    vmsd = VMStateDescription("d", fields=(fields.gtree("tree", inner, State),))
    assert description_of(vmsd)["Fields"][0]["size"] == 0


def test_a_description_is_listed_once_and_old_style_devices_not_at_all() -> None:
    machine, vmsd = Machine("m"), VMStateDescription("d")
    machine.savevm.vmstate_register(None, 0, vmsd, State())
    machine.savevm.vmstate_register(None, 1, vmsd, State())
    machine.savevm.register_savevm(None, "old", 0, 1, lambda f, o: None, lambda f, o, v: 0, None)
    assert list(json.loads(dump_of(machine))) == ["vmschkmachine", "d"]


def test_two_descriptions_of_one_name_are_both_listed() -> None:
    machine = Machine("m")
    for version_id in (1, 2, 3):
        vmsd = VMStateDescription("d", version_id=version_id)
        machine.savevm.vmstate_register(None, version_id, vmsd, State())
    dump = json.loads(dump_of(machine))
    assert list(dump) == ["vmschkmachine", "d", "d#2", "d#3"]
    assert [dump[name]["version_id"] for name in ("d", "d#2", "d#3")] == [1, 2, 3]


def test_any_name_gives_valid_json() -> None:
    machine = Machine('quo"te')
    vmsd = VMStateDescription("\xff\n", fields=(fields.uint8("back\\slash"),))
    machine.savevm.vmstate_register(None, 0, vmsd, State())
    dump = json.loads(dump_of(machine))
    assert dump["vmschkmachine"]["Name"] == 'quo"te'
    assert dump["\xff\n"]["Description"]["Fields"][0]["field"] == "back\\slash"


@pytest.mark.parametrize("below", ["fields", "subsections"])
def test_a_description_nested_past_all_reason_is_refused(below: str) -> None:
    vmsd = VMStateDescription("bottom")
    for _ in range(MAX_VMSTATE_DEPTH - 1):
        vmsd = _nest(vmsd, below)
    vmstate_dump("m", [vmsd])
    with pytest.raises(ValueError, match="nested deeper than 32"):
        vmstate_dump("m", [_nest(vmsd, below)])


def _nest(vmsd: VMStateDescription, below: str) -> VMStateDescription:
    if below == "fields":
        return VMStateDescription("d", fields=(fields.struct("s", vmsd),))
    return VMStateDescription("d", subsections=(vmsd,))


# -- QEMU itself -------------------------------------------------------------------------------


def _rebuilt(described: dict[str, Any]) -> VMStateDescription:
    """The description that a part of QEMU's dump speaks of."""
    return VMStateDescription(
        described["name"],
        described["version_id"],
        described["minimum_version_id"],
        fields=tuple(
            VMStateField(
                row["field"],
                row["field"],
                fieldtypes.BUFFER,
                VMSFlags.BUFFER,
                row["size"],
                version_id=row["version_id"],
                field_exists=always if row["field_exists"] else None,
                vmsd=_rebuilt(row["Description"]) if "Description" in row else None,
            )
            for row in described.get("Fields", ())
        ),
        subsections=tuple(_rebuilt(below) for below in described.get("Subsections", ())),
    )


def _without_empty_tables(part: Any) -> Any:
    if isinstance(part, dict):
        return {key: _without_empty_tables(item) for key, item in part.items() if item != []}
    return [_without_empty_tables(item) for item in part] if isinstance(part, list) else part


@pytest.mark.qemu
def test_everything_a_real_qemu_dumps_comes_out_of_our_dump_too(
    qemu_binary: str, tmp_path: Path
) -> None:
    path = tmp_path / "dump.json"
    subprocess.run(
        [qemu_binary, "-M", "none", "-display", "none", "-dump-vmstate", path],
        check=True,
        timeout=QEMU_TIMEOUT_S,
    )
    theirs = json.loads(path.read_text())
    machine_type = theirs.pop("vmschkmachine")["Name"]
    assert len(theirs) > 50
    for name, device in theirs.items():
        vmsd = _rebuilt(device["Description"])
        ours = vmstate_dump(machine_type, [vmsd])
        assert list(ours) == ["vmschkmachine", vmsd.name]
        entry = ours[vmsd.name]
        assert isinstance(entry, dict)
        entry["Name"] = name
        # Compared as text: the order of keys counts.
        assert json.dumps(entry) == json.dumps(_without_empty_tables(device))
