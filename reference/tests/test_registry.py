"""The list of handlers: names, ids, aliases, and who a section is for."""

import pytest

from savevm import SEED, STRICT
from savevm.constants import IDSTR_MAX
from savevm.machine import Machine
from savevm.registry import (
    ANY_INSTANCE,
    NO_ALIAS,
    CompatEntry,
    MigrationParams,
    SaveState,
    SaveStateEntry,
    SaveVMHandlers,
)
from savevm.testing import PlainDevice, plug, plug_handlers
from savevm.vmstate import VMStateDescription

VMSD = VMStateDescription("dev", 3, 2)
OTHER = VMStateDescription("other")
NOTHING = SaveVMHandlers()
LIVE = SaveVMHandlers(save_live_setup=lambda f, opaque: 0)
OLD_STYLE = SaveVMHandlers(save_state=lambda f, opaque: None)


def on_bus(path: str | None = "0000:00:03.0") -> PlainDevice:
    return PlainDevice(path)


# -- section ids and instance ids --------------------------------------------------------


def test_section_ids_count_registrations_and_are_never_reused() -> None:
    registry = SaveState()
    first = registry.vmstate_register(None, 0, VMSD, "a")
    second = registry.vmstate_register(None, 0, OTHER, "b")
    registry.vmstate_unregister(None, OTHER, "b")
    third = registry.vmstate_register(None, 0, OTHER, "c")
    assert [se.section_id for se in (first, second, third)] == [0, 1, 2]
    assert registry.handlers == [first, third]


def test_a_given_instance_id_is_kept_and_a_free_one_is_one_above_the_greatest() -> None:
    registry = SaveState()
    assert registry.calculate_new_instance_id("dev") == 0
    ids = [
        registry.vmstate_register(None, wanted, VMSD, wanted).instance_id for wanted in (5, -1, 2)
    ]
    assert ids == [5, 6, 2]
    assert registry.vmstate_register(None, ANY_INSTANCE, VMSD, None).instance_id == 7
    assert registry.calculate_new_instance_id("elsewhere") == 0


def test_a_second_handler_of_one_name_and_instance_is_refused() -> None:
    registry = SaveState()
    registry.vmstate_register(None, 1, VMSD, "a")
    registry.vmstate_register(None, 2, VMSD, "a")
    with pytest.raises(ValueError, match="'dev' instance 1 is registered twice"):
        registry.vmstate_register(None, 1, VMSD, "b")
    assert len(registry.handlers) == 2


# -- device paths and compat entries -----------------------------------------------------


def test_a_device_path_prefixes_the_name_and_leaves_the_old_one_as_compat() -> None:
    registry = SaveState()
    entry = registry.vmstate_register(on_bus(), 4, VMSD, None)
    assert (entry.idstr, entry.instance_id) == ("0000:00:03.0/dev", 0)
    assert entry.compat == CompatEntry("dev", 4)


def test_compat_instance_ids_are_counted_among_compat_entries() -> None:
    registry = SaveState()
    registry.vmstate_register(None, 7, VMSD, "no path")
    entries = [registry.vmstate_register(on_bus(f"slot{n}"), -1, VMSD, n) for n in range(3)]
    assert [se.compat for se in entries] == [CompatEntry("dev", n) for n in range(3)]
    assert registry.calculate_compat_instance_id("dev") == 3
    assert registry.calculate_compat_instance_id("other") == 0


def test_a_device_off_any_bus_has_no_compat_entry() -> None:
    entry = SaveState().vmstate_register(on_bus(None), 3, VMSD, None)
    assert (entry.idstr, entry.instance_id, entry.compat) == ("dev", 3, None)


def test_two_devices_on_one_path_are_refused() -> None:
    registry = SaveState()
    registry.vmstate_register(on_bus(), -1, VMSD, "a")
    with pytest.raises(ValueError, match="share the path"):
        registry.vmstate_register(on_bus(), -1, VMSD, "b")


@pytest.mark.parametrize(
    ("path", "name"),
    [
        (None, "x" * (IDSTR_MAX + 1)),
        ("p" * IDSTR_MAX, "x"),
        (None, ""),
        ("\N{SNOWMAN}", "x"),
    ],
)
def test_a_name_that_does_not_fit_its_length_byte_is_refused(path: str | None, name: str) -> None:
    registry = SaveState()
    with pytest.raises(ValueError):
        registry.vmstate_register(on_bus(path), 0, VMStateDescription(name), None)
    assert registry.handlers == []
    assert registry.global_section_id == 0


