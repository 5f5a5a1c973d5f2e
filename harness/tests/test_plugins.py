"""Targets by entry point: found, checked, and told apart."""

import sys
from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from types import SimpleNamespace

import pytest

from loadfuzz import plugins
from loadfuzz.errors import InfraError, UsageError
from loadfuzz.plugins import TARGETS, check_target_name, find, load_target
from loadfuzz.testing.installed import install_target


def points(*pairs: tuple[str, str]) -> list[EntryPoint]:
    return [EntryPoint(name, value, TARGETS) for name, value in pairs]


@pytest.fixture
def offer(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Makes certain targets the only installed ones."""

    def make(*pairs: tuple[str, str]) -> None:
        monkeypatch.setattr(plugins, "entry_points", lambda group: points(*pairs))

    return make


def test_plug_ins_are_listed_by_name() -> None:
    found = find(TARGETS, points(("b", "m:B"), ("a", "m:A")))
    assert list(found) == ["a", "b"]
    assert found["a"].where == "m:A"


def test_the_same_entry_twice_is_no_conflict() -> None:
    assert find(TARGETS, points(("a", "m:A"), ("a", "m:A")))["a"].rivals == ()


def test_a_name_that_two_distributions_claim_cannot_be_used() -> None:
    found = find(TARGETS, points(("a", "m:A"), ("a", "n:A"), ("a", "n:A")))
    assert found["a"].rivals == ("n:A",)
    with pytest.raises(UsageError, match=r"offered twice, by m:A and n:A; uninstall one"):
        check_target_name("a", found)


def test_a_misspelt_name_is_guessed() -> None:
    found = find(TARGETS, points(("reference", "m:A"), ("planted", "m:B")))
    with pytest.raises(UsageError, match=r"did you mean 'reference'\? Targets: planted, reference"):
        check_target_name("referense", found)
    with pytest.raises(UsageError, match=r"no target 'zzz'\. Targets: planted, reference"):
        check_target_name("zzz", found)


def test_no_targets_at_all_is_said_so(offer: Callable[..., None]) -> None:
    offer()
    with pytest.raises(UsageError, match="no targets are installed at all"):
        load_target("reference")


def test_a_target_whose_module_is_missing_is_the_machinerys_fault(
    offer: Callable[..., None],
) -> None:
    offer(("mine", "no_such_module_at_all:TARGET"))
    with pytest.raises(InfraError, match=r"'mine' cannot be imported from no_such_module_at_all"):
        load_target("mine")


def test_a_target_that_lacks_a_method_is_named_with_what_it_lacks(
    offer: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    half = SimpleNamespace(name="half", summary="", instrument=(), open=None)
    monkeypatch.setitem(sys.modules, "half_target", SimpleNamespace(TARGET=half))
    offer(("half", "half_target:TARGET"))
    with pytest.raises(InfraError, match="is no target: it lacks seeds, parse"):
        load_target("half")


@pytest.fixture
def on_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder that is looked through for distributions."""
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    sys.modules.pop("its_target", None)


def test_a_target_of_another_distribution_is_found_like_ours(on_path: Path) -> None:
    install_target(on_path, "its", "its_target:TARGET", "somebodys")
    (on_path / "its_target.py").write_text(
        "class T:\n"
        "    name = 'its'\n    summary = 'from elsewhere'\n    instrument = ()\n"
        "    open = seeds = parse = lambda self: None\n"
        "TARGET = T()\n"
    )
    assert load_target("its").summary == "from elsewhere"
    assert find(TARGETS)["its"].distribution == "somebodys"
