"""Containers on the wire: QTAILQ, QLIST, GTREE, and temporaries.

A list travels as 0x01 before each element and 0x00 at its end; a tree says
first how many pairs follow.  Loading fills a new container and hands it over
whole, so that a second load replaces and never appends.  Source: QEMU
``migration/vmstate-types.c``.
"""

from typing import Any, Final

from savevm.constants import MAX_ELEMENTS
from savevm.errors import LoadError
from savevm.qemufile import QEMUFileReader, QEMUFileWriter
from savevm.recording import NodeKind, Role
from savevm.state import State
from savevm.vmstate.description import Opaque, Vmdesc, VMStateField, VMStateInfo
from savevm.vmstate.loading import vmstate_load_state
from savevm.vmstate.saving import vmstate_save_state

_MORE: Final = 1
_END: Final = 0


def _element(f: QEMUFileReader, field: VMStateField, index: int) -> Any:
    assert field.vmsd is not None, field.name
    assert field.new is not None, field.name
    element = field.new()
    recorder = f.recorder
    if recorder is not None:
        recorder.enter(NodeKind.ELEMENT, f"[{index}]", f.tell(), field.vmsd.name)
    try:
        vmstate_load_state(f, field.vmsd, element, field.vmsd.version_id)
    except LoadError as error:
        raise error.within(f"[{index}]") from None
    finally:
        if recorder is not None:
            recorder.leave(f.tell())
    return element


def _more(f: QEMUFileReader, index: int) -> bool:
    offset = f.tell()
    marker = f.get_byte(Role.MARKER)
    if marker not in (_MORE, _END):
        raise LoadError(
            f"expected list marker 0 or 1, read {marker:#x}",
            offset=offset,
            expected=_MORE,
            actual=marker,
        )
    if marker == _MORE and index >= MAX_ELEMENTS:
        raise LoadError(f"more than {MAX_ELEMENTS} elements", offset=offset, expected=MAX_ELEMENTS)
    return marker == _MORE and not f.get_error()


def _get_list(
    f: QEMUFileReader, _cur: Any, _size: int, field: VMStateField, _o: Opaque
) -> list[Any]:
    elements: list[Any] = []
    while _more(f, len(elements)):
        elements.append(_element(f, field, len(elements)))
    return elements


def _put_list(
    f: QEMUFileWriter, value: list[Any], _size: int, field: VMStateField, _o: Opaque
) -> None:
    assert field.vmsd is not None, field.name
    for element in value:
        f.put_byte(_MORE)
        vmstate_save_state(f, field.vmsd, element, None)
    f.put_byte(_END)


QTAILQ: Final = VMStateInfo("qtailq", _get_list, _put_list)
QLIST: Final = VMStateInfo("qlist", _get_list, _put_list)


def _get_gtree(
    f: QEMUFileReader, _cur: Any, _size: int, field: VMStateField, _o: Opaque
) -> dict[int, Any]:
    offset = f.tell()
    announced = f.get_be32(Role.COUNT)
    if announced > MAX_ELEMENTS:
        raise LoadError(
            f"tree of {announced} nodes, at most {MAX_ELEMENTS} are read",
            offset=offset,
            expected=MAX_ELEMENTS,
            actual=announced,
        )
    tree: dict[int, Any] = {}
    loaded = 0
    while _more(f, loaded):
        if loaded >= announced:
            raise LoadError(
                f"expected {announced} nodes, another one follows",
                offset=f.tell() - 1,
                expected=announced,
                actual=loaded + 1,
                qemu=f"{field.name} inconsistent stream when loading the gtree",
            )
        at = f.tell()
        key = _get_key(f, field)
        if key in tree:
            # QEMU b0ee78ff31: a second entry of one key leaks or overwrites.
            f.complain(LoadError(f"key {key:#x} comes twice", offset=at, actual=key))
        tree[key] = _element(f, field, loaded)
        loaded += 1
    if loaded != announced:
        f.complain(
            LoadError(
                f"expected {announced} nodes, read {loaded}",
                offset=offset,
                expected=announced,
                actual=loaded,
                qemu=f"{field.name} inconsistent stream when loading the gtree",
            )
        )
    return tree


def _get_key(f: QEMUFileReader, field: VMStateField) -> int:
    if field.key_vmsd is None:
        return f.get_be64(Role.FIELD)
    holder = State(key=0)
    vmstate_load_state(f, field.key_vmsd, holder, field.key_vmsd.version_id)
    key = holder.__dict__["key"]
    assert isinstance(key, int)
    return key


def _put_gtree(
    f: QEMUFileWriter, value: dict[int, Any], _size: int, field: VMStateField, _o: Opaque
) -> None:
    assert field.vmsd is not None, field.name
    f.put_be32(len(value))
    for key in sorted(value):
        f.put_byte(_MORE)
        if field.key_vmsd is None:
            f.put_be64(key)
        else:
            vmstate_save_state(f, field.key_vmsd, State(key=key), None)
        vmstate_save_state(f, field.vmsd, value[key], None)
    f.put_byte(_END)


GTREE: Final = VMStateInfo("gtree", _get_gtree, _put_gtree)


def _get_tmp(
    f: QEMUFileReader, current: Opaque, _size: int, field: VMStateField, _o: Opaque
) -> Opaque:
    assert field.vmsd is not None, field.name
    tmp = _temporary(field, current)
    vmstate_load_state(f, field.vmsd, tmp, field.vmsd.version_id)
    return current


def _put_tmp(f: QEMUFileWriter, value: Opaque, _size: int, field: VMStateField, _o: Opaque) -> None:
    assert field.vmsd is not None, field.name
    vmstate_save_state(f, field.vmsd, _temporary(field, value), None)


def _put_tmp_described(
    f: QEMUFileWriter, value: Opaque, _size: int, field: VMStateField, _o: Opaque, entry: Vmdesc
) -> None:
    # As QEMU has it: the temporary's description becomes part of the field's.
    assert field.vmsd is not None, field.name
    vmstate_save_state(f, field.vmsd, _temporary(field, value), entry)


def _temporary(field: VMStateField, parent: Opaque) -> Opaque:
    assert field.new is not None, field.name
    tmp = field.new()
    tmp.parent = parent
    return tmp


TMP: Final = VMStateInfo("tmp", _get_tmp, _put_tmp, put_described=_put_tmp_described)
