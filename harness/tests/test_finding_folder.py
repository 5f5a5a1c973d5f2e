"""A finding's folder: complete, readable by people and by us, honest about damage."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadfuzz.errors import UsageError
from loadfuzz.execution import Depth, Escape, Execution, ExitKind, Refusal
from loadfuzz.faults.plan import FaultPlan, fault_of
from loadfuzz.findings import Earlier, Finding, Violation, folder_name
from loadfuzz.inputs import Delivery, Input, digest_of
from loadfuzz.mutation import Mutation, Splice, apply
from loadfuzz.repro.folder import (
    FORMAT_OF_ONE,
    FORMAT_OF_SEQUENCE,
    FORMAT_VERSION,
    read_finding,
    write_finding,
)
from loadfuzz.repro.hexdump import changed, picture
from loadfuzz.repro.report import WIDTH, write_report

PARENT = b"QEVM" + bytes(range(60))
MUTATION = Mutation("footer-id", "timer/footer", (Splice(20, 22, b"\xff\xff"),), "4113", "65535")


def make_finding(**changed: object) -> Finding:
    """A finding with everything in it, some of it changed."""
    values: dict[str, object] = {
        "target": "planted",
        "input": Input(apply([MUTATION], PARENT), Delivery((3, 1))),
        "violation": Violation(
            "footer", "a wrong footer was accepted", "id 4113", "id 65535", "timer"
        ),
        "execution": Execution(
            ExitKind.REJECTED, Depth.FIRST_SECTION, Refusal("timer: no", 22, 20, ("timer",)),
            None, 0.25, ("a 1", "b 2"),
        ),
        "parent": digest_of(PARENT),
        "parent_stream": PARENT,
        "mutations": (MUTATION,),
        "seed": 7,
        "worker": 1,
        "executions": 99,
        "reliability": (2, 3),
    }  # fmt: skip
    return Finding(**{**values, **changed})  # type: ignore[arg-type]


def folder_of(out: Path, finding: Finding) -> Path:
    place = write_finding(out, finding)
    assert place is not None
    return out / place


def test_a_finding_comes_back_as_it_was_written(tmp_path: Path) -> None:
    finding = make_finding()
    folder = folder_of(tmp_path, finding)
    assert folder == tmp_path / "findings" / folder_name(finding.signature)
    assert read_finding(folder) == finding
    assert sorted(path.name for path in folder.iterdir()) == [
        "finding.json", "input", "parent", "report.txt",
    ]  # fmt: skip
    assert (folder / "input").read_bytes() == finding.input.stream
    assert (folder / "parent").read_bytes() == PARENT


def sequence() -> Finding:
    """One that takes two streams before its own: a changed one and a good one."""
    planted = apply([MUTATION], PARENT)
    return make_finding(
        input=Input(PARENT, before=(planted, PARENT)),
        mutations=(),
        earlier=(Earlier(PARENT, (MUTATION,)), Earlier(PARENT)),
    )


def test_a_finding_of_several_streams_comes_back_too(tmp_path: Path) -> None:
    finding = sequence()
    folder = folder_of(tmp_path, finding)
    assert read_finding(folder) == finding
    assert (folder / "before-1").read_bytes() == apply([MUTATION], PARENT)
    assert (folder / "before-2").read_bytes() == PARENT
    manifest = json.loads((folder / "finding.json").read_text())
    assert manifest["format_version"] == FORMAT_OF_SEQUENCE


def faulty() -> Finding:
    """One that takes a connection that breaks, behind a good stream."""
    plan = FaultPlan((fault_of("reset@byte:7"), fault_of("stall@section:1=20")), 900)
    return make_finding(input=Input(PARENT, before=(PARENT,), faults=plan), earlier=(Earlier(),))


def test_a_finding_with_faults_comes_back_and_its_report_tells_of_them(tmp_path: Path) -> None:
    finding = faulty()
    folder = folder_of(tmp_path, finding)
    assert read_finding(folder) == finding
    manifest = json.loads((folder / "finding.json").read_text())
    assert manifest["format_version"] == FORMAT_VERSION
    report = write_report(finding, "findings/x")
    assert "faults       connection reset after 7 bytes (must be refused)" in report
    assert all(len(line) <= WIDTH for line in report.splitlines())


def test_the_report_has_the_words_of_whoever_knew_the_stream() -> None:
    report = write_report(replace(faulty(), fault_words=("broken in ram/PART[0]",)), "findings/x")
    assert "faults       broken in ram/PART[0]" in report


def test_a_plan_that_cannot_be_carried_out_is_damage(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, faulty())
    text = (folder / "finding.json").read_text()
    (folder / "finding.json").write_text(text.replace('"number": 7', '"number": -7'))
    with pytest.raises(UsageError, match=r"is damaged: reset@byte:-7: a place is between"):
        read_finding(folder)


def test_the_report_of_several_streams_shows_each_in_turn() -> None:
    text = write_report(sequence(), "findings/x")
    first, second = text.index("before-1"), text.index("before-2")
    assert first < text.index(MUTATION.path) < text.index("^^") < second
    assert second < text.index("a good stream, as it is")
    assert all(len(line) <= WIDTH for line in text.splitlines())


def test_a_stream_to_be_loaded_first_that_was_changed_is_named(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, sequence())
    (folder / "before-2").write_bytes(b"else")
    with pytest.raises(UsageError, match="before-2 is not what was found"):
        read_finding(folder)


texts = st.text(max_size=30)
executions = st.builds(
    Execution,
    st.sampled_from(ExitKind),
    st.sampled_from(Depth),
    st.none() | st.builds(Refusal, texts, st.integers(0, 200), st.none() | st.integers(0, 99)),
    st.none() | st.builds(Escape, texts, texts, st.tuples(texts)),
    st.floats(0, 9),
    st.tuples(texts, texts),
)
findings = st.builds(
    Finding,
    st.just("planted"),
    st.builds(Input, st.binary(max_size=99), st.builds(Delivery, st.tuples(st.integers(1, 9)))),
    st.builds(Violation, texts, texts, texts, texts, texts),
    executions,
    parent_stream=st.binary(max_size=40),
    mutations=st.tuples(
        st.builds(Mutation, texts, texts, st.just(()) | st.tuples(
            st.builds(Splice, st.integers(0, 9), st.integers(9, 20), st.binary(max_size=9))
        ), texts, texts)
    ),
    reliability=st.tuples(st.integers(0, 9), st.integers(0, 9)),
)  # fmt: skip


@given(findings)
def test_every_finding_survives_its_folder(
    tmp_path_factory: pytest.TempPathFactory, finding: Finding
) -> None:
    folder = folder_of(tmp_path_factory.mktemp("out"), finding)
    assert read_finding(folder) == finding
    assert (folder / "report.txt").read_text("utf-8").isprintable() is False  # it has lines


def test_the_first_finding_of_a_signature_is_kept(tmp_path: Path) -> None:
    first = make_finding()
    folder = folder_of(tmp_path, first)
    assert write_finding(tmp_path, make_finding(executions=100)) is None
    assert read_finding(folder) == first


def test_the_manifest_says_what_scripts_want_to_know(tmp_path: Path) -> None:
    manifest = json.loads((folder_of(tmp_path, make_finding()) / "finding.json").read_text())
    assert manifest["format_version"] == FORMAT_OF_ONE
    assert manifest["target"] == "planted"
    assert manifest["signature"] == "footer:timer"
    assert manifest["oracle"] == "footer"
    assert manifest["reliability"] == [2, 3]
    assert manifest["delivery"] == {"chunks": [3, 1]}
    assert manifest["mutations"][0]["operator"] == "footer-id"


def test_the_report_shows_alarm_change_and_command(tmp_path: Path) -> None:
    text = (folder_of(tmp_path, make_finding()) / "report.txt").read_text()
    assert text.startswith("a wrong footer was accepted\n===")
    for line in (
        "expected     id 4113",
        "actual       id 65535",
        "reliability  2 of 3 runs in a fresh loader",
        "   footer-id at timer/footer",
        "      4113  ->  65535",
        "   000010  0c 0d 0e 0f ff ff 12 13 14 15 16 17 18 19 1a 1b  ................",
        "                       ^^ ^^",
        f"   loadfuzz replay {tmp_path}/findings/footer-timer-",
        "delivered    in pieces of (3, 1) bytes, repeated",
    ):
        assert f"\n{line}" in text, line


def test_the_report_of_a_seed_shows_where_the_load_stopped() -> None:
    text = write_report(make_finding(mutations=(), parent="", parent_stream=b""), "x")
    assert "nothing: the input is a seed" in text
    assert "the load stopped at offset 0x14" in text


def test_the_report_of_a_crash_shows_its_stack() -> None:
    escape = Escape("IndexError", "out of range", ("a.py:outer:1", "b.py:inner:2"))
    execution = Execution(ExitKind.CRASHED, Depth.HEADER, None, escape)
    text = write_report(make_finding(execution=execution), "x")
    assert "   IndexError: out of range\n      a.py:outer:1\n      b.py:inner:2\n" in text


def test_nothing_a_stream_says_reaches_the_terminal_unescaped() -> None:
    evil = "\x1b[2J\x07\u202eevil"
    violation = Violation("footer", evil, evil, evil, evil)
    mutation = Mutation("m", evil, (), evil, evil)
    text = write_report(make_finding(violation=violation, mutations=(mutation,)), "x")
    assert set(text) - set("\n") == {char for char in text if char.isprintable()}
    assert "\\x1b[2J" in text


def test_a_value_of_a_megabyte_does_not_fill_the_report() -> None:
    violation = Violation("footer", "t" * 10**6, "e" * 10**6, "a" * 10**6, "p" * 10**6)
    mutation = Mutation("m", "", (Splice(0, 4, b"x" * 10**6),), "o" * 10**6, "n" * 10**6)
    stream = apply([mutation], PARENT)
    finding = make_finding(violation=violation, mutations=(mutation,), input=Input(stream))
    assert len(write_report(finding, "x")) < 10_000


@pytest.mark.parametrize("missing", ["input", "finding.json"])
def test_a_folder_without_a_file_is_no_finding(tmp_path: Path, missing: str) -> None:
    folder = folder_of(tmp_path, make_finding())
    (folder / missing).unlink()
    with pytest.raises(UsageError, match=f"is no finding: it has no file '{missing}'"):
        read_finding(folder)


def test_a_finding_of_a_newer_format_is_refused(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, make_finding())
    (folder / "finding.json").write_text('{"format_version": 99, "all else": "is different"}')
    with pytest.raises(UsageError, match=r"has format 99, which is newer .* update loadfuzz"):
        read_finding(folder)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format_version": 1}', "\x00"])
def test_a_damaged_manifest_is_said_to_be(tmp_path: Path, text: str) -> None:
    folder = folder_of(tmp_path, make_finding())
    (folder / "finding.json").write_text(text)
    with pytest.raises(UsageError, match=r"finding\.json is damaged: "):
        read_finding(folder)


def test_an_input_that_was_changed_is_noticed(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, make_finding())
    (folder / "input").write_bytes(b"QEVM")
    with pytest.raises(UsageError, match=r"was changed or torn \(4 bytes, 64 expected\)"):
        read_finding(folder)


def test_a_folder_in_place_of_a_file_is_an_error_of_use(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, make_finding())
    (folder / "input").unlink()
    (folder / "input").mkdir()
    with pytest.raises(UsageError, match="cannot be read: Is a directory"):
        read_finding(folder)


splices = st.lists(
    st.tuples(st.integers(0, 60), st.integers(0, 12), st.integers(0, 12)), max_size=4
)


@given(st.lists(splices, max_size=4))
def test_exactly_what_mutations_wrote_is_marked(
    shape: list[list[tuple[int, int, int]]],
) -> None:
    parent = bytes(40)
    stream, mutations = parent, []
    for wanted in shape:
        made: list[Splice] = []
        at = 0
        for gap, removed, added in wanted:
            start = min(at + gap, len(stream))
            at = min(start + removed, len(stream))
            made.append(Splice(start, at, b"\xff" * added))
        mutations.append(Mutation("m", "", tuple(made)))
        stream = apply(mutations[-1:], stream)
    marked = bytearray(len(stream))
    for start, end in changed(mutations, 40):
        assert 0 <= start <= end <= len(stream)
        marked[start:end] = b"\xff" * (end - start)
    assert marked == stream


def test_a_change_moves_with_what_is_inserted_before_it() -> None:
    first = Mutation("m", "", (Splice(10, 11, b"x"),))
    second = Mutation("m", "", (Splice(0, 0, b"yyy"), Splice(20, 24, b"")))
    assert changed([first, second], 40) == [(0, 3), (13, 14), (23, 23)]


def test_bytes_removed_at_the_very_end_are_known_too() -> None:
    assert changed([Mutation("m", "", (Splice(30, 40, b""),))], 40) == [(30, 30)]


def test_removed_bytes_are_marked_by_a_bar() -> None:
    assert picture(bytes(32), [(17, 17)])[-1] == "              |"


def test_a_picture_fits_the_report() -> None:
    lines = picture(bytes(range(256)) * 40, [(3, 5000), (9000, 9001)])
    assert max(map(len, lines)) <= WIDTH
    assert len(lines) < 60


def test_an_empty_stream_has_a_picture_too() -> None:
    assert picture(b"", [(0, 0)])


def test_a_splice_behind_the_end_of_its_parent_is_refused() -> None:
    for start, end in ((41, 41), (40, 41)):
        with pytest.raises(ValueError, match="does not fit its parent"):
            changed([Mutation("m", "", (Splice(start, end, b""),))], 40)
