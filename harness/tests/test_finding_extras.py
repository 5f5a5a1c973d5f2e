"""What a target adds to a finding's folder, and the hexdump of all that was changed."""

import os
import stat
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadfuzz.abc import BringsScript
from loadfuzz.engines.remote_loop import writer_for
from loadfuzz.errors import UsageError
from loadfuzz.events import Event, MachineryWarning
from loadfuzz.execution import Depth, Execution, ExitKind
from loadfuzz.findings import Earlier, Finding, Violation
from loadfuzz.inputs import Input, digest_of
from loadfuzz.mutation import Mutation, Splice, apply
from loadfuzz.plugins import load_target
from loadfuzz.repro.folder import read_finding, write_finding
from loadfuzz.repro.hexdump import changed
from loadfuzz.repro.hexdump_text import write_hexdump
from loadfuzz.repro.report import MUTATIONS_SHOWN, WIDTH
from loadfuzz.storage import write_folder_once
from loadfuzz.testing.remembering import RememberingTarget

SEED = b"QEVM" + bytes(range(60))
FOOTER = Mutation("difference", "timer/footer", (Splice(20, 22, b"\xff\xff"),), "5141", "65535")
HEAD = Mutation("difference", "header/version", (Splice(4, 5, b"\xee"),), "0", "238")


def finding_of(*mutations: Mutation, earlier: tuple[Earlier, ...] = ()) -> Finding:
    """A finding whose input was made by these mutations."""
    before = tuple(apply(item.mutations, item.parent_stream) for item in earlier)
    return Finding(
        "remembering", Input(apply(mutations, SEED), before=before),
        Violation("clean-error", "it died", "x", "y", "place"),
        Execution(ExitKind.CRASHED, Depth.HEADER),
        digest_of(SEED), SEED, mutations, earlier=earlier,
    )  # fmt: skip


# -- the folder ----------------------------------------------------------------------------------


def test_further_files_are_kept_and_scripts_can_be_run(tmp_path: Path) -> None:
    finding = finding_of(FOOTER)
    place = write_finding(tmp_path, finding, {"image": b"\1", "reproduce.sh": b"exit 1"})
    assert place is not None
    folder = tmp_path / place
    assert (folder / "image").read_bytes() == b"\1"
    assert os.access(folder / "reproduce.sh", os.X_OK)
    assert not os.access(folder / "image", os.X_OK)
    assert read_finding(folder) == finding
    assert "\n   sh reproduce.sh " in (folder / "report.txt").read_text()


def test_the_report_names_no_script_where_there_is_none(tmp_path: Path) -> None:
    place = write_finding(tmp_path, finding_of(FOOTER), {"other.sh": b""})
    assert place is not None
    assert "reproduce.sh" not in (tmp_path / place / "report.txt").read_text()


@pytest.mark.parametrize(
    "name",
    ["input", "parent", "machine", "finding.json", "report.txt", "before-1", "before-12-parent",
     "", ".", "..", ".hidden", "a/b", "-rf", "two words", "x" * 101],
)  # fmt: skip
def test_a_further_file_may_not_have_any_name(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="cannot name a further file"):
        write_finding(tmp_path, finding_of(FOOTER), {name: b""})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o755), (0o077, 0o700), (0o027, 0o750)])
def test_who_may_read_a_script_may_run_it(tmp_path: Path, umask: int, mode: int) -> None:
    before = os.umask(umask)
    try:
        write_folder_once(tmp_path / "x", {"a.sh": b"", "b": b""}, executable=["a.sh"])
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "x" / "a.sh").stat().st_mode) == mode
    assert stat.S_IMODE((tmp_path / "x" / "b").stat().st_mode) == mode & 0o666


# -- the engine ----------------------------------------------------------------------------------


class Scripted(RememberingTarget):
    """Brings files, or fails to."""

    def __init__(self, answer: Mapping[str, bytes] | Exception) -> None:
        super().__init__(load_target("reference"), "full-device-state-only", [])
        self.answer = answer

    def script(self, finding: Finding) -> Mapping[str, bytes]:
        """As was said."""
        if isinstance(self.answer, Exception):
            raise self.answer
        return {**self.answer, "signature": finding.signature.encode()}


def test_a_target_that_brings_a_script_is_told_from_one_that_does_not() -> None:
    assert isinstance(Scripted({}), BringsScript)
    plain = RememberingTarget(load_target("reference"), "full-device-state-only", [])
    assert not isinstance(plain, BringsScript)


def test_what_a_target_brings_is_kept_with_the_finding(tmp_path: Path) -> None:
    told: list[Event] = []
    place = writer_for(Scripted({"a": b"1"}), write_finding, told.append)(tmp_path, finding_of())
    assert place is not None
    assert (tmp_path / place / "a").read_bytes() == b"1"
    assert (tmp_path / place / "signature").read_bytes() == b"clean-error:place"
    assert told == []


