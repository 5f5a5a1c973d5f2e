"""``loadfuzz inspect``: what it shows, what it says of damage, and how it ends."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadfuzz.cli.inspect import open_stream
from loadfuzz.cli.main import run_cli
from loadfuzz.cli.stream_view import WIDTH, Options, View, printable, size_words, value_words
from loadfuzz.corpus.damages import DAMAGES, Damage
from loadfuzz.plugins import load_target
from savevm.board import RAM, machine_with, none_machine
from savevm.document import Consistency, Document, Role
from savevm.document.inspection import FieldLine, describe
from savevm.save import save_to_bytes

Run = Callable[..., tuple[int, str, str]]

NONE = save_to_bytes(none_machine())
SEEDS = {seed.name: seed.stream for seed in load_target("reference").seeds()}


@pytest.fixture
def inspect(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """Inspect streams: exit code, stdout, stderr."""

    def run(*streams: bytes, options: tuple[str, ...] = ()) -> tuple[int, str, str]:
        paths = []
        for number, stream in enumerate(streams):
            path = tmp_path / f"{number}.stream"
            path.write_bytes(stream)
            paths.append(str(path))
        code = run_cli(["inspect", *options, *paths])
        out, err = capsys.readouterr()
        return code, out, err

    return run


def damaged(path: str, value: int) -> bytes:
    document = Document.parse(NONE)
    return document.with_value(document.find(path), value, Consistency.KEEP)


# -- what it shows -------------------------------------------------------------------------------


def test_a_whole_stream_is_shown_with_offsets_and_values(inspect: Run, tmp_path: Path) -> None:
    code, out, _ = inspect(NONE)
    assert code == 0
    assert out == WHOLE.format(path=tmp_path / "0.stream")


WHOLE = """\
{path}: 765 bytes, machine none
00000000  header
  00000000  magic                        magic         1363498573 (0x5145564d)
  00000004  version                      version       3
00000008  configuration
  00000009  len                          uint32        4
  0000000d  name                         buffer        "none"
00000011  #0  START ram                    id 2, instance 0, version 4, 38 bytes
            no blocks
00000037  #1  PART  ram                                           id 2, 18 bytes
            no pages
00000049  #2  END   ram                                           id 2, 18 bytes
            no pages
0000005b  #3  FULL  timer                  id 0, instance 0, version 2, 48 bytes
  0000006e  cpu_ticks_offset             int64         0
  00000076  unused                       unused_buffer 8 zero bytes
  0000007e  cpu_clock_offset             int64         0
0000008b  #4  FULL  globalstate           id 4, instance 0, version 1, 134 bytes
  000000a4  size                         uint32        10 (0xa)
  000000a8  runstate                     buffer        "prelaunch" and 91 zeros
00000111  EOF
00000112  vmdesc                      2 devices, pages of 4,096 bytes, 491 bytes
5 sections, no problems
"""


@pytest.mark.parametrize("name", SEEDS)
def test_every_seed_is_shown_without_a_problem(name: str, inspect: Run) -> None:
    code, out, err = inspect(SEEDS[name])
    assert (code, err) == (0, "")
    assert not [line for line in out.splitlines() if line.startswith("!")]
    assert "not understood" not in out


@pytest.mark.parametrize("name", SEEDS)
def test_no_line_is_wider_than_the_screen(name: str, inspect: Run) -> None:
    _, out, _ = inspect(SEEDS[name], options=("--hex",))
    wide = [line for line in out.splitlines()[1:] if len(line) > WIDTH]
    assert wide == []


def test_ram_is_summed_up(inspect: Run) -> None:
    machine = machine_with("timer", RAM, "cpu")
    machine.step(50)
    _, out, _ = inspect(save_to_bytes(machine))
    assert "            pc.ram: 64 KiB long\n" in out
    assert "zero pages" in out
    assert "ram header" not in out


def test_ram_asked_for_by_name_is_shown_item_by_item(inspect: Run) -> None:
    _, out, _ = inspect(SEEDS["ram-fresh"], options=("--section", "ram"))
    assert "ram header" in out
    assert "timer" not in out


def test_subsections_have_a_line_of_their_own(inspect: Run) -> None:
    _, out, _ = inspect(SEEDS["optional-parts-0"])
    assert "subsection cpu/" in out
    assert ", version 1\n" in out


def test_without_fields_there_is_a_line_for_each_section(inspect: Run) -> None:
    _, out, _ = inspect(NONE, options=("--no-fields",))
    assert "#3  FULL  timer" in out
    assert "cpu_clock_offset" not in out


def test_a_hexdump_shows_the_bytes_at_their_offsets(inspect: Run) -> None:
    _, out, _ = inspect(NONE, options=("--section", "globalstate", "--hex"))
    assert "  000000a8  70 72 65 6c 61 75 6e 63 68 00 00 00 00 00 00 00  prelaunch......." in out


def test_one_section_is_shown_alone(inspect: Run) -> None:
    code, out, _ = inspect(NONE, options=("--section", "timer"))
    assert code == 0
    assert [line.split()[3] for line in out.splitlines() if "version" in line] == ["timer"]


def test_a_section_that_is_not_there_is_a_usage_error(inspect: Run) -> None:
    code, _, err = inspect(NONE, options=("--section", "tymer"))
    assert code == 2
    assert "no section is called 'tymer'" in err


# -- damage ----------------------------------------------------------------------------------------


def test_a_wrong_footer_is_said_in_its_place_and_the_rest_is_shown(inspect: Run) -> None:
    code, out, _ = inspect(damaged("timer/footer/footer section id", 9))
    lines = out.splitlines()
    at = lines.index("! 00000087  timer: footer: expected section id 0x0, read 0x9")
    assert code == 1
    assert lines[at + 1].startswith("            QEMU says: Mismatched section id in footer")
    assert any(line.startswith("0000008b  #4  FULL  globalstate") for line in lines[at:])
    assert lines[-1] == "5 sections, 1 problem (marked with !)"


ONLY_THE_MACHINE_KNOWS = {"machine-type", "runstate-endless"}
"""Damages that a stream's own description says nothing about."""
SEEN = [d for d in DAMAGES if d.errno and d.name not in {"empty", *ONLY_THE_MACHINE_KNOWS}]


