"""Loading a described state, field by field.

This is the plain form: it serves tracing, recording and every field kind.
:mod:`savevm.vmstate.compiled` loads runs of fixed-size fields in one step and
falls back to this module for everything else, so that results and errors are
the same.  Source: QEMU ``migration/vmstate.c``, ``vmstate_load_state``.
"""

from collections.abc import MutableSequence
from errno import EINVAL, EIO, ENOENT, EPERM
from struct import unpack_from
from typing import Any, Final

from savevm.constants import QEMU_VM_SUBSECTION
from savevm.errors import LoadError
from savevm.qemufile import QEMUFileReader
from savevm.recording import NodeKind, Role
from savevm.vmstate.compiled import Run, load_run, plan_for
from savevm.vmstate.description import (
    VMS_NOT_INLINE,
    Opaque,
    VMSFlags,
    VMStateDescription,
    VMStateField,
)
from savevm.vmstate.elements import (
    as_claimed,
    element_count,
    element_size,
    exists,
    is_array,
    load_sequence,
    target_of,
)
from savevm.vmstate.fieldtypes import get_pointer_marker

_SUBSECTION_HEADER = 2  # mark and length byte

AT_ONCE_MIN: Final = 16
"""Elements from which on reading them together is quicker than one by one."""


def vmstate_load_state(
    f: QEMUFileReader, vmsd: VMStateDescription, opaque: Opaque, version_id: int
) -> int:
    """Load a state that was saved in version ``version_id`` of its description.

    Returns:
        0; under ``positive_return_succeeds`` also the positive number with
        which a hook ended this load, whose fields are then not all read.

    Raises:
        LoadError: the version is not readable (EINVAL), a field or hook
            refuses, or the stream ends.  ``opaque`` may be partly loaded.
    """
    trace = f.trace
    if trace is not None:
        trace("vmstate_load_state", vmsd.name, version_id)
    if version_id > vmsd.version_id:
        raise _version_error(f, vmsd, version_id)
    if version_id < vmsd.minimum_version_id:
        if vmsd.load_state_old is None or version_id < vmsd.minimum_version_id_old:
            raise _version_error(f, vmsd, version_id)
        return check_result(f, vmsd.load_state_old(f, opaque, version_id), "load_state_old")
    if vmsd.pre_load is not None:
        result = check_result(f, vmsd.pre_load(opaque), "pre_load")
        if result:
            return result
    if f.recorder is None and not f.trace_fields:
        _load_planned(f, vmsd, opaque, version_id)
    else:
        for field in vmsd.fields:
            load_field(f, vmsd, field, opaque, version_id)
    result = _load_subsections(f, vmsd, opaque)
    if result:
        return result
    if vmsd.post_load is not None:
        try:
            result = check_result(f, vmsd.post_load(opaque, version_id), "post_load")
        except LoadError as error:
            if trace is not None:
                trace("vmstate_load_state_end", vmsd.name, "end", -error.errno)
            # What a hook objects to is a value: the layout behind it is known.
            f.complain(error)
            return 0
    if trace is not None:
        trace("vmstate_load_state_end", vmsd.name, "end", result)
    return result


def _load_planned(
    f: QEMUFileReader, vmsd: VMStateDescription, opaque: Opaque, version_id: int
) -> None:
    for step in plan_for(vmsd, version_id):
        if isinstance(step, Run):
            if not load_run(f, step, opaque):
                for field in step.fields:
                    load_field(f, vmsd, field, opaque, version_id)
        else:
            load_field(f, vmsd, step, opaque, version_id)


def _version_error(f: QEMUFileReader, vmsd: VMStateDescription, version_id: int) -> LoadError:
    old = version_id < vmsd.minimum_version_id
    text, bound = ("old", vmsd.minimum_version_id) if old else ("new", vmsd.version_id)
    if f.trace is not None:
        f.trace("vmstate_load_state_end", vmsd.name, f"too {text}", -EINVAL)
    return LoadError(
        f"version {version_id} is too {text}, versions {vmsd.minimum_version_id} to "
        f"{vmsd.version_id} are read",
        offset=f.tell(),
        expected=bound,
        actual=version_id,
        qemu=f"{vmsd.name}: incoming version_id {version_id} is too {text} for local "
        f"{'minimum ' if old else ''}version_id {bound}",
    )


def check_result(f: QEMUFileReader, result: int | None, hook: str) -> int:
    """Turn the refusal of a hook (any number but 0) into a LoadError.

    Returns:
        0, or the positive number that the seed takes for success.
    """
    if not result:
        return 0
    if result > 0 and f.profile.positive_return_succeeds:
        return result
    raise LoadError(
        f"{hook} refused with {result}",
        errno=abs(result),
        offset=f.tell(),
        expected=0,
        actual=result,
    )


