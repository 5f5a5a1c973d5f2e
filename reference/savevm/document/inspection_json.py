"""The JSON shape of an inspection, which scripts may rely on."""

from typing import TYPE_CHECKING, TypeAlias

from savevm.document.nodes import Value

if TYPE_CHECKING:
    from savevm.document.inspection import FieldLine, Inspection, SectionReport

Json: TypeAlias = "int | float | str | bool | list[Json] | dict[str, Json] | None"


def as_json(inspection: "Inspection") -> dict[str, Json]:
    """The shape that scripts may rely on: size, sections with fields, problems;
    and machine, RAM sums and vmdesc beside them.  Bytes are hexadecimal; whatever is
    in the stream, it can be written as UTF-8."""
    vmdesc = inspection.vmdesc
    return {
        "size": inspection.size,
        "machine": None if inspection.machine is None else text_json(inspection.machine),
        "sections": [_section_json(section) for section in inspection.sections],
        "others": [_line_json(line) for line in inspection.others],
        "vmdesc": None
        if vmdesc is None
        else {
            "start": vmdesc.start,
            "end": vmdesc.end,
            "page_size": vmdesc.page_size,
            "devices": vmdesc.devices,
        },
        "problems": [
            {
                "start": problem.start,
                "path": text_json(problem.path),
                "message": text_json(problem.message),
            }
            for problem in inspection.problems
        ],
        "problems_dropped": inspection.problems_dropped,
    }


def _section_json(section: "SectionReport") -> dict[str, Json]:
    ram = section.ram
    return {
        "type": section.type,
        "section_id": section.section_id,
        "idstr": text_json(section.idstr),
        "instance_id": section.instance_id,
        "version_id": section.version_id,
        "start": section.start,
        "end": section.end,
        "fields": [_line_json(line) for line in section.fields],
        "fields_dropped": section.fields_dropped,
        "opaque_bytes": section.opaque_bytes,
        "ram": None
        if ram is None
        else {
            "pages": ram.pages,
            "zero_pages": ram.zero_pages,
            "xbzrle_pages": ram.xbzrle_pages,
            "blocks": [
                {
                    "name": text_json(block.name),
                    "length": block.length,
                    "pages": block.pages,
                    "zero_pages": block.zero_pages,
                    "xbzrle_pages": block.xbzrle_pages,
                }
                for block in ram.blocks
            ],
        },
    }


def _line_json(line: "FieldLine") -> dict[str, Json]:
    return {
        "path": text_json(line.path),
        "start": line.start,
        "end": line.end,
        "type": text_json(line.type),
        "value": _value_json(line.value),
    }


def _value_json(value: Value) -> Json:
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, str):
        return text_json(value)
    if isinstance(value, list):
        return [_value_json(item) for item in value]
    return value


def text_json(text: str) -> str:
    """``text`` in a form that every JSON encoder takes: lone surrogates, which
    UTF-8 has no bytes for, are written out (``\\ud800``)."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
