"""Descriptions drawn at random, with states to go with them.

Each kind of field is one function that adds to a :class:`_Plan`: its fields,
how an empty state has them, and how a used state is filled.  Whoever draws
supplies ``choose(low, high)``: Hypothesis, a generator, a recorded list.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from savevm.state import State
from savevm.timers import QEMUTimer, timer_field
from savevm.vmstate import fields, fieldtypes
from savevm.vmstate.description import VMStateDescription, VMStateField, VMStateInfo

Choose: TypeAlias = Callable[[int, int], int]
"""A number from ``low`` to ``high``, both included."""

_FIELDS_MAX: Final = 4
"""Kinds of field in one description: enough for every pair of neighbours."""
_ELEMENTS_MAX: Final = 3
_CAPACITY: Final = 4
_DEPTH_MAX: Final = 2
"""Descriptions inside each other; deeper ones repeat what two levels show."""

_PRIMITIVES: Final = (
    fieldtypes.INT8, fieldtypes.INT16, fieldtypes.INT32, fieldtypes.INT64, fieldtypes.UINT8,
    fieldtypes.UINT16, fieldtypes.UINT32, fieldtypes.UINT64, fieldtypes.FLOAT64,
    fieldtypes.CPU_DOUBLE, fieldtypes.BOOL,
)  # fmt: skip
_EQUAL: Final = (
    fieldtypes.UINT8_EQUAL, fieldtypes.UINT16_EQUAL, fieldtypes.UINT32_EQUAL,
    fieldtypes.UINT64_EQUAL, fieldtypes.INT32_EQUAL, fieldtypes.INT64_EQUAL,
)  # fmt: skip
_COUNTS: Final = {
    "int32": fieldtypes.INT32,
    "uint32": fieldtypes.UINT32,
    "uint16": fieldtypes.UINT16,
    "uint8": fieldtypes.UINT8,
}


class Drawn:
    """A description and its states.

    Attributes:
        vmsd: the description.
        blank: makes a state as it is after power-on.
        fill: changes a blank state into one that a save could meet.
    """

    # No dataclass: what prints those prints descriptions, over pages.
    __slots__ = ("vmsd", "blank", "fill")

    def __init__(
        self,
        vmsd: VMStateDescription,
        blank: Callable[[], State],
        fill: Callable[[State, Choose], None],
    ) -> None:
        self.vmsd = vmsd
        self.blank = blank
        self.fill = fill

    def __repr__(self) -> str:
        return f"Drawn({outline(self.vmsd)})"


def outline(vmsd: VMStateDescription) -> str:
    """A description in a line: its fields with their types, its subsections."""
    inside = [
        f"{item.name}:{item.type_name()}{outline(item.vmsd) if item.vmsd else ''}"
        for item in vmsd.fields
    ]
    return f"{{{' '.join(inside + [sub.name + outline(sub) for sub in vmsd.subsections])}}}"


@dataclass(slots=True)
class _Plan:
    choose: Choose
    depth: int
    fields: list[VMStateField] = field(default_factory=list)
    blanks: list[Callable[[State], None]] = field(default_factory=list)
    fills: list[Callable[[State, Choose], None]] = field(default_factory=list)

    def attribute(self) -> str:
        return f"f{len(self.blanks)}"

    def add(
        self,
        *added: VMStateField,
        blank: Callable[[State], None],
        fill: Callable[[State, Choose], None],
    ) -> None:
        self.fields += added
        self.blanks.append(blank)
        self.fills.append(fill)


def draw_description(choose: Choose, *, depth: int = _DEPTH_MAX, name: str = "drawn") -> Drawn:
    """Draw a description with up to a few fields of any kind, and subsections."""
    plan = _Plan(choose, depth)
    kinds = _FLAT if depth == 0 else (*_FLAT, *_NESTED)
    for _ in range(choose(1, _FIELDS_MAX)):
        kinds[choose(0, len(kinds) - 1)](plan)
    subsections: list[VMStateDescription] = []
    if depth:
        for _ in range(choose(0, 2)):
            subsections.append(_draw_subsection(plan, f"{name}/s{len(subsections)}"))
    vmsd = VMStateDescription(name, 2, 1, fields=tuple(plan.fields), subsections=tuple(subsections))
    blanks, fills = tuple(plan.blanks), tuple(plan.fills)

    def blank() -> State:
        state = State()
        for make in blanks:
            make(state)
        return state

    def fill(state: State, choose: Choose) -> None:
        for change in fills:
            change(state, choose)

    return Drawn(vmsd, blank, fill)


def _draw_subsection(plan: _Plan, name: str) -> VMStateDescription:
    wanted, value = plan.attribute() + "_wanted", plan.attribute() + "_value"
    plan.add(
        fields.bool_(wanted),
        blank=lambda state: state.__dict__.update({wanted: False, value: 0}),
        # What is not wanted does not travel, so it must be as it is when blank.
        fill=lambda state, choose: state.__dict__.update(
            {wanted: True, value: choose(0, 0xFFFF)} if choose(0, 1) else {}
        ),
    )
    return VMStateDescription(
        name, 1, 1, fields=(fields.uint16(value),), needed=lambda state: bool(vars(state)[wanted])
    )


# -- flat kinds ------------------------------------------------------------------------


def _value(info: VMStateInfo, choose: Choose) -> int:
    number = choose(info.lo, info.hi)
    return bool(number) if info is fieldtypes.BOOL else number


def _zero(info: VMStateInfo) -> int:
    return False if info is fieldtypes.BOOL else 0


def _primitive(plan: _Plan) -> None:
    attr, info = plan.attribute(), _PRIMITIVES[plan.choose(0, len(_PRIMITIVES) - 1)]
    make = fields.pointer if plan.choose(0, 1) else fields.single
    plan.add(
        make(attr, info),
        blank=lambda state: setattr(state, attr, _zero(info)),
        fill=lambda state, choose: setattr(state, attr, _value(info, choose)),
    )


def _equal(plan: _Plan) -> None:
    attr, info = plan.attribute(), _EQUAL[plan.choose(0, len(_EQUAL) - 1)]
    constant = plan.choose(info.lo, info.hi)
    plan.add(
        fields.single(attr, info),
        blank=lambda state: setattr(state, attr, constant),
        fill=lambda _state, _choose: None,
    )


def _at_most(plan: _Plan) -> None:
    attr = plan.attribute()
    plan.add(
        fields.int32_le(attr),
        blank=lambda state: setattr(state, attr, 100),
        fill=lambda state, choose: setattr(state, attr, choose(0, 100)),
    )


def _newer(plan: _Plan) -> None:
    # A field of a version that nobody writes yet.
    attr = plan.attribute()
    plan.add(
        fields.uint32(attr, 3),
        blank=lambda state: setattr(state, attr, 7),
        fill=lambda _state, _choose: None,
    )


def _conditional(plan: _Plan) -> None:
    attr = plan.attribute()
    here = attr + "_here"
    plan.add(
        fields.bool_(here),
        fields.uint32(attr, exists=lambda state, _version: bool(vars(state)[here])),
        blank=lambda state: state.__dict__.update({here: False, attr: 0}),
        fill=lambda state, choose: state.__dict__.update(
            {here: True, attr: choose(0, 99)} if choose(0, 1) else {}
        ),
    )


def _array(plan: _Plan) -> None:
    attr, info = plan.attribute(), _PRIMITIVES[plan.choose(0, len(_PRIMITIVES) - 1)]
    count = plan.choose(0, _ELEMENTS_MAX)
    make = fields.pointer_array if plan.choose(0, 1) else fields.array
    plan.add(
        make(attr, info, count),
        blank=lambda state: setattr(state, attr, [_zero(info)] * count),
        fill=lambda state, choose: setattr(
            state, attr, [_value(info, choose) for _ in range(count)]
        ),
    )


def _varray(plan: _Plan) -> None:
    attr = plan.attribute()
    count, info = attr + "_count", fieldtypes.UINT16
    ctype = list(_COUNTS)[plan.choose(0, len(_COUNTS) - 1)]
    alloc, times = bool(plan.choose(0, 1)), plan.choose(1, 2)
    capacity = _CAPACITY * times

    def blank(state: State) -> None:
        state.__dict__.update({count: 0, attr: [] if alloc else [0] * capacity})

    def fill(state: State, choose: Choose) -> None:
        used = choose(0, _CAPACITY)
        values = [_value(info, choose) for _ in range(used * times)]
        rest = [] if alloc else [0] * (capacity - len(values))
        state.__dict__.update({count: used, attr: values + rest})

    plan.add(
        fields.single(count, _COUNTS[ctype]),
        fields.varray(attr, info, count, ctype, alloc=alloc, multiply=0 if times == 1 else times),
        blank=blank,
        fill=fill,
    )


def _buffer(plan: _Plan) -> None:
    attr, start, size = plan.attribute(), plan.choose(0, 3), plan.choose(0, 5)
    plan.add(
        fields.buffer(attr, size, start=start),
        blank=lambda state: setattr(state, attr, bytearray(start + size)),
        fill=lambda state, choose: setattr(state, attr, bytearray(start) + _bytes(size, choose)),
    )


def _vbuffer(plan: _Plan) -> None:
    attr = plan.attribute()
    size, unit, alloc = attr + "_size", plan.choose(1, 3), bool(plan.choose(0, 1))
    capacity = _CAPACITY * unit

    def blank(state: State) -> None:
        state.__dict__.update({size: 0, attr: bytearray(0 if alloc else capacity)})

    def fill(state: State, choose: Choose) -> None:
        used = choose(0, _CAPACITY)
        data = _bytes(used * unit, choose)
        state.__dict__.update({size: used, attr: data if alloc else data.ljust(capacity, b"\0")})

    plan.add(
        fields.int32(size),
        fields.vbuffer(attr, size, multiply=0 if unit == 1 else unit, alloc=alloc),
        blank=blank,
        fill=fill,
    )


def _bytes(size: int, choose: Choose) -> bytearray:
    return bytearray(choose(0, 255) for _ in range(size))


def _unused(plan: _Plan) -> None:
    plan.add(fields.unused(plan.choose(0, 9)), blank=lambda _s: None, fill=lambda _s, _choose: None)


def _bitmap(plan: _Plan) -> None:
    attr = plan.attribute()
    bits, most = attr + "_bits", plan.choose(1, 130)
    plan.add(
        fields.uint32(bits),
        fields.bitmap(attr, bits, bits_max=most),
        blank=lambda state: state.__dict__.update({bits: most, attr: 0}),
        fill=lambda state, choose: setattr(state, attr, choose(0, (1 << most) - 1)),
    )


def _timer(plan: _Plan) -> None:
    attr = plan.attribute()

    def blank(state: State) -> None:
        setattr(state, attr, QEMUTimer(lambda: None))

    def fill(state: State, choose: Choose) -> None:
        if choose(0, 1):
            vars(state)[attr].mod_ns(choose(0, fieldtypes.INT64.hi))

    plan.add(timer_field(attr), blank=blank, fill=fill)


def _validate(plan: _Plan) -> None:
    plan.add(
        fields.validate("always", lambda _state, _version: True),
        blank=lambda _s: None,
        fill=lambda _s, _choose: None,
    )


# -- nested kinds ----------------------------------------------------------------------


def _inner(plan: _Plan) -> Drawn:
    return draw_description(plan.choose, depth=plan.depth - 1, name="inner")


def _filled(inner: Drawn, choose: Choose) -> State:
    state = inner.blank()
    inner.fill(state, choose)
    return state


def _struct(plan: _Plan) -> None:
    attr, inner, kind = plan.attribute(), _inner(plan), plan.choose(0, 2)
    made = (
        fields.struct(attr, inner.vmsd),
        fields.struct(attr, inner.vmsd, pointer=True, new=inner.blank),
        fields.vstruct(attr, inner.vmsd, 1),
    )[kind]
    plan.add(
        made,
        blank=lambda state: setattr(state, attr, inner.blank()),
        fill=lambda state, choose: setattr(state, attr, _filled(inner, choose)),
    )


def _struct_array(plan: _Plan) -> None:
    attr, inner, count = plan.attribute(), _inner(plan), plan.choose(0, _ELEMENTS_MAX)
    plan.add(
        fields.struct_array(attr, inner.vmsd, count),
        blank=lambda state: setattr(state, attr, [inner.blank() for _ in range(count)]),
        fill=lambda state, choose: setattr(
            state, attr, [_filled(inner, choose) for _ in range(count)]
        ),
    )


def _struct_varray(plan: _Plan) -> None:
    attr, inner = plan.attribute(), _inner(plan)
    count = attr + "_count"

    def fill(state: State, choose: Choose) -> None:
        used = choose(0, _ELEMENTS_MAX)
        elements = [_filled(inner, choose) for _ in range(used)]
        state.__dict__.update({count: used, attr: elements})

    plan.add(
        fields.uint8(count),
        fields.struct_varray(attr, inner.vmsd, count, "uint8", new=inner.blank),
        blank=lambda state: state.__dict__.update({count: 0, attr: []}),
        fill=fill,
    )


def _pointers(plan: _Plan) -> None:
    attr, inner, count = plan.attribute(), _inner(plan), plan.choose(0, _ELEMENTS_MAX)
    auto = bool(plan.choose(0, 1))
    # Without AUTO_ALLOC both sides have the same elements from the start.
    there = [bool(plan.choose(0, 1)) for _ in range(count)]

    def fill(state: State, choose: Choose) -> None:
        present = [bool(choose(0, 1)) for _ in range(count)] if auto else there
        setattr(state, attr, [_filled(inner, choose) if here else None for here in present])

    plan.add(
        fields.array_of_pointers(attr, inner.vmsd, count, new=inner.blank if auto else None),
        blank=lambda state: setattr(
            state, attr, [inner.blank() if here and not auto else None for here in there]
        ),
        fill=fill,
    )


def _list(plan: _Plan) -> None:
    attr, inner = plan.attribute(), _inner(plan)
    make = fields.qlist if plan.choose(0, 1) else fields.qtailq
    plan.add(
        make(attr, inner.vmsd, inner.blank),
        blank=lambda state: setattr(state, attr, []),
        fill=lambda state, choose: setattr(
            state, attr, [_filled(inner, choose) for _ in range(choose(0, _ELEMENTS_MAX))]
        ),
    )


_KEY: Final = VMStateDescription("key", fields=(fields.uint32("key"),))


def _tree(plan: _Plan) -> None:
    attr, inner = plan.attribute(), _inner(plan)
    key_vmsd = _KEY if plan.choose(0, 1) else None
    plan.add(
        fields.gtree(attr, inner.vmsd, inner.blank, key_vmsd=key_vmsd),
        blank=lambda state: setattr(state, attr, {}),
        fill=lambda state, choose: setattr(
            state,
            attr,
            {choose(0, 9): _filled(inner, choose) for _ in range(choose(0, _ELEMENTS_MAX))},
        ),
    )


def _temporary(plan: _Plan) -> None:
    attr = plan.attribute()

    def to_temporary(tmp: State) -> int:
        vars(tmp)["half"] = vars(vars(tmp)["parent"])[attr] // 2
        return 0

    def from_temporary(tmp: State, _version_id: int) -> int:
        setattr(vars(tmp)["parent"], attr, 2 * vars(tmp)["half"])
        return 0

    vmsd = VMStateDescription(
        "tmp", fields=(fields.uint32("half"),), pre_save=to_temporary, post_load=from_temporary
    )
    plan.add(
        fields.with_tmp(vmsd, lambda: State(half=0)),
        blank=lambda state: setattr(state, attr, 0),
        fill=lambda state, choose: setattr(state, attr, 2 * choose(0, 0x7FFF)),
    )


_FLAT: Final = (
    _primitive, _equal, _at_most, _newer, _conditional, _array, _varray, _buffer, _vbuffer,
    _unused, _bitmap, _timer, _validate, _temporary,
)  # fmt: skip
_NESTED: Final = (_struct, _struct_array, _struct_varray, _pointers, _list, _tree)