def load_field(
    f: QEMUFileReader,
    vmsd: VMStateDescription,
    field: VMStateField,
    opaque: Opaque,
    version_id: int,
) -> None:
    """Load one field if this version has it."""
    if f.trace_fields and f.trace is not None:
        f.trace("vmstate_load_state_field", vmsd.name, field.name)
    if not exists(field, opaque, version_id):
        if field.flags & VMSFlags.MUST_EXIST:
            f.complain(
                LoadError(
                    "input validation failed",
                    errno=EPERM,
                    offset=f.tell(),
                    path=(field.name,),
                    qemu=f"Input validation failed: {vmsd.name}/{field.name}",
                )
            )
        return
    recorder = f.recorder
    if recorder is None:
        _load_value(f, field, opaque)
        return
    recorder.enter(NodeKind.FIELD, field.name, f.tell(), field.type_name())
    try:
        _load_value(f, field, opaque)
    finally:
        recorder.leave(f.tell())


def _load_value(f: QEMUFileReader, field: VMStateField, opaque: Opaque) -> None:
    if is_array(field):
        _load_array(f, field, opaque)
        return
    start = f.tell()
    try:
        value = _load_element(f, field, opaque, target_of(field, opaque))
    except LoadError as error:
        if f.trace is not None:
            f.trace("vmstate_load_field_error", field.name, -error.errno)
        raise error.within(field.name) from None
    if field.attr:
        setattr(opaque, field.attr, value)
    if f.recorder is not None and field.vmsd is None and f.tell() > start:
        f.recorder.value(value)


def _load_array(f: QEMUFileReader, field: VMStateField, opaque: Opaque) -> None:
    count = as_claimed(f, element_count(field, opaque))
    index = 0
    start = f.tell()
    recorder = f.recorder
    try:
        if f.trace_fields and f.trace is not None:
            f.trace("vmstate_n_elems", field.name, count)
        if field.flags & VMSFlags.MUST_EXIST and not count:
            return
        sequence = load_sequence(f, field, opaque, count)
        alloc = bool(field.flags & VMSFlags.ALLOC)
        at_once = recorder is not None and _load_integers(f, field, sequence, count)
        for index in range(0 if at_once else count):
            if alloc:
                current = field.new() if field.new is not None else 0
            else:
                current = sequence[index]
            if recorder is not None and field.vmsd is not None:
                recorder.enter(NodeKind.ELEMENT, f"[{index}]", f.tell(), field.type_name())
                try:
                    value = _load_pointed(f, field, opaque, current)
                finally:
                    recorder.leave(f.tell())
            else:
                value = _load_pointed(f, field, opaque, current)
            if alloc:
                sequence.append(value)
            else:
                sequence[index] = value
        if alloc:
            setattr(opaque, field.attr, sequence)
    except LoadError as error:
        if f.trace is not None:
            f.trace("vmstate_load_field_error", field.name, -error.errno)
        raise error.within(f"{field.name}[{index}]") from None
    if recorder is not None and field.vmsd is None and f.tell() > start:
        recorder.value(list(sequence[: max(count, 0)]))


def _load_integers(
    f: QEMUFileReader, field: VMStateField, sequence: MutableSequence[Any], count: int
) -> bool:
    """Load and record a long array of integers in one step, if all of it is at hand.

    A network card has tens of thousands of registers in one array; read one by one they
    are nearly all of what parsing a real machine's stream takes.

    Returns:
        False when nothing was consumed.
    """
    info, recorder = field.info, f.recorder
    if (
        count < AT_ONCE_MIN
        or info is None
        or recorder is None
        or not info.code
        or field.flags & VMS_NOT_INLINE
        or type(sequence) is not list
        or f.get_error()
    ):
        return False
    size = count * info.size
    buffer, position, end = f.window(size)
    if end - position < size:
        return False
    values = list(unpack_from(f">{count}{info.code}", buffer, position))
    start = f.tell()
    f.advance(size)
    sequence[:count] = values
    recorder.array(start, info.size, values)
    return True


def _load_pointed(f: QEMUFileReader, field: VMStateField, opaque: Opaque, current: Any) -> Any:
    """One element of an array, through its pointer where it has one."""
    if field.flags & VMSFlags.ARRAY_OF_POINTER_AUTO_ALLOC:
        if not get_pointer_marker(f, nullable_only=False):
            _check_stream(f)
            return None
        if current is None and field.new is not None:
            current = field.new()
    elif field.flags & VMSFlags.ARRAY_OF_POINTER and current is None:
        get_pointer_marker(f, nullable_only=True)
        _check_stream(f)
        return None
    return _load_element(f, field, opaque, current)