@pytest.mark.parametrize("answer", [ValueError("no script today"), {"input": b"not ours"}])
def test_a_script_that_cannot_be_had_does_not_lose_the_finding(
    tmp_path: Path, answer: Mapping[str, bytes] | Exception
) -> None:
    told: list[Event] = []
    finding = finding_of(FOOTER)
    place = writer_for(Scripted(answer), write_finding, told.append)(tmp_path, finding)
    assert place is not None
    assert read_finding(tmp_path / place) == finding
    (warning,) = told
    assert isinstance(warning, MachineryWarning)
    assert warning.text.startswith("clean-error:place is kept without a script: ")


def test_files_for_which_there_is_no_room_do_not_lose_the_finding(tmp_path: Path) -> None:
    told: list[Event] = []

    def write(out: Path, finding: Finding, extra: Mapping[str, bytes]) -> str | None:
        if extra:
            raise OSError(28, "No space left on device")
        return write_finding(out, finding, extra)

    place = writer_for(Scripted({"a": b"1"}), write, told.append)(tmp_path, finding_of())
    assert place is not None
    assert [type(event) for event in told] == [MachineryWarning]


# -- hexdump.txt ---------------------------------------------------------------------------------


def test_each_changed_field_is_named_and_its_bytes_alone_are_marked() -> None:
    earlier = (Earlier(SEED, (HEAD,)), Earlier(SEED), Earlier())
    lines = write_hexdump(finding_of(FOOTER, HEAD, earlier=earlier)).splitlines()
    digest = digest_of(SEED)[:16]
    assert lines[:9] == [
        "before-1: 64 bytes, loaded first",
        f"made from before-1-parent: 64 bytes, sha256 {digest}...",
        "",
        "   header/version: 0 -> 238",
        "",
        "   000000  51 45 56 4d ee 01 02 03 04 05 06 07 08 09 0a 0b  QEVM............",
        "                       ^^",
        "   000010  0c 0d 0e 0f 10 11 12 13 14 15 16 17 18 19 1a 1b  ................",
        "",
    ]
    second, third, last = (
        lines.index(f"{name}: {size}{when}")
        for name, size, when in (
            ("before-2", "64 bytes", ", loaded first"),
            ("before-3", "0 bytes", ", loaded first"),
            ("input", "64 bytes", ""),
        )
    )
    assert lines[second + 2] == "nothing was changed in it: it is a good stream"
    assert lines[third + 1] == "what it was made from is not known"
    of_input = lines[last:]
    assert of_input[1] == f"made from parent: 64 bytes, sha256 {digest}..."
    footer = of_input.index("   timer/footer: 5141 -> 65535")
    head = of_input.index("   header/version: 0 -> 238")
    marks = [line.strip() for line in of_input if line and not line.strip(" ^|")]
    assert footer < head
    assert marks == ["^^ ^^", "^^"]


def test_a_change_that_was_changed_again_is_said_to_be() -> None:
    again = Mutation("difference", "timer/all", (Splice(19, 24, b"?"),), "a", "b")
    text = write_hexdump(finding_of(FOOTER, again))
    assert "(what came after it has changed this again)" in text


def test_what_does_not_fit_its_seed_is_still_named() -> None:
    finding = finding_of(FOOTER)
    unknown = Finding(
        finding.target, finding.input, finding.violation, finding.execution,
        mutations=finding.mutations,
    )  # fmt: skip
    text = write_hexdump(unknown)
    assert "timer/footer: 5141 -> 65535" in text
    assert "was not kept" in text


def test_of_very_many_changes_the_first_are_shown() -> None:
    text = write_hexdump(finding_of(*[HEAD] * (MUTATIONS_SHOWN + 3)))
    assert text.count("header/version") == MUTATIONS_SHOWN
    assert "3 further changes: see finding.json" in text


texts = st.text(max_size=600)


@given(st.lists(st.tuples(texts, texts, texts, texts), max_size=4))
def test_every_line_fits_and_is_fit_to_be_read(fields: list[tuple[str, str, str, str]]) -> None:
    mutations = tuple(
        Mutation(operator, path, (Splice(1, 3, b"ab"),), old, new)
        for operator, path, old, new in fields
    )
    lines = write_hexdump(finding_of(*mutations)).split("\n")
    assert all(len(line) <= WIDTH and line.isprintable() for line in lines)


def test_of_several_changes_one_can_be_asked_for() -> None:
    first = Mutation("m", "", (Splice(10, 11, b"x"),))
    second = Mutation("m", "", (Splice(0, 0, b"yyy"), Splice(20, 24, b"")))
    assert changed([first, second], 40, only=0) == [(13, 14)]
    assert changed([first, second], 40, only=1) == [(0, 3), (23, 23)]
