"""``loadfuzz seeds`` and ``loadfuzz corpus`` as commands: what they print and how they end."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from loadfuzz.cli.capturing import leave_out_pages
from loadfuzz.cli.main import run_cli
from loadfuzz.cli.seeds import default_out
from loadfuzz.corpus import manifest as manifests
from savevm.board import RAM, machine_with
from savevm.document import Document
from savevm.foreign import foreign_machine
from savevm.load import load_from_bytes
from savevm.save import save_to_bytes

Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    """Run a command in an empty folder: exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> tuple[int, str, str]:
        code = run_cli(arguments)
        out, err = capsys.readouterr()
        return code, out, err

    return run


# -- make and verify ---------------------------------------------------------------------------


def test_make_then_verify(cli: Cli, tmp_path: Path) -> None:
    code, out, _ = cli("seeds", "make")
    assert code == 0
    assert "next: loadfuzz corpus verify corpus\n" in out
    assert "      loadfuzz run reference --seeds corpus/seeds\n" in out
    code, out, _ = cli("corpus", "verify")
    rows = len(manifests.read(tmp_path / "corpus").rows)
    assert (code, out) == (0, f"corpus: {rows} streams, {rows} as they should be\n")


def test_made_twice_nothing_is_written_again(cli: Cli) -> None:
    cli("seeds", "make", "--out", "c")
    code, out, _ = cli("seeds", "make", "--out", "c")
    assert code == 0
    assert " 0 written" in out


def test_making_repairs_what_was_damaged(cli: Cli, tmp_path: Path) -> None:
    cli("seeds", "make", "--out", "c")
    (tmp_path / "c" / "seeds" / "none-fresh.stream").write_bytes(b"torn")
    assert cli("corpus", "verify", "c")[0] == 1
    assert " 1 written" in cli("seeds", "make", "--out", "c")[1]
    assert cli("corpus", "verify", "c")[0] == 0


def test_verify_names_what_is_off(cli: Cli, tmp_path: Path) -> None:
    cli("seeds", "make", "--out", "c")
    (tmp_path / "c" / "seeds" / "none-fresh.stream").unlink()
    (tmp_path / "c" / "stray").write_bytes(b"")
    code, out, _ = cli("corpus", "verify", "c")
    assert code == 1
    assert "c/seeds/none-fresh.stream: is missing" in out
    assert "c/stray: is not in the manifest" in out
    assert out.endswith(", 2 problems\n")


def test_verify_as_json(cli: Cli, tmp_path: Path) -> None:
    cli("seeds", "make", "--out", "c")
    rows = len(manifests.read(tmp_path / "c").rows)
    code, out, _ = cli("corpus", "verify", "--json", "c")
    assert code == 0
    assert json.loads(out) == {
        "folder": "c", "target": "reference", "streams": rows, "good": rows, "problems": [],
    }  # fmt: skip
    (tmp_path / "c" / "seeds" / "none-fresh.stream").unlink()
    code, out, _ = cli("corpus", "verify", "--json", "c")
    report = json.loads(out)
    assert (code, report["good"]) == (1, rows - 1)
    assert [problem["file"] for problem in report["problems"]] == ["seeds/none-fresh.stream"]


def test_a_corpus_of_an_unknown_target_says_so(cli: Cli, tmp_path: Path) -> None:
    cli("seeds", "make", "--out", "c")
    path = tmp_path / "c" / manifests.NAME
    path.write_text(path.read_text().replace('"target": "reference"', '"target": "refrence"'))
    code, _, err = cli("corpus", "verify", "c")
    assert code == 2
    assert "did you mean 'reference'" in err


# -- capture ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("machine", "name"),
    [("pc", "pc.stream"), ("q35,smm=off", "q35.stream"), ("a/b c", "a-b-c.stream")],
)
def test_a_captured_file_is_named_after_its_machine(machine: str, name: str) -> None:
    assert default_out(machine) == Path(name)


def test_a_binary_that_is_not_there_is_a_usage_error(cli: Cli, tmp_path: Path) -> None:
    code, _, err = cli("seeds", "capture", "--qemu", "no-such-qemu", "--machine", "none")
    assert code == 2
    assert "cannot run 'no-such-qemu'" in err
    assert "--qemu" in err
    assert list(tmp_path.iterdir()) == []


def test_a_binary_that_is_no_qemu_is_a_usage_error(cli: Cli) -> None:
    code, _, err = cli("seeds", "capture", "--qemu", "/bin/false", "--machine", "none")
    assert code == 2
    assert "ended with status 1 before it spoke QMP" in err


@pytest.mark.parametrize("missing", ["--qemu", "--machine"])
def test_what_must_be_given_is_asked_for(cli: Cli, missing: str) -> None:
    options = {"--qemu": "x", "--machine": "none"}
    del options[missing]
    code, _, err = cli("seeds", "capture", *(word for pair in options.items() for word in pair))
    assert code == 2
    assert missing in err


@pytest.mark.parametrize("memory", ["0", "-1", "99999", "many"])
def test_impossible_amounts_of_memory_are_refused(cli: Cli, memory: str) -> None:
    code, _, err = cli(
        "seeds", "capture", "--qemu", "x", "--machine", "pc", "--memory", memory
    )  # fmt: skip
    assert code == 2
    assert "--memory" in err


def test_where_the_file_cannot_be_qemu_is_not_even_started(cli: Cli, tmp_path: Path) -> None:
    base = ("seeds", "capture", "--qemu", "no-such-qemu", "--machine", "none", "--out")
    code, _, err = cli(*base, str(tmp_path))
    assert (code, "is a folder" in err) == (2, True)
    code, _, err = cli(*base, "nowhere/x.stream")
    assert (code, "no folder nowhere" in err) == (2, True)


def test_a_stream_without_pages_is_small_and_still_loads() -> None:
    machine = machine_with("timer", RAM, "cpu")
    machine.step(200)
    whole = save_to_bytes(machine)
    slim = leave_out_pages(Document.parse(whole))
    assert len(slim) < len(whole) / 4
    assert Document.parse(slim).problems == []
    again = foreign_machine(slim)
    load_from_bytes(again, slim)
    assert save_to_bytes(again) == slim