def _load_element(f: QEMUFileReader, field: VMStateField, opaque: Opaque, current: Any) -> Any:
    flags = field.flags
    if flags & (VMSFlags.STRUCT | VMSFlags.VSTRUCT):
        assert field.vmsd is not None, field.name
        if current is None or (flags & VMSFlags.ALLOC and not is_array(field)):
            if field.new is None:
                raise LoadError(
                    "the state this would be loaded into does not exist", offset=f.tell()
                )
            current = field.new()
        version = field.vmsd.version_id if flags & VMSFlags.STRUCT else field.struct_version_id
        vmstate_load_state(f, field.vmsd, current, version)
    else:
        assert field.info is not None, field.name
        size = as_claimed(f, element_size(field, opaque))
        current = field.info.get(f, current, size, field, opaque)
    _check_stream(f)
    return current


def _check_stream(f: QEMUFileReader) -> None:
    # Where the end reads as zeros this is where it is noticed, as in C.
    if f.get_error():
        raise LoadError(
            "the stream ended or its source failed before this", errno=-f.get_error(),
            offset=f.tell(),
        )  # fmt: skip


# -- subsections -----------------------------------------------------------------------


def _load_subsections(f: QEMUFileReader, vmsd: VMStateDescription, opaque: Opaque) -> int:
    """Load what follows the fields, as long as it is a subsection of ``vmsd``.

    A 0x05 that is none of ours is left for whoever comes next; that is not an
    error (``vmstate_subsection_load``).

    Returns:
        0, or the positive number with which a subsection ended the load.
    """
    if f.trace is not None and f.trace_fields:
        f.trace("vmstate_subsection_load", vmsd.name)
    seen: set[str] = set()
    while f.peek_byte(0) == QEMU_VM_SUBSECTION:
        start = f.tell()
        length = f.peek_byte(1)
        if length < len(vmsd.name) + 1:
            _bad_subsection(f, vmsd, "(short)", "")
            return 0
        name_bytes = f.peek_buffer(length, _SUBSECTION_HEADER)
        if len(name_bytes) != length:
            _bad_subsection(f, vmsd, "(peek fail)", "")
            return 0
        name = name_bytes.decode("latin-1")
        if not name.startswith(vmsd.name):
            _bad_subsection(f, vmsd, name, "(prefix)")
            return 0
        if f.profile.strings_end_at_nul:
            name = name.partition("\0")[0]
        sub = _subsection_named(f, vmsd, name)
        if sub is None:
            _bad_subsection(f, vmsd, name, "(lookup)")
            raise LoadError(
                f"unknown subsection {name!r}",
                errno=ENOENT,
                offset=start,
                actual=name,
                qemu=f"VM subsection '{name}' in '{vmsd.name}' does not exist",
            )
        if name in seen and not f.profile.duplicate_subsections_accepted:
            f.complain(
                LoadError(f"subsection {name!r} comes twice", offset=start, expected=1, actual=2)
            )
        seen.add(name)
        result = _load_subsection(f, vmsd, sub, opaque, length)
        if result:
            _bad_subsection(f, vmsd, name, "(child)")
            return result
    if f.trace is not None and f.trace_fields:
        f.trace("vmstate_subsection_load_good", vmsd.name)
    return 0


def _load_subsection(
    f: QEMUFileReader,
    vmsd: VMStateDescription,
    sub: VMStateDescription,
    opaque: Opaque,
    name_length: int,
) -> int:
    recorder = f.recorder
    short = sub.name.removeprefix(vmsd.name + "/")
    if recorder is not None:
        recorder.enter(NodeKind.SUBSECTION, short, f.tell(), sub.name)
        start = f.tell()
        recorder.read(Role.SUBSECTION_MARK, start, start + 1, QEMU_VM_SUBSECTION)
        recorder.read(Role.SUBSECTION_NAME, start + 1, start + 2 + name_length, sub.name)
    f.skip(_SUBSECTION_HEADER)
    f.skip(name_length)
    try:
        version_id = f.get_be32(Role.SUBSECTION_VERSION)
        if f.get_error():
            raise LoadError("the stream ended in its header", errno=EIO, offset=f.tell())
        if f.profile.subsection_version_is_uint8:
            version_id &= 0xFF
        return vmstate_load_state(f, sub, opaque, version_id)
    except LoadError as error:
        _bad_subsection(f, vmsd, sub.name, "(child)")
        raise error.within(short) from None
    finally:
        if recorder is not None:
            recorder.leave(f.tell())


def _subsection_named(
    f: QEMUFileReader, vmsd: VMStateDescription, name: str
) -> VMStateDescription | None:
    for sub in vmsd.subsections:
        if sub.needed is None and f.profile.subsections_stop_without_needed:
            return None
        if sub.name == name:
            return sub
    return None


def _bad_subsection(f: QEMUFileReader, vmsd: VMStateDescription, name: str, why: str) -> None:
    if f.trace is not None:
        f.trace("vmstate_subsection_load_bad", vmsd.name, name, why)
