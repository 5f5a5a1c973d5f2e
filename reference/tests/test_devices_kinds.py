"""Between them the devices of the full machine use every kind of field there is."""

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterator

import pytest

from savevm import devices, timers
from savevm.board import full_machine, machine_of, machine_with
from savevm.machine import Machine
from savevm.registry import NO_ALIAS
from savevm.save import qemu_savevm_state_blocked
from savevm.vmstate import containers, fields, fieldtypes
from savevm.vmstate.description import (
    VMSFlags,
    VMStateDescription,
    VMStateField,
    VMStateInfo,
)

Use = Callable[[VMStateField], bool]


def descriptions(machine: Machine) -> Iterator[VMStateDescription]:
    """Every description of a machine: of devices, structs, keys and subsections."""
    stack = [se.vmsd for se in machine.savevm.handlers if se.vmsd is not None]
    seen: set[int] = set()
    while stack:
        vmsd = stack.pop()
        if id(vmsd) in seen:
            continue
        seen.add(id(vmsd))
        yield vmsd
        stack.extend(vmsd.subsections)
        for field in vmsd.fields:
            stack.extend(inner for inner in (field.vmsd, field.key_vmsd) if inner is not None)


@pytest.fixture(scope="module")
def described() -> list[VMStateDescription]:
    return list(descriptions(full_machine()))


def infos_of(module: object) -> list[VMStateInfo]:
    return [value for _, value in inspect.getmembers(module) if isinstance(value, VMStateInfo)]


@pytest.mark.parametrize("flag", list(VMSFlags), ids=lambda flag: str(flag.name))
def test_every_flag_is_used(flag: VMSFlags, described: list[VMStateDescription]) -> None:
    assert any(field.flags & flag for vmsd in described for field in vmsd.fields)


@pytest.mark.parametrize(
    "info",
    [*infos_of(fieldtypes), *infos_of(containers), *infos_of(timers)],
    ids=lambda info: info.name,
)
def test_every_type_is_used(info: VMStateInfo, described: list[VMStateDescription]) -> None:
    assert any(field.info is info for vmsd in described for field in vmsd.fields)


def has(field: VMStateField, flags: int) -> bool:
    return field.flags & flags == flags


VARRAYS = (
    VMSFlags.VARRAY_INT32,
    VMSFlags.VARRAY_UINT32,
    VMSFlags.VARRAY_UINT16,
    VMSFlags.VARRAY_UINT8,
)
USES: dict[str, Use] = {
    "field_exists": lambda f: f.field_exists is not None and not f.flags & VMSFlags.MUST_EXIST,
    "version_id": lambda f: f.version_id > 1,
    "start of a buffer": lambda f: bool(f.start and f.flags & VMSFlags.BUFFER),
    "start of a vbuffer": lambda f: bool(f.start and f.flags & VMSFlags.VBUFFER),
    "unused": lambda f: f.info is fieldtypes.UNUSED and bool(f.flags & VMSFlags.BUFFER),
    "unused vbuffer": lambda f: f.info is fieldtypes.UNUSED and bool(f.flags & VMSFlags.VBUFFER),
    "vbuffer multiplied": lambda f: has(f, VMSFlags.VBUFFER | VMSFlags.MULTIPLY),
    "vbuffer allocated": lambda f: has(f, VMSFlags.VBUFFER | VMSFlags.ALLOC),
    "bitmap with a bound": lambda f: f.info is fieldtypes.BITMAP and f.num > 0,
    "struct behind a pointer": lambda f: (
        has(f, VMSFlags.STRUCT | VMSFlags.POINTER) and not f.flags & VMSFlags.ALLOC
    ),
    "struct allocated": lambda f: has(f, VMSFlags.STRUCT | VMSFlags.POINTER | VMSFlags.ALLOC),
    "struct array": lambda f: has(f, VMSFlags.STRUCT | VMSFlags.ARRAY),
    "array of pointers with NULLs": lambda f: (
        has(f, VMSFlags.ARRAY_OF_POINTER | VMSFlags.STRUCT)
        and not f.flags & VMSFlags.ARRAY_OF_POINTER_AUTO_ALLOC
    ),
    "array of pointers to primitives": lambda f: (
        has(f, VMSFlags.ARRAY_OF_POINTER) and f.info is not None
    ),
    "primitive behind a pointer": lambda f: f.flags == VMSFlags.SINGLE | VMSFlags.POINTER,
    "tree with described keys": lambda f: f.info is containers.GTREE and f.key_vmsd is not None,
    "tree with direct keys": lambda f: f.info is containers.GTREE and f.key_vmsd is None,
    "a type of one's own": lambda f: (
        f.info is not None
        and f.info not in {*infos_of(fieldtypes), *infos_of(containers), *infos_of(timers)}
    ),
}