@pytest.mark.parametrize("damage", SEEN, ids=lambda damage: damage.name)
def test_every_damaged_stream_has_a_problem(damage: Damage, inspect: Run) -> None:
    stream = damage.change(load_target("reference").parse(SEEDS[damage.seed]))
    code, out, _ = inspect(stream)
    assert code == 1
    assert any(line.startswith("! ") for line in out.splitlines())


def test_damage_that_is_none_is_no_problem(inspect: Run) -> None:
    for damage in DAMAGES:
        if not damage.errno:
            stream = damage.change(load_target("reference").parse(SEEDS[damage.seed]))
            assert inspect(stream)[0] == 0, damage.name


def test_junk_is_a_problem_and_no_error(inspect: Run) -> None:
    code, out, err = inspect(bytes(range(256)) * 8)
    assert (code, err) == (1, "")
    assert "expected magic 0x5145564d, read 0x10203" in out


@pytest.mark.parametrize(
    ("head", "words"),
    [(b"QFI\xfb", "qcow2"), (b"\x1f\x8b\x08\x00", "gzip"), (b"{ } ", "JSON")],
)
def test_what_is_taken_for_a_stream_is_named(head: bytes, words: str, inspect: Run) -> None:
    code, out, _ = inspect(head + bytes(100))
    assert code == 1
    assert words in out.splitlines()[1]


def test_a_reference_stream_without_vmdesc_is_understood(inspect: Run) -> None:
    machine = machine_with("timer", RAM, "cpu", ram_bytes=3 << 16)
    machine.suppress_vmdesc = True
    code, out, _ = inspect(save_to_bytes(machine))
    assert code == 0
    assert "cpu_clock_offset" in out


def test_a_stream_that_nobody_describes_is_not_understood_and_no_problem(inspect: Run) -> None:
    machine = machine_with("timer", machine_type="unheard-of")
    machine.suppress_vmdesc = True
    code, out, _ = inspect(save_to_bytes(machine))
    assert code == 0
    assert "29 bytes" in out or "not understood" in out or "opaque" in out


def test_escape_sequences_do_not_reach_the_terminal(inspect: Run) -> None:
    document = Document.parse(NONE)
    evil = document.with_value(document.find("timer/idstr"), "\x1b[2Jtimer", Consistency.REPAIR)
    _, out, _ = inspect(evil)
    assert "\x1b" not in out
    assert "\\x1b[2Jtimer" in out


@given(st.binary(max_size=300))
def test_any_bytes_at_all_can_be_shown(tail: bytes) -> None:
    for data in (tail, NONE[:17] + tail, NONE[:80] + tail):
        document = Document.parse(data)
        view = View(describe(document), document.problems, document.read, Options(hexdump=True))
        text = "\n".join(view.lines())
        assert text.isascii() or "…" in text or "×" in text
        assert text.count("\n! ") + text.startswith("! ") == len(document.problems)


# -- JSON ------------------------------------------------------------------------------------------