def test_the_longest_name_fits() -> None:
    entry = SaveState().vmstate_register(on_bus("p" * 253), 0, VMStateDescription("x"), None)
    assert len(entry.idstr) == IDSTR_MAX
    assert SaveState().vmstate_register(None, 0, VMStateDescription("x"), None).idstr == "x"


def test_an_early_section_is_known_at_its_registration() -> None:
    early = VMStateDescription("early", early_setup=True)
    assert SaveState().vmstate_register(None, 0, early, None).early
    assert not SaveState().vmstate_register(None, 0, VMSD, None).early


# -- kinds of handler --------------------------------------------------------------------


def test_a_live_handler_is_ram_like_and_the_others_are_not() -> None:
    registry = SaveState()
    live = registry.register_savevm_live(None, "ram", 0, 4, LIVE, None)
    old = registry.register_savevm(None, "old", 0, 2, lambda f, o: None, lambda f, o, v: 0, None)
    described = registry.vmstate_register(None, 0, VMSD, None)
    assert [(se.is_ram, se.live, se.full, se.ends) for se in (live, old, described)] == [
        (True, True, False, False),
        (False, False, True, False),
        (False, False, True, False),
    ]
    assert [se.version_id for se in (live, old, described)] == [4, 2, 3]
    assert old.ops is not None
    assert old.vmsd is None


def test_a_live_handler_that_completes_ends() -> None:
    ops = SaveVMHandlers(save_live_setup=lambda f, o: 0, save_live_complete=lambda f, o: 0)
    assert SaveState().register_savevm_live(None, "ram", 0, 4, ops, None).ends
    half = SaveVMHandlers(save_live_complete=lambda f, o: 0)
    assert not SaveState().register_savevm_live(None, "ram", 0, 4, half, None).ends


def test_migration_parameters_ask_for_nothing_by_default() -> None:
    assert MigrationParams() == MigrationParams(blk=False, shared=False)


# -- aliases -----------------------------------------------------------------------------


def test_an_alias_is_for_versions_that_are_still_read() -> None:
    registry = SaveState()
    entry = registry.vmstate_register_with_alias_id(None, 0, VMSD, None, 9, required_for_version=2)
    assert entry.alias_id == 9
    with pytest.raises(ValueError, match="drop it"):
        registry.vmstate_register_with_alias_id(None, 1, VMSD, None, 9, required_for_version=1)
    # Without an alias the version does not matter.
    assert registry.vmstate_register_with_alias_id(None, 1, VMSD, None).alias_id == NO_ALIAS


# -- unregistering -----------------------------------------------------------------------


def test_old_style_handlers_are_forgotten_by_name_and_opaque() -> None:
    registry = SaveState()
    one, two = PlainDevice("slot"), PlainDevice(None)
    registry.register_savevm_live(one, "dev", -1, 1, NOTHING, one)
    registry.register_savevm_live(two, "dev", -1, 1, NOTHING, two)
    registry.register_savevm_live(two, "dev", -1, 1, NOTHING, one)
    registry.unregister_savevm(None, "nothing", one)
    registry.unregister_savevm(None, "dev", PlainDevice(None))
    assert len(registry.handlers) == 3
    registry.unregister_savevm(one, "dev", one)
    registry.unregister_savevm(two, "dev", two)
    assert [se.opaque for se in registry.handlers] == [one]


def test_described_devices_are_forgotten_by_description_and_opaque() -> None:
    registry = SaveState()
    one, two = PlainDevice("slot"), PlainDevice(None)
    registry.vmstate_register(one, -1, VMSD, one)
    registry.vmstate_register(two, -1, VMSD, two)
    registry.vmstate_register(two, -1, OTHER, two)
    registry.vmstate_unregister(None, VMSD, one)
    registry.vmstate_unregister(two, VMSD, PlainDevice(None))
    assert [(se.idstr, se.opaque) for se in registry.handlers] == [("dev", two), ("other", two)]


# -- who a section is for ----------------------------------------------------------------


