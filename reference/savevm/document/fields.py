"""From the reads of a field to the leaf that stands for it."""

from typing import Final, cast

from savevm.document.nodes import Node, Value
from savevm.ram.items import RAMItem, RAMListEntry, kind_name
from savevm.recording import Role

_ATOMS: Final = frozenset({int, bool, float, str, bytes})


def collapse(node: Node, children: list[Node], value: object) -> None:
    """Make a field whose children are its plain reads a leaf."""
    if not children:
        return
    first = children[0]
    if first.element_size:
        # An array that was read at once.
        if len(children) == 1 and (first.start, first.end) == (node.start, node.end):
            node.role, node.element_size, node.value = Role.FIELD, first.element_size, first.value
        return
    size = first.end - first.start
    position = node.start
    for child in children:
        if (
            child.role is not Role.FIELD
            or child.type_name
            or child.start != position
            or child.end - child.start != size
        ):
            return
        position = child.end
    if position != node.end:
        return
    node.role = Role.FIELD
    plain = _plain(value)
    if isinstance(plain, list):
        if len(plain) != len(children):
            plain = None
    elif isinstance(plain, bytes):
        # Of a buffer only a part may travel: what was read is what is there.
        plain = None
    # An array that happens to have one element is an array still.
    several = len(children) > 1 or isinstance(plain, list)
    if several:
        node.element_size = size
    if plain is None or several != isinstance(plain, list):
        values = [child.value for child in children]
        plain = cast(Value, values) if several else values[0]
        if isinstance(plain, list) and plain and None in plain:
            plain = None
    elif not several and _refused(plain, children[0].value, size):
        plain = children[0].value
    node.value = plain


def _refused(loaded: Value, read: Value, size: int) -> bool:
    """Whether a field kept what it had, and not what stands in the stream: one that must
    be equal, and is not."""
    if type(loaded) is not int or type(read) is not int:
        return False
    return (loaded - read) % (1 << 8 * size) != 0


def _plain(value: object) -> Value:
    if type(value) in _ATOMS:
        return cast(Value, value)
    if isinstance(value, (bytearray, memoryview)):
        return bytes(value)
    if isinstance(value, list) and value:
        first = type(value[0])
        if first in _ATOMS:
            return None if None in value else cast(Value, value)
        if first is bytearray:
            return [bytes(item) for item in value]
    return None


def name_ram_item(node: Node, value: object) -> None:
    """Name an item after its block and address, once they are known."""
    if isinstance(value, RAMItem):
        kind = kind_name(value.flags)
        node.name = f"{value.block}/{kind} {value.address:#x}" if value.block else kind
    elif isinstance(value, RAMListEntry):
        node.name = value.idstr
