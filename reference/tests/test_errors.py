"""Errors carry data and say it themselves."""

import copy
import pickle
from errno import EINVAL, EIO

import pytest

from savevm import LoadError, SaveError, SavevmError, SnapshotError


def test_a_load_error_prints_path_reason_and_offset() -> None:
    error = LoadError("expected section id 0x4, read 0x9", offset=0x1F3, path=("timer", "footer"))
    assert str(error) == "timer: footer: expected section id 0x4, read 0x9 (offset 0x1f3)"


def test_a_load_error_without_place_prints_its_reason_alone() -> None:
    assert str(LoadError("blocked")) == "blocked"


def test_offset_zero_is_an_offset() -> None:
    assert str(LoadError("bad magic", offset=0)) == "bad magic (offset 0x0)"


def test_within_puts_outer_names_in_front() -> None:
    error = LoadError("x", path=("field",))
    assert error.within("device").within("command", "package") is error
    assert error.path == ("command", "package", "device", "field")


@pytest.mark.parametrize("clone", [copy.copy, lambda error: pickle.loads(pickle.dumps(error))])
def test_a_load_error_keeps_everything_between_processes(clone) -> None:  # type: ignore[no-untyped-def]
    error = LoadError("r", errno=EIO, offset=3, path=("a", "b"), expected=1, actual=2, qemu="text")
    again = clone(error)
    assert type(again) is LoadError
    assert vars(again) == vars(error)
    assert str(again) == str(error)


@pytest.mark.parametrize("kind", [SaveError, SnapshotError])
def test_other_errors_carry_reason_and_errno(kind: type[SaveError] | type[SnapshotError]) -> None:
    assert kind("why").errno == EINVAL
    error = pickle.loads(pickle.dumps(kind("why", errno=EIO)))
    assert (str(error), error.reason, error.errno) == ("why", "why", EIO)


def test_one_root_holds_them_all() -> None:
    assert all(issubclass(kind, SavevmError) for kind in (LoadError, SaveError, SnapshotError))
    assert not issubclass(LoadError, SaveError)
