"""Runs of fixed-size fields in one ``struct`` call.

Theory of operation.  For each version of a description a :class:`Plan` is made
once: a list of steps, each either a :class:`Run` (neighbouring fields whose
sizes do not depend on the state) or one field for the engine.  A run that does
not have all its bytes at hand is loaded field by field instead, so that a
stream that ends inside it fails at the same field with the same error.  The
plan depends on nothing but the description, which is immutable.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from operator import itemgetter
from struct import Struct
from struct import error as StructError
from typing import Any, Final, TypeAlias

from savevm.qemufile import QEMUFileReader
from savevm.vmstate import fieldtypes
from savevm.vmstate.description import Opaque, VMSFlags, VMStateDescription, VMStateField

_RUN_BYTES_MAX: Final = 1 << 20
"""Longest run: one peek must buffer it whole."""
_PLANS_MAX: Final = 64
"""Plans kept per description.  Streams choose the version; real ones name one
or two, and a plan is quickly made again."""
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
        plain: types met so far, and whether their attributes are plain ones.
    """

    struct: Struct
    fields: tuple[VMStateField, ...]
    scalars: tuple[str, ...]
    pick: Callable[[tuple[Any, ...]], tuple[Any, ...]]
    sequences: tuple["Sequence", ...]
    plain: dict[type, bool] = field(default_factory=dict, repr=False, compare=False)


Step: TypeAlias = Run | VMStateField
Plan: TypeAlias = tuple[Step, ...]


def plan_for(vmsd: VMStateDescription, version_id: int) -> Plan:
    """The steps for one version; made at the first call."""
    plan = vmsd.plans.get(version_id)
    if plan is None:
        if len(vmsd.plans) >= _PLANS_MAX:
            vmsd.plans.clear()
        plan = vmsd.plans[version_id] = _make_plan(vmsd, version_id)
    return plan


def _make_plan(vmsd: VMStateDescription, version_id: int) -> Plan:
    steps: list[Step] = []
    gathered: list[VMStateField] = []
    size = 0
    for item in vmsd.fields:
        code = _code(item)
        if code is not None and item.version_id > version_id:
            continue
        if code is None or size + Struct(">" + code).size > _RUN_BYTES_MAX:
            _close_run(steps, gathered)
            size = 0
        if code is None:
            steps.append(item)
        else:
            gathered.append(item)
            size += Struct(">" + code).size
    _close_run(steps, gathered)
    return tuple(steps)


def _code(item: VMStateField) -> str | None:
    """Struct code of a field whose place and size never change, else ``None``."""
    info = item.info
    if item.flags & ~_SIMPLE or item.field_exists is not None or info is None:
        return None
    is_array = bool(item.flags & VMSFlags.ARRAY)
    count = item.num if is_array else 1
    width = item.size if info in (fieldtypes.UNUSED, fieldtypes.BUFFER) else info.size
    if count < 0 or not 0 <= count * width <= _RUN_BYTES_MAX:
        return None
    if info is fieldtypes.UNUSED:
        return None if is_array else f"{item.size}x"
    if not item.attr:
        return None
    if info is fieldtypes.BUFFER:
        return None if is_array else f"{item.size}s"
    if not info.code:
        return None
    return f"{item.num}{info.code}" if is_array else info.code


def _close_run(steps: list[Step], gathered: list[VMStateField]) -> None:
    if not gathered:
        return
    codes, scalars, scalar_at, sequences = [], [], [], []
    at = 0
    for item in gathered:
        code = _code(item)
        assert code is not None
        codes.append(code)
        if item.info is fieldtypes.UNUSED:
            continue
        if item.info is fieldtypes.BUFFER:
            stop = item.start + item.size
            sequences.append(Sequence(item.attr, at, at + 1, item.start, stop, True))
            at += 1
        elif item.flags & VMSFlags.ARRAY:
            sequences.append(Sequence(item.attr, at, at + item.num, 0, item.num, False))
            at += item.num
        else:
            scalars.append(item.attr)
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
    kind = type(opaque)
    plain = run.plain.get(kind)
    if plain is None:
        plain = run.plain[kind] = _is_plain(kind, run)
    if not plain:
        return False
    attributes = opaque.__dict__
    for sequence in run.sequences:
        target = attributes.get(sequence.attr)
        if not isinstance(target, (list, bytearray)) or len(target) < sequence.stop:
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


def _is_plain(kind: type, run: Run) -> bool:
    """Whether setting the run's attributes means no more than to store them."""
    setter: object = kind.__setattr__
    if kind.__dictoffset__ == 0 or setter is not object.__setattr__:
        return False
    names = (*run.scalars, *(sequence.attr for sequence in run.sequences))
    return not any(hasattr(getattr(kind, name, None), "__set__") for name in names)


def pack_run(run: Run, opaque: Opaque) -> bytes | None:
    """The bytes of a run; ``None`` when the fields must be saved one by one."""
    values: list[Any] = []
    for item in run.fields:
        if item.info is fieldtypes.UNUSED:
            continue
        value = getattr(opaque, item.attr)
        if item.info is fieldtypes.BUFFER:
            if value is None:
                return None
            values.append(bytes(value[item.start : item.start + item.size]))
        elif item.flags & VMSFlags.ARRAY:
            values.extend(value[: item.num])
        else:
            values.append(value)
    try:
        return run.struct.pack(*values)
    except StructError:
        return None  # a value out of range is cut to its width by the slow path
