"""Runs of fixed-size fields in one ``struct`` call.

Theory of operation.  For each version of a description a :class:`Plan` is made
once: a list of steps, each either a :class:`Run` (neighbouring fields whose
sizes do not depend on the state) or one field for the engine.  A run that does
not have all its bytes at hand is loaded field by field instead, so that a
stream that ends inside it fails at the same field with the same error.  The
plan depends on nothing but the description, which is immutable.
"""

from collections.abc import Callable
from dataclasses import dataclass
from operator import itemgetter
from struct import Struct
from struct import error as StructError
from typing import Any, Final, TypeAlias

from savevm.qemufile import QEMUFileReader
from savevm.vmstate import fieldtypes
from savevm.vmstate.description import Opaque, VMSFlags, VMStateDescription, VMStateField

_RUN_BYTES_MAX: Final = 1 << 20
"""Longest run: one peek must buffer it whole."""
_SIMPLE: Final = VMSFlags.SINGLE | VMSFlags.ARRAY | VMSFlags.BUFFER | VMSFlags.POINTER


@dataclass(frozen=True, slots=True)
class Sequence:
    """An array or buffer inside a run.

    Attributes:
        attr: attribute that holds it.
        first, last: half-open range of what ``struct`` unpacked.
        start: first element or byte of the attribute that travels.
        stop: elements or bytes that the attribute must have.
        is_buffer: one bytes value instead of one value per element.
    """

    attr: str
    first: int
    last: int
    start: int
    stop: int
    is_buffer: bool


@dataclass(frozen=True, slots=True)
class Run:
    """Neighbouring fields of fixed size.

    Attributes:
        struct: all of them, big-endian, unused bytes as padding.
        fields: the fields themselves, for the slow path.
        scalars: attribute names of single values.
        pick: takes those values out of what ``struct`` unpacked.
        sequences: the arrays and buffers.
    """

    struct: Struct
    fields: tuple[VMStateField, ...]
    scalars: tuple[str, ...]
    pick: Callable[[tuple[Any, ...]], tuple[Any, ...]]
    sequences: tuple["Sequence", ...]


Step: TypeAlias = Run | VMStateField
Plan: TypeAlias = tuple[Step, ...]


def plan_for(vmsd: VMStateDescription, version_id: int) -> Plan:
    """The steps for one version; made at the first call."""
    plan = vmsd.plans.get(version_id)
    if plan is None:
        plan = vmsd.plans[version_id] = _make_plan(vmsd, version_id)
    return plan


def _make_plan(vmsd: VMStateDescription, version_id: int) -> Plan:
    steps: list[Step] = []
    gathered: list[VMStateField] = []
    size = 0
    for field in vmsd.fields:
        code = _code(field)
        if code is not None and field.version_id > version_id:
            continue
        if code is None or size + Struct(">" + code).size > _RUN_BYTES_MAX:
            _close_run(steps, gathered)
            size = 0
        if code is None:
            steps.append(field)
        else:
            gathered.append(field)
            size += Struct(">" + code).size
    _close_run(steps, gathered)
    return tuple(steps)


def _code(field: VMStateField) -> str | None:
    """Struct code of a field whose place and size never change, else ``None``."""
    if field.flags & ~_SIMPLE or field.field_exists is not None or field.info is None:
        return None
    if field.info is fieldtypes.UNUSED:
        return f"{field.size}x" if field.flags & VMSFlags.BUFFER and field.size >= 0 else None
    if field.info is fieldtypes.BUFFER:
        return f"{field.size}s" if field.size >= 0 else None
    if not field.info.code or not field.attr:
        return None
    return f"{field.num}{field.info.code}" if field.flags & VMSFlags.ARRAY else field.info.code


def _close_run(steps: list[Step], gathered: list[VMStateField]) -> None:
    if not gathered:
        return
    codes, scalars, scalar_at, sequences = [], [], [], []
    at = 0
    for field in gathered:
        code = _code(field)
        assert code is not None
        codes.append(code)
        if field.info is fieldtypes.UNUSED:
            continue
        if field.info is fieldtypes.BUFFER:
            stop = field.start + field.size
            sequences.append(Sequence(field.attr, at, at + 1, field.start, stop, True))
            at += 1
        elif field.flags & VMSFlags.ARRAY:
            sequences.append(Sequence(field.attr, at, at + field.num, 0, field.num, False))
            at += field.num
        else:
            scalars.append(field.attr)
            scalar_at.append(at)
            at += 1
    run = Run(
        Struct(">" + "".join(codes)), tuple(gathered), tuple(scalars), _picker(scalar_at, at),
        tuple(sequences),
    )  # fmt: skip
    steps.append(run)
    gathered.clear()


def _picker(indexes: list[int], total: int) -> Callable[[tuple[Any, ...]], tuple[Any, ...]]:
    if len(indexes) == total:
        return tuple
    if len(indexes) == 1:
        only = indexes[0]
        return lambda values: (values[only],)
    return itemgetter(*indexes) if indexes else lambda _values: ()


def load_run(f: QEMUFileReader, run: Run, opaque: Opaque) -> bool:
    """Load a whole run if all its bytes are at hand and all its arrays fit.

    Returns:
        False when nothing was consumed and the fields must be loaded one by
        one, which finds the field and the words for what is wrong.
    """
    attributes = opaque.__dict__
    for sequence in run.sequences:
        target = attributes.get(sequence.attr)
        if target is None or len(target) < sequence.stop:
            return False
    size = run.struct.size
    buffer, position, end = f.window(size)
    if end - position < size or f.get_error():
        return False
    values = run.struct.unpack_from(buffer, position)
    f.advance(size)
    if run.scalars:
        attributes.update(zip(run.scalars, run.pick(values), strict=True))
    for sequence in run.sequences:
        data = (
            values[sequence.first] if sequence.is_buffer else values[sequence.first : sequence.last]
        )
        attributes[sequence.attr][sequence.start : sequence.stop] = data
    return True


def pack_run(run: Run, opaque: Opaque) -> bytes | None:
    """The bytes of a run; ``None`` when the fields must be saved one by one."""
    values: list[Any] = []
    for field in run.fields:
        if field.info is fieldtypes.UNUSED:
            continue
        value = getattr(opaque, field.attr)
        if field.info is fieldtypes.BUFFER:
            if value is None:
                return None
            values.append(bytes(value[field.start : field.start + field.size]))
        elif field.flags & VMSFlags.ARRAY:
            values.extend(value[: field.num])
        else:
            values.append(value)
    try:
        return run.struct.pack(*values)
    except StructError:
        return None  # a value out of range is cut to its width by the slow path
