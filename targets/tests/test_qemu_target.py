"""The target ``qemu``: its variants, its seeds, and what it makes of a stream."""

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from loadfuzz.abc import HasVariants, RemoteTarget
from loadfuzz.errors import UsageError
from loadfuzz.execution import ExitKind
from loadfuzz.qemu.profiles import profiles
from loadfuzz_targets.layouts import MACHINES_MAX, Layouts
from loadfuzz_targets.qemu import TARGET, changed, without_memory
from savevm.board import full_machine
from savevm.document import Document
from savevm.save import save_to_bytes

STREAM = save_to_bytes(full_machine())


def test_it_is_what_the_interfaces_say() -> None:
    assert isinstance(TARGET, RemoteTarget)
    assert isinstance(TARGET, HasVariants)
    assert isinstance(TARGET.variant("none"), RemoteTarget)
    assert TARGET.stateful


def test_each_profile_is_a_variant() -> None:
    assert tuple(TARGET.variants()) == tuple(profiles())
    for name in TARGET.variants():
        assert TARGET.variant(name).name == f"qemu:{name}"
        assert TARGET.variant(name).spec == profiles()[name].spec()


def test_plain_qemu_is_the_pc() -> None:
    assert TARGET.name == "qemu"
    assert TARGET._default().spec == TARGET.variant("pc").spec


def test_an_unknown_profile_is_a_key_error() -> None:
    with pytest.raises(KeyError):
        TARGET.variant("pdp11")


def test_options_change_the_machine() -> None:
    name = "none,qemu=/opt/a%2Cb/qemu,device=a,device=b,arg=-x,machine=x-1.0,memory=8,env=A=b=c"
    machine = TARGET.variant(name)
    base = profiles()["none"].spec()
    assert machine.name == f"qemu:{name}"
    assert machine.spec == replace(
        base,
        binary="/opt/a,b/qemu",
        devices=(*base.devices, "a", "b"),
        extra=(*base.extra, "-x"),
        machine="x-1.0",
        memory_mb=8,
        environment=(*base.environment, ("A", "b=c")),
        address_space_mb=(base.address_space_mb or 0) + 8,
    )


def test_a_limit_can_be_taken_off() -> None:
    assert TARGET.variant("pc,space=0").spec.address_space_mb is None
    assert TARGET.variant("pc,space=0,memory=8").spec.address_space_mb is None
    assert TARGET.variant("pc,space=3000").spec.address_space_mb == 3000


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("qemu", ""), ("machine", ""), ("memory", "0"), ("memory", "much"), ("memory", "99999"),
        ("env", "A"), ("env", "=x"), ("speed", "9"), ("space", "-1"), ("memory", "9" * 5000),
    ],
)  # fmt: skip
def test_an_option_without_sense_is_a_usage_error(key: str, value: str) -> None:
    with pytest.raises(UsageError):
        changed(profiles()["pc"].spec(), key, value)


def test_memory_is_cut_out_of_a_stream() -> None:
    document = Document.parse(STREAM)
    slim = Document.parse(without_memory(document))
    assert [s.idstr for s in slim.sections] == [
        s.idstr for s in document.sections if s.idstr != "ram"
    ]
    assert slim.problems == []


# -- layouts -----------------------------------------------------------------------------------


def understood(document: Document) -> set[str]:
    """Names of devices of which fields are known."""
    return {
        section.idstr
        for section in document.sections
        if any(leaf.type_name for leaf in section.leaves())
    }


def test_a_stream_without_description_is_read_as_the_one_before() -> None:
    layouts = Layouts()
    whole = Document.parse(STREAM, layouts.factory_for(STREAM))
    vmdesc = whole.vmdesc
    assert vmdesc is not None
    cut = STREAM[: vmdesc.start]
    assert understood(Document.parse(cut, Layouts().factory_for(cut))) < understood(whole)
    assert understood(Document.parse(cut, layouts.factory_for(cut))) == understood(whole)


def test_a_damaged_description_does_not_hide_the_fields() -> None:
    layouts = Layouts()
    whole = Document.parse(STREAM, layouts.factory_for(STREAM))
    vmdesc = whole.vmdesc
    assert vmdesc is not None
    damaged = STREAM[: vmdesc.start + 40] + b"\x01" + STREAM[vmdesc.start + 41 :]
    assert understood(Document.parse(damaged, Layouts().factory_for(damaged))) != understood(whole)
    document = Document.parse(damaged, layouts.factory_for(damaged))
    assert understood(document) == understood(whole)
    assert document.to_bytes() == damaged


def test_a_machine_is_made_once() -> None:
    layouts = Layouts()
    first, again = layouts.factory_for(STREAM), layouts.factory_for(STREAM)
    assert first is not None
    assert again is not None
    assert first() is again()


def test_machines_kept_are_bounded() -> None:
    layouts = Layouts()
    layouts.factory_for(STREAM)
    start = STREAM.rindex(b'"page_size"')
    for number in range(3 * MACHINES_MAX):
        layouts.factory_for(STREAM[:start] + b'"' + b"%09d" % number + b'"' + STREAM[start + 11 :])
    assert len(layouts._machines) <= MACHINES_MAX
    assert layouts.factory_for(b"nothing") is not None


# -- a real QEMU -------------------------------------------------------------------------------


@pytest.mark.qemu
@pytest.mark.parametrize("name", ["none", "microvm"])
def test_seeds_are_taken_from_the_binary_and_accepted(
    qemu_binary: str, tmp_path: Path, name: str
) -> None:
    machine = TARGET.variant(f"{name},qemu={qemu_binary}")
    seeds = {seed.name: seed for seed in machine.seeds()}
    assert set(seeds) == {"full", "without-memory"}
    assert len(seeds["without-memory"].stream) < len(seeds["full"].stream)
    assert seeds["full"].origin.startswith("qemu ")
    for seed in seeds.values():
        document = machine.parse(seed.stream)
        assert document.to_bytes() == seed.stream
        assert document.problems == []

    async def main() -> list[ExitKind]:
        async with machine.executor(tmp_path, 2.0) as executor:
            return [(await executor.execute(seed.stream)).kind for seed in seeds.values()]

    assert asyncio.run(main()) == [ExitKind.ACCEPTED] * 2
