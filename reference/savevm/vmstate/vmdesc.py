"""What a save says about itself: the fields part of the vmdesc JSON.

Key order and array compression are those of QEMU 7.2, whose JSON this matches
byte for byte.  Source: QEMU ``migration/vmstate.c``, ``vmsd_desc_field_start``
and ``vmsd_can_compress``.
"""

import json

from savevm.vmstate.description import (
    Vmdesc,
    VMSFlags,
    VMStateDescription,
    VMStateField,
    repeated_names,
)


class VmdescFields:
    """Collects the ``fields`` array of one description while it is saved."""

    def __init__(self, vmsd: VMStateDescription) -> None:
        self.entries: list[Vmdesc] = []
        self._names = repeated_names(vmsd)

    def begin(self, position: int, field: VMStateField, index: int, count: int) -> Vmdesc:
        """A new entry for element ``index`` of ``count``; its size comes later."""
        entry: Vmdesc = {"name": self._names[position]}
        if count > 1:
            if self.compressible(field):
                entry["array_len"] = count
            else:
                entry["index"] = index
        entry["type"] = field.type_name()
        self.entries.append(entry)
        return entry

    def compressible(self, field: VMStateField) -> bool:
        """Whether all elements look alike, so that the first speaks for all."""
        if field.field_exists is not None:
            return False
        if field.flags & VMSFlags.ARRAY_OF_POINTER:
            # A NULL element is one byte, whatever the others are.
            return False
        if field.flags & VMSFlags.STRUCT:
            assert field.vmsd is not None
            return not field.vmsd.subsections and all(
                self.compressible(inner) for inner in field.vmsd.fields
            )
        return True


def to_json(description: Vmdesc) -> bytes:
    """The text that goes behind the vmdesc's length."""
    return json.dumps(description).encode("ascii")