def counted_primitives(kind: VMSFlags) -> Use:
    return lambda f: bool(f.flags & kind and f.info)


def counted_structs(kind: VMSFlags) -> Use:
    return lambda f: bool(f.flags & kind and f.flags & VMSFlags.STRUCT)


for _kind in VARRAYS:
    USES[f"primitives by {_kind.name}"] = counted_primitives(_kind)
    USES[f"structs by {_kind.name}"] = counted_structs(_kind)


@pytest.mark.parametrize("use", USES)
def test_every_combination_that_behaves_differently_is_used(
    use: str, described: list[VMStateDescription]
) -> None:
    assert any(USES[use](field) for vmsd in described for field in vmsd.fields)


HOOKS: dict[str, Callable[[VMStateDescription], bool]] = {
    "pre_load": lambda d: d.pre_load is not None,
    "post_load": lambda d: d.post_load is not None,
    "pre_save": lambda d: d.pre_save is not None,
    "load_state_old": lambda d: (
        d.load_state_old is not None and d.minimum_version_id_old < d.minimum_version_id
    ),
    "needed": lambda d: d.needed is not None,
    "early_setup": lambda d: d.early_setup,
    "post_load of a subsection": lambda d: "/" in d.name and d.post_load is not None,
    "subsection of a subsection": lambda d: any(sub.subsections for sub in d.subsections),
    "older versions": lambda d: d.minimum_version_id < d.version_id,
}


@pytest.mark.parametrize("hook", HOOKS)
def test_every_hook_is_used(hook: str, described: list[VMStateDescription]) -> None:
    assert any(HOOKS[hook](vmsd) for vmsd in described)


def test_every_constructor_of_fields_is_used_by_a_device() -> None:
    makers = {
        name
        for name, value in vars(fields).items()
        if callable(value)
        and not name.startswith("_")
        and getattr(value, "__module__", "") == fields.__name__
        and inspect.isfunction(value)
    }
    text = "".join(
        inspect.getsource(importlib.import_module(f"{devices.__name__}.{found.name}"))
        for found in pkgutil.iter_modules(devices.__path__)
    )
    used = {name for name in makers if f"fields.{name}(" in text}
    # ``single`` is what the makers of primitive fields are made of.
    assert makers - used == {"single"}


def test_one_device_is_old_style_one_has_a_path_one_an_alias() -> None:
    entries = full_machine().savevm.handlers
    assert any(se.ops is not None and se.ops.save_state is not None for se in entries)
    assert any(se.compat is not None for se in entries)
    assert any(se.alias_id != NO_ALIAS for se in entries)


def test_a_device_that_cannot_be_migrated_blocks_and_no_machine_has_it_unasked() -> None:
    assert qemu_savevm_state_blocked(full_machine()) is None
    reason = qemu_savevm_state_blocked(machine_with("timer", "passthrough"))
    assert reason == "State blocked by non-migratable device 'passthrough'"


def test_every_subsection_is_there_at_some_step_and_not_at_another() -> None:
    machines = [full_machine(), machine_of("timer")]
    present: dict[str, set[bool]] = {}
    for machine in machines:
        for _ in range(700):
            for name, device in machine.devices.items():
                vmsd = getattr(device, "vmsd", None)
                stack = list(vmsd.subsections) if vmsd is not None else []
                while stack:
                    sub = stack.pop()
                    key = f"{name}: {sub.name}"
                    present.setdefault(key, set()).add(bool(sub.needed(device)))
                    stack.extend(sub.subsections)
            machine.step()
    # Without instruction counting "timer/icount" never is.
    seen = {key.partition(": ")[2] for key, states in present.items() if True in states}
    missed = {key.partition(": ")[2] for key, states in present.items() if False in states}
    everything = {key.partition(": ")[2] for key in present}
    assert everything - seen == set()
    assert everything - missed == set()