def test_json_has_the_shape_that_scripts_rely_on(inspect: Run) -> None:
    code, out, _ = inspect(NONE, options=("--json",))
    report = json.loads(out)
    assert code == 0
    assert out.count("\n") == 1
    assert report["size"] == 765
    assert report["problems"] == []
    timer = next(s for s in report["sections"] if s["idstr"] == "timer")
    assert {k: timer[k] for k in ("type", "section_id", "instance_id", "version_id")} == {
        "type": "FULL", "section_id": 0, "instance_id": 0, "version_id": 2,
    }  # fmt: skip
    assert (timer["start"], timer["end"]) == (0x5B, 0x8B)
    assert timer["fields"][2] == {
        "path": "timer/cpu_clock_offset", "start": 0x7E, "end": 0x86, "type": "int64", "value": 0,
    }  # fmt: skip


def test_json_says_what_is_wrong(inspect: Run) -> None:
    code, out, _ = inspect(damaged("timer/footer/footer section id", 9), options=("--json",))
    assert code == 1
    assert json.loads(out)["problems"] == [
        {
            "start": 0x87,
            "path": "timer/footer",
            "message": "expected section id 0x0, read 0x9",
        }
    ]


def test_json_of_several_files_is_a_line_each(inspect: Run, tmp_path: Path) -> None:
    code, out, _ = inspect(NONE, damaged("timer/version id", 9), options=("--json", "--no-fields"))
    first, second = (json.loads(line) for line in out.splitlines())
    assert code == 1
    assert (first["file"], second["file"]) == (
        str(tmp_path / "0.stream"),
        str(tmp_path / "1.stream"),
    )
    assert all(section["fields"] == [] for section in first["sections"])
    assert (first["problems"], len(second["problems"])) == ([], 1)


def test_json_is_written_whatever_the_vmdesc_calls_a_field(inspect: Run) -> None:
    stream = NONE.replace(b'"cpu_ticks_offset"', b'"\\ud800ticks_offset"')
    stream = Document.parse(NONE).with_bytes(
        next(iter(Document.parse(NONE).leaves(Role.VMDESC))),
        stream[stream.rindex(b'{"page_size"') :],
        Consistency.REPAIR,
    )
    code, out, err = inspect(stream, options=("--json",))
    assert (code, err) == (0, "")
    assert [s["idstr"] for s in json.loads(out)["sections"]][-1] == "globalstate"


def test_json_can_hold_numbers_that_are_none(inspect: Run) -> None:
    _, out, _ = inspect(SEEDS["kinds-ran"], options=("--json",))
    assert "NaN" not in out
    json.loads(out)


# -- words -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "words"),
    [
        (0, "0 bytes"),
        (1000, "1,000 bytes"),
        (4096, "4 KiB"),
        (3 << 20, "3 MiB"),
        (1 << 40, "1,024 GiB"),
    ],
)
def test_sizes_are_said_in_the_unit_that_fits(size: int, words: str) -> None:
    assert size_words(size) == words


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (0, "0"), (-3, "-3"), (255, "255 (0xff)"), (True, "true"), (1 << 63, "0x8000000000000000"),
        ("a\n", '"a\\x0a"'), (b"abc\0\0", '"abc" and 2 zeros'), (b"\0\0", "2 zero bytes"),
        (b"\x01\x02", "01 02"), ([1, 2], "2 × [1, 2]"), (None, "4 bytes"), (1.5, "1.5"),
    ],
)  # fmt: skip
def test_values_are_said_as_people_read_them(value: object, words: str) -> None:
    assert value_words(FieldLine("x", 0, 4, "t", value, 1)) == words  # type: ignore[arg-type]


def test_names_are_escaped_beyond_ascii() -> None:
    assert printable("a\x1bé…") == "a\\x1b\\xe9\\u2026"


# -- files ---------------------------------------------------------------------------------------


def test_a_missing_file_does_not_hide_the_others(
    inspect: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "good").write_bytes(NONE)
    code = run_cli(["inspect", str(tmp_path / "gone"), str(tmp_path / "good")])
    out, err = capsys.readouterr()
    assert code == 2
    assert "gone does not exist" in err
    assert "5 sections, no problems" in out


def test_what_is_behind_the_end_is_not_read_into_memory(tmp_path: Path) -> None:
    path = tmp_path / "padded.stream"
    path.write_bytes(NONE)
    with path.open("r+b") as file:
        file.truncate(4 << 20)
    stream = open_stream(path)
    assert stream.inspection.size == 4 << 20
    assert [line.type for line in stream.inspection.others][-1] == "trailer"
    assert stream.inspection.others[-1].value is None
