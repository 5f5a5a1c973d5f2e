"""docs/parity.md: no function of the seed is missing and no row is empty."""

import inspect
import re
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

import pytest

TESTS = Path(__file__).parent
PAGE = TESTS.parents[1] / "docs" / "parity.md"

SEED_FUNCTIONS = (
    "announce_self_create", "qemu_announce_self_iter", "qemu_announce_self_once",
    "qemu_announce_self", "block_writev_buffer", "block_put_buffer", "block_get_buffer",
    "bdrv_fclose", "qemu_fopen_bdrv", "timer_put", "timer_get", "get_timer", "put_timer",
    "dump_vmstate_vmsf", "dump_vmstate_vmss", "dump_vmstate_vmsd", "dump_machine_type",
    "dump_vmstate_json_to_file", "calculate_new_instance_id", "calculate_compat_instance_id",
    "register_savevm_live", "register_savevm", "unregister_savevm",
    "vmstate_register_with_alias_id", "vmstate_unregister", "vmstate_load",
    "vmstate_save_old_style", "vmstate_save", "savevm_skip_section_footers", "save_section_header",
    "save_section_footer", "check_section_footer", "qemu_savevm_state_blocked",
    "qemu_savevm_state_header", "qemu_savevm_state_begin", "qemu_savevm_state_iterate",
    "should_send_vmdesc", "qemu_savevm_state_complete", "qemu_savevm_state_pending",
    "qemu_savevm_state_cancel", "qemu_savevm_state", "qemu_save_device_state", "find_se",
    "loadvm_free_handlers", "qemu_loadvm_state", "find_vmstate_bs", "del_existing_snapshots",
    "hmp_savevm", "qmp_xen_save_devices_state", "load_vmstate", "hmp_delvm", "hmp_info_snapshots",
    "vmstate_register_ram", "vmstate_unregister_ram", "vmstate_register_ram_global",
)  # fmt: skip
"""Every function that QEMU c6bd8c70's migration/savevm.c defines, in its order."""
SEED_DATA = (
    "bdrv_read_ops", "bdrv_write_ops", "vmstate_info_timer", "CompatEntry", "SaveStateEntry",
    "savevm_state", "LoadStateEntry",
)  # fmt: skip
"""Its types and tables."""


class Row(NamedTuple):
    c_name: str
    python_names: tuple[str, ...]
    tests: tuple[str, ...]


def rows() -> list[Row]:
    found = []
    for line in PAGE.read_text().splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if line.startswith("|") and not line.startswith(("|---", "| C |")):
            assert len(cells) == 3, line
            c_name, python_names, tests = (tuple(re.findall(r"`([^`]+)`", c)) for c in cells)
            assert len(c_name) == 1, line
            found.append(Row(c_name[0], python_names, tests))
    return found


ROWS = rows()
each_row = pytest.mark.parametrize("row", ROWS, ids=lambda row: row.c_name)


@cache
def defined_in(file: str) -> frozenset[str]:
    text = (TESTS / file).read_text()
    return frozenset(re.findall(r"^def (test_\w+)\(", text, re.MULTILINE))


def resolve(path: str) -> object:
    """The object at a dotted path.

    Raises:
        AttributeError, ModuleNotFoundError: there is none.
    """
    first, *names = path.split(".")
    found: object = import_module(first)
    for name in names:
        if inspect.isclass(found) and not hasattr(found, name):
            # An attribute that only instances have is set by their __init__.
            if f"self.{name}" not in inspect.getsource(found.__init__):
                raise AttributeError(path)
            return name
        found = _member(found, name)
    return found


def _member(found: object, name: str) -> object:
    if inspect.ismodule(found) and not hasattr(found, name):
        return import_module(f"{found.__name__}.{name}")
    member: object = getattr(found, name)
    return member


def test_every_function_of_the_seed_has_a_row() -> None:
    listed = [row.c_name for row in ROWS]
    missing = [name for name in (*SEED_FUNCTIONS, *SEED_DATA) if name not in listed]
    assert missing == []


def test_no_function_has_two_rows() -> None:
    listed = [row.c_name for row in ROWS]
    assert sorted(set(listed)) == sorted(listed)


def test_the_page_was_read() -> None:
    # A change of the page's form must not turn the tests below into nothing.
    assert len(ROWS) > 100
    assert len(SEED_FUNCTIONS) == 55


@each_row
def test_no_row_is_empty(row: Row) -> None:
    assert row.python_names
    assert row.tests


@each_row
def test_the_python_names_of_a_row_exist(row: Row) -> None:
    for name in row.python_names:
        assert name.startswith("savevm.")
        assert resolve(name) is not None


@each_row
def test_the_tests_of_a_row_exist(row: Row) -> None:
    for test in row.tests:
        file, _, name = test.partition("::")
        assert name in defined_in(file), test


def test_a_name_that_is_nowhere_is_noticed() -> None:
    for path in ("savevm.save.nothing", "savevm.machine.Machine.nothing", "savevm.nothing.at_all"):
        with pytest.raises((AttributeError, ModuleNotFoundError)):
            resolve(path)