def found(registry: SaveState, idstr: str, instance_id: int, seed: bool = False) -> object:
    se = registry.find_se(idstr, instance_id, SEED if seed else STRICT)
    return None if se is None else se.opaque


@pytest.mark.parametrize("seed", [False, True])
def test_a_section_is_for_the_handler_of_its_name_and_instance(seed: bool) -> None:
    registry = SaveState()
    registry.vmstate_register(None, 0, VMSD, "zero")
    registry.vmstate_register(None, 1, VMSD, "one")
    registry.vmstate_register(None, 0, OTHER, "other")
    assert found(registry, "dev", 1, seed) == "one"
    assert found(registry, "other", 0, seed) == "other"
    assert found(registry, "dev", 2, seed) is None
    assert found(registry, "de", 0, seed) is None
    assert found(registry, "dev ", 0, seed) is None


@pytest.mark.parametrize("registered", [0x80000001, 0x80000001 - (1 << 32)])
def test_an_instance_id_above_2_to_31_is_found_as_it_arrives(registered: int) -> None:
    registry = SaveState()
    registry.vmstate_register(None, registered, VMSD, "high")
    assert found(registry, "dev", 0x80000001) == "high"
    assert found(registry, "dev", 1) is None


@pytest.mark.parametrize("seed", [False, True])
def test_a_section_may_name_the_alias(seed: bool) -> None:
    registry = SaveState()
    registry.vmstate_register_with_alias_id(None, 5, VMSD, "aliased", 1, 2)
    assert found(registry, "dev", 1, seed) == "aliased"
    assert found(registry, "dev", 5, seed) == "aliased"
    assert found(registry, "dev", 0, seed) is None


def test_no_alias_is_not_an_instance_a_stream_can_name() -> None:
    registry = SaveState()
    registry.vmstate_register(None, 5, VMSD, "no alias")
    assert found(registry, "dev", 0xFFFFFFFF) is None
    # C keeps -1 in the field and compares it with what the stream says.
    assert found(registry, "dev", 0xFFFFFFFF, seed=True) == "no alias"


def test_under_the_seed_a_live_handler_also_answers_to_instance_zero() -> None:
    registry = SaveState()
    registry.register_savevm_live(None, "ram", 5, 4, LIVE, "ram")
    assert found(registry, "ram", 5) == "ram"
    assert found(registry, "ram", 0) is None
    assert found(registry, "ram", 0, seed=True) == "ram"


@pytest.mark.parametrize("seed", [False, True])
def test_an_old_stream_names_a_device_without_its_path(seed: bool) -> None:
    registry = SaveState()
    for number in range(2):
        registry.vmstate_register(on_bus(f"slot{number}"), -1, VMSD, number)
    assert found(registry, "dev", 1, seed) == 1
    assert found(registry, "slot1/dev", 0, seed) == 1
    assert found(registry, "slot0/dev", 1, seed) is None
    assert found(registry, "dev", 2, seed) is None
    assert found(registry, "slot1", 0, seed) is None


@pytest.mark.parametrize("seed", [False, True])
def test_an_alias_goes_with_the_compat_name_too(seed: bool) -> None:
    registry = SaveState()
    registry.vmstate_register_with_alias_id(on_bus(), 3, VMSD, "x", 8, 2)
    assert found(registry, "dev", 3, seed) == "x"
    assert found(registry, "dev", 8, seed) == "x"
    assert found(registry, "dev", 4, seed) is None


def test_under_the_seed_the_compat_name_may_occur_anywhere() -> None:
    registry = SaveState()
    registry.handlers.append(
        SaveStateEntry("bus/dev/port", 0, 1, 0, "x", compat=CompatEntry("dev", 2))
    )
    assert found(registry, "dev", 2) is None
    assert found(registry, "dev", 2, seed=True) == "x"


# -- a machine ---------------------------------------------------------------------------


def test_each_machine_has_a_registry_of_its_own() -> None:
    one, two = Machine("none"), Machine("none")
    plug(one, VMSD, PlainDevice())
    plug_handlers(one, "old", OLD_STYLE, PlainDevice("slot"))
    assert [se.idstr for se in one.savevm.handlers] == ["dev", "slot/old"]
    assert two.savevm.handlers == []
