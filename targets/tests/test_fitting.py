"""Targets that are fitted to the seeds they are given."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from loadfuzz.abc import FitsSeeds, Target
from loadfuzz.errors import UsageError
from loadfuzz.execution import Depth, Execution, ExitKind
from loadfuzz.findings import Finding, Violation
from loadfuzz.fitting import fit, refit, split
from loadfuzz.inputs import WHOLE, Input, Seed, digest_of
from loadfuzz.plugins import check_target_name, load_target
from loadfuzz.repro.folder import MACHINE, read_finding, read_manifest, write_finding
from loadfuzz_targets.foreign import ForeignSubject, ForeignTarget
from loadfuzz_targets.reference import TARGET
from savevm import LoadError
from savevm.board import machine_with, none_machine
from savevm.document import Document
from savevm.save import save_to_bytes


def foreign(machine_type: str = "pc-of-somebody-else", steps: int = 0) -> bytes:
    machine = machine_with("timer", "ram", "cpu", "nic", machine_type=machine_type)
    machine.step(steps)
    return save_to_bytes(machine)


def seed(path: Path, stream: bytes) -> Seed:
    path.write_bytes(stream)
    return Seed(path.name, stream, str(path))


OWN = next(iter(TARGET.seeds())).stream


# -- which target ------------------------------------------------------------------------------


def test_the_reference_can_be_fitted_and_the_planted_bugs_can_not() -> None:
    assert isinstance(load_target("reference"), FitsSeeds)
    assert not isinstance(load_target("planted"), FitsSeeds)


def test_for_its_own_seeds_the_reference_stays_what_it_is(tmp_path: Path) -> None:
    assert fit(TARGET, [seed(tmp_path / "own", OWN)]) is TARGET
    both = [seed(tmp_path / "foreign", foreign()), seed(tmp_path / "own", OWN)]
    assert fit(TARGET, both) is TARGET


@pytest.mark.parametrize(
    "stream", [b"", b"junk", OWN[:5], foreign()[:-900]], ids=["empty", "junk", "cut", "no vmdesc"]
)
def test_a_stream_that_describes_nothing_decides_nothing(stream: bytes, tmp_path: Path) -> None:
    assert fit(TARGET, [seed(tmp_path / "x", stream)]) is TARGET


def test_the_first_stream_that_a_machine_can_be_built_from_decides(tmp_path: Path) -> None:
    seeds = [
        seed(tmp_path / "junk", b"junk"),
        seed(tmp_path / "first", foreign("first")),
        seed(tmp_path / "second", foreign("second")),
    ]
    fitted = fit(TARGET, seeds)
    assert fitted.name == f"reference@{tmp_path / 'first'}"
    assert "'first'" in fitted.summary
    with pytest.raises(LoadError, match="expected machine type 'first', read 'second'"):
        fitted.open().load(seeds[2].stream, WHOLE, None)


def test_a_target_without_the_hook_is_itself() -> None:
    planted = load_target("planted")
    assert fit(planted, [Seed("x", foreign(), "x")]) is planted


# -- in another process ----------------------------------------------------------------------------


def test_a_specification_brings_the_same_target_back(tmp_path: Path) -> None:
    fitted = fit(TARGET, [seed(tmp_path / "vm", foreign(steps=60))])
    again = load_target(fitted.name)
    assert again.name == fitted.name
    assert again.open().digest() == fitted.open().digest()


def test_a_name_alone_is_no_specification() -> None:
    assert split("reference") == ("reference", "")
    assert split("reference@/a@b") == ("reference", "/a@b")
    assert refit(TARGET, "reference") is TARGET
    assert check_target_name("reference@anything").name == "reference"


def test_a_stream_that_is_gone_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read"):
        load_target(f"reference@{tmp_path / 'gone'}")


def test_a_stream_that_is_another_now_is_a_usage_error(tmp_path: Path) -> None:
    fitted = fit(TARGET, [seed(tmp_path / "vm", foreign())])
    (tmp_path / "vm").write_bytes(OWN)
    with pytest.raises(UsageError, match="cannot be fitted"):
        load_target(fitted.name)


def test_a_target_that_cannot_be_fitted_says_so(tmp_path: Path) -> None:
    seed(tmp_path / "vm", foreign())
    with pytest.raises(UsageError, match="'planted' cannot be fitted"):
        load_target(f"planted@{tmp_path / 'vm'}")


def test_the_page_of_interfaces_holds_for_anybody() -> None:
    class Mine:
        def for_seeds(self, seeds: Sequence[Seed]) -> Target:
            return load_target("planted")

    assert isinstance(Mine(), FitsSeeds)


# -- findings ------------------------------------------------------------------------------------


def finding_on(target: str, stream: bytes) -> Finding:
    return Finding(
        target=target,
        input=Input(stream),
        violation=Violation("atomic", "t", "e", "a", "timer"),
        execution=Execution(ExitKind.REJECTED, Depth.HEADER),
    )


def test_a_finding_keeps_the_stream_its_target_was_fitted_to(tmp_path: Path) -> None:
    stream = foreign(steps=60)
    path = tmp_path / "vm"
    fitted = fit(TARGET, [seed(path, stream)])
    out = tmp_path / "out"
    out.mkdir()
    place = write_finding(out, finding_on(fitted.name, stream))
    assert place is not None
    path.unlink()
    # Moved, it still is complete.
    (out / place).rename(tmp_path / "moved")
    found = read_finding(tmp_path / "moved")
    assert found.target == f"reference@{tmp_path / 'moved' / MACHINE}"
    assert str(tmp_path) not in read_manifest(tmp_path / "moved").target
    assert load_target(found.target).open().digest() == fitted.open().digest()


def test_a_finding_of_an_unfitted_target_has_no_such_stream(tmp_path: Path) -> None:
    place = write_finding(tmp_path, finding_on("reference", OWN))
    assert place is not None
    assert not (tmp_path / place / MACHINE).exists()
    assert read_finding(tmp_path / place).target == "reference"


# -- the machine ---------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [0, 60])
def test_the_fitted_machine_saves_its_stream_bit_for_bit(steps: int) -> None:
    stream = foreign(steps=steps)
    target = ForeignTarget("reference", Seed("vm", stream, "vm"))
    subject = target.open()
    assert subject.save() == stream
    subject.load(stream, WHOLE, None)
    assert subject.save() == stream
    assert digest_of(next(iter(target.seeds())).stream) == digest_of(stream)


def test_ram_is_saved_in_the_pieces_it_came_in() -> None:
    document = Document.parse(save_to_bytes(none_machine()))
    # As a stock QEMU has it: without RAM nothing is sent between START and END.
    stream = document.without(document.find("ram/PART[0]"))
    subject = ForeignTarget("reference", Seed("none", stream, "none")).open()
    assert subject.save() == stream
    subject.load(document.to_bytes(), WHOLE, None)
    assert subject.save() == stream
    assert stream != document.to_bytes()


def test_what_was_loaded_is_saved_also_where_ram_differs() -> None:
    machine = machine_with("timer", "ram", machine_type="m")
    target = ForeignTarget("reference", Seed("vm", save_to_bytes(machine), "vm"))
    assert machine.ram is not None
    machine.ram.blocks[0].memory.write(0x3FF0, bytes(range(1, 33)))
    subject = target.open()
    subject.load(save_to_bytes(machine), WHOLE, None)
    saved = subject.save()
    second = target.open()
    second.load(saved, WHOLE, None)
    assert second.digest() == subject.digest()
    assert second.save() == saved
    subject.reset()
    assert subject.digest() == target.open().digest()


def test_a_block_that_the_stream_did_not_have_is_refused() -> None:
    stream = foreign()
    target = ForeignTarget("reference", Seed("vm", stream, "vm"))
    subject = target.open()
    document = target.parse(stream)
    name = document.find("ram/START/mem size/pc.ram/ram block name")
    with pytest.raises(LoadError, match=r"no RAM block 'pc\.rax'"):
        subject.load(document.with_value(name, "pc.rax"), WHOLE, None)


def test_a_fitted_machine_runs_its_clock_and_knows_no_invariants() -> None:
    subject = ForeignTarget("reference", Seed("vm", foreign(), "vm")).open()
    assert isinstance(subject, ForeignSubject)
    before = subject.digest()
    subject.step(3)
    assert subject.digest() != before
    assert subject.check_invariants() == []
    subject.machine.reset()


def test_a_machine_without_ram_blocks_fits_too() -> None:
    stream = save_to_bytes(none_machine())
    subject = ForeignTarget("reference", Seed("none", stream, "none")).open()
    assert subject.save() == stream
    assert Document.parse(stream).problems == []
