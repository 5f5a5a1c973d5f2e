"""Descriptions with one field changed."""

from dataclasses import replace
from typing import Any

from savevm.vmstate.description import VMStateDescription


def with_field(
    vmsd: VMStateDescription, path: tuple[str, ...], **changes: Any
) -> VMStateDescription:
    """``vmsd`` with the field at ``path`` changed; the rest is shared.

    Args:
        vmsd: is left as it is.
        path: names of fields, from the outermost struct inwards.
        changes: attributes of the field and their new values.

    Raises:
        KeyError: there is no such field.
    """
    name, inner = path[0], path[1:]
    fields = list(vmsd.fields)
    for index, field in enumerate(fields):
        if field.name != name:
            continue
        if inner:
            if field.vmsd is None:
                raise KeyError(f"{vmsd.name}: {name} is no struct")
            fields[index] = replace(field, vmsd=with_field(field.vmsd, inner, **changes))
        else:
            fields[index] = replace(field, **changes)
        return replace(vmsd, fields=tuple(fields))
    raise KeyError(f"{vmsd.name} has no field {name}")
