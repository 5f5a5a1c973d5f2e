"""Bad input to the commands that take streams: a message that says what to do, the
right exit code, no traceback, no hang, no memory."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from loadfuzz.abc import Target
from loadfuzz.cli.main import run_cli
from loadfuzz.corpus import manifest as manifests
from loadfuzz.plugins import load_target
from savevm.board import none_machine, small_machine
from savevm.document import Consistency, Document
from savevm.save import save_to_bytes
from savevm.testing.streams import full_section, header, stream, vmdesc

Cli = Callable[..., tuple[int, str, str]]

NONE = save_to_bytes(none_machine())
CLEAN, PROBLEMS, USAGE = 0, 1, 2


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Cli:
    """Run a command: exit code, stdout, stderr.  None of them may be an error of ours."""

    def run(*arguments: str | Path) -> tuple[int, str, str]:
        code = run_cli([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        assert "internal error" not in err
        assert "Traceback" not in err
        return code, out, err

    return run


NOBODY = 65534


@pytest.fixture(scope="module")
def reference() -> Target:
    return load_target("reference")


@pytest.fixture
def unreadable(cli: Cli) -> Iterator[Path]:
    """A folder with a stream in it that nobody may look into, us included."""
    with TemporaryDirectory(prefix="loadfuzz-test-") as name:
        Path(name).chmod(0o755)
        folder = Path(name) / "locked"
        folder.mkdir()
        (folder / "vm.stream").write_bytes(NONE)
        (folder / manifests.NAME).write_bytes(b"{}")
        (Path(name) / "secret").write_bytes(NONE)
        (Path(name) / "secret").chmod(0)
        folder.chmod(0)
        if os.geteuid() != 0:
            yield folder
        else:
            # Whoever may do everything meets no refusal.  What the commands import must be
            # there before: the interpreter itself may be in a folder of root's.
            for command in (["inspect"], ["corpus", "verify"], ["seeds", "make", "--out"]):
                cli(*command, "/dev/null")
            os.seteuid(NOBODY)
            try:
                yield folder
            finally:
                os.seteuid(0)
        folder.chmod(0o700)


def no_leaf(path: str, value: int) -> bytes:
    document = Document.parse(NONE)
    return document.with_value(document.find(path), value, Consistency.KEEP)


# -- files that are no streams --------------------------------------------------------------------


def test_an_empty_file_cannot_be_inspected(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "empty").write_bytes(b"")
    code, out, err = cli("inspect", tmp_path / "empty")
    assert (code, out) == (USAGE, "")
    assert "is empty; was the migration to it finished?" in err


def test_a_missing_file_cannot_be_inspected(cli: Cli, tmp_path: Path) -> None:
    code, _, err = cli("inspect", tmp_path / "gone")
    assert code == USAGE
    assert "does not exist" in err


def test_a_folder_cannot_be_inspected(cli: Cli, tmp_path: Path) -> None:
    code, _, err = cli("inspect", tmp_path)
    assert code == USAGE
    assert "is a folder; name the streams in it" in err


def test_a_pipe_is_refused_and_not_waited_for(cli: Cli, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    code, _, err = cli("inspect", tmp_path / "pipe")
    assert code == USAGE
    assert "is a named pipe" in err


def test_a_socket_is_refused(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # a socket's name must be short
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("s")
        code, _, err = cli("inspect", "s")
    assert code == USAGE
    assert "is a socket" in err


def test_a_device_is_refused(cli: Cli) -> None:
    code, _, err = cli("inspect", "/dev/zero")
    assert code == USAGE
    assert "is a character device" in err


def test_a_file_that_may_not_be_read_says_so(cli: Cli, unreadable: Path) -> None:
    code, _, err = cli("inspect", unreadable.parent / "secret")
    assert code == USAGE
    assert "may not be read; check its permissions" in err


def test_a_file_in_an_unreadable_folder_says_so(cli: Cli, unreadable: Path) -> None:
    code, _, err = cli("inspect", unreadable / "vm.stream")
    assert code == USAGE
    assert "check its permissions" in err


def test_a_link_that_leads_nowhere_does_not_exist(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "gone")
    code, _, err = cli("inspect", tmp_path / "link")
    assert code == USAGE
    assert "does not exist" in err


def test_a_link_in_a_circle_cannot_be_read(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "link")
    code, _, err = cli("inspect", tmp_path / "link")
    assert code == USAGE
    assert "cannot be read" in err


@pytest.mark.parametrize(
    "data",
    [b"\0", b"\x7fELF\2\1\1", b"hello, world\n" * 9, b"QEVM", b"QEVM\0\0\0", bytes(1 << 20)],
    ids=["a zero", "a program", "text", "magic alone", "cut magic", "zeros"],
)
def test_a_file_that_is_no_stream_is_a_problem(data: bytes, cli: Cli, tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(data)
    code, out, err = cli("inspect", path)
    assert (code, err) == (PROBLEMS, "")
    assert any(line.startswith("! ") for line in out.splitlines())
    code, out, _ = cli("inspect", "--json", path)
    assert code == PROBLEMS
    assert json.loads(out)["problems"]


# -- streams that lie ----------------------------------------------------------------------------


def inspected(cli: Cli, folder: Path, data: bytes) -> str:
    """What ``inspect`` prints of a stream with a problem, as text and JSON."""
    path = folder / "x.stream"
    path.write_bytes(data)
    code, out, err = cli("inspect", path)
    assert (code, err) == (PROBLEMS, "")
    assert cli("inspect", "--json", path)[0] == PROBLEMS
    return out


def test_a_vmdesc_of_4_gib_is_not_believed(cli: Cli, tmp_path: Path) -> None:
    out = inspected(cli, tmp_path, no_leaf("vmdesc/vmdesc size", 0xFFFFFFFF))
    assert "a description of 4294967295 bytes" in out


def test_a_vmdesc_longer_than_the_stream_is_not_believed(cli: Cli, tmp_path: Path) -> None:
    out = inspected(cli, tmp_path, no_leaf("vmdesc/vmdesc size", 0x10000))
    assert "vmdesc" in out


@pytest.mark.parametrize(
    "text",
    [b"{", b"[]", b"{}" * 1000, b"[" * 60_000, b'{"page_size": -1, "devices": []}', b"\xff" * 64],
    ids=["cut", "list", "two", "deep", "negative", "binary"],
)
def test_a_vmdesc_that_is_none_does_no_harm(text: bytes, cli: Cli, tmp_path: Path) -> None:
    path = tmp_path / "x.stream"
    path.write_bytes(stream(full_section(0, "timer", bytes(24), version_id=2), behind=vmdesc(text)))
    assert cli("inspect", path)[0] in (CLEAN, PROBLEMS)


def test_negative_sizes_and_counts_in_a_vmdesc_are_not_believed(cli: Cli, tmp_path: Path) -> None:
    for key, value in (("size", -8), ("array_len", -1), ("size", 1 << 62), ("array_len", 1 << 31)):
        field = {"name": "a", "type": "uint64", "size": 8, key: value}
        device = {
            "name": "timer", "instance_id": 0, "vmsd_name": "timer", "version": 2,
            "fields": [field],
        }  # fmt: skip
        text = json.dumps({"page_size": 4096, "devices": [device]}).encode()
        path = tmp_path / "x.stream"
        section = full_section(0, "timer", bytes(24), version_id=2)
        path.write_bytes(stream(section, behind=vmdesc(text)))
        code, out, _ = cli("inspect", path)
        assert code in (CLEAN, PROBLEMS)
        assert "1 section" in out


def test_a_machine_type_of_minus_one_byte_is_not_believed(cli: Cli, tmp_path: Path) -> None:
    out = inspected(cli, tmp_path, no_leaf("configuration/len", 0xFFFFFFFF))
    assert "4294967295 bytes" in out


@pytest.mark.parametrize("count", [0x80000000, 0xFFFFFFFF, 0x7FFFFFFF])
def test_negative_and_huge_counts_of_devices_are_not_believed(
    count: int, cli: Cli, tmp_path: Path
) -> None:
    machine = small_machine()
    machine.suppress_vmdesc = True
    document = Document.parse(save_to_bytes(machine), small_machine)
    counts = [leaf for leaf in document.leaves() if leaf.name.endswith("_count")]
    assert counts
    for leaf in counts:
        path = tmp_path / "x.stream"
        path.write_bytes(document.with_value(leaf, count, Consistency.KEEP))
        assert cli("inspect", path)[0] == PROBLEMS


def test_a_name_of_64_kib_is_not_believed(cli: Cli, tmp_path: Path) -> None:
    # An idstr can say 255 bytes at most; the machine type says how long it likes.
    name = b"A" * (64 << 10)
    data = header() + b"\x07" + len(name).to_bytes(4, "big") + name + b"\0"
    path = tmp_path / "x.stream"
    path.write_bytes(data)
    code, out, _ = cli("inspect", path)
    assert code in (CLEAN, PROBLEMS)
    assert len(out) < 2 * len(name)


def test_devices_with_the_longest_names_there_can_be_are_shown(cli: Cli, tmp_path: Path) -> None:
    path = tmp_path / "x.stream"
    path.write_bytes(stream(*(full_section(number, "n" * 255, b"") for number in range(100))))
    code, out, _ = cli("inspect", path)
    assert code in (CLEAN, PROBLEMS)
    assert "n" * 255 in out


def test_ten_thousand_sections_are_shown_in_no_time(cli: Cli, tmp_path: Path) -> None:
    path = tmp_path / "x.stream"
    path.write_bytes(stream(*(full_section(number, "x", b"") for number in range(10_000))))
    code, out, _ = cli("inspect", "--no-fields", path)
    assert code == PROBLEMS
    assert "problems" in out.splitlines()[-1]


# -- folders and files of the corpus commands ----------------------------------------------------


def test_a_corpus_that_is_not_there_is_a_usage_error(cli: Cli, tmp_path: Path) -> None:
    code, _, err = cli("corpus", "verify", tmp_path / "gone")
    assert code == USAGE
    assert "loadfuzz seeds make --out" in err


def test_a_file_is_no_corpus(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(NONE)
    code, _, err = cli("corpus", "verify", tmp_path / "x")
    assert code == USAGE
    assert "is no corpus" in err or "cannot be read" in err


def test_an_empty_folder_is_no_corpus(cli: Cli, tmp_path: Path) -> None:
    code, _, err = cli("corpus", "verify", tmp_path)
    assert code == USAGE
    assert "is no corpus" in err


def test_a_corpus_in_an_unreadable_folder_is_a_usage_error(cli: Cli, unreadable: Path) -> None:
    code, _, err = cli("corpus", "verify", unreadable)
    assert code == USAGE
    assert "check its permissions" in err


@pytest.mark.parametrize("data", [b"", b"null", b"{}", b"\xff\xfe", b"[" * 100_000, bytes(5 << 20)])
def test_a_manifest_that_is_none_is_a_usage_error(data: bytes, cli: Cli, tmp_path: Path) -> None:
    (tmp_path / manifests.NAME).write_bytes(data)
    code, _, err = cli("corpus", "verify", tmp_path)
    assert code == USAGE
    assert manifests.NAME in err


def test_a_manifest_that_is_a_folder_is_a_usage_error(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / manifests.NAME).mkdir()
    assert cli("corpus", "verify", tmp_path)[0] == USAGE


def test_seeds_are_not_written_over_a_file(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"precious")
    code, _, err = cli("seeds", "make", "--out", tmp_path / "x")
    assert code == USAGE
    assert "name a folder" in err
    assert (tmp_path / "x").read_bytes() == b"precious"


def test_seeds_are_not_written_below_a_file(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"precious")
    code, _, err = cli("seeds", "make", "--out", tmp_path / "x" / "corpus")
    assert code == USAGE
    assert "--out" in err


def test_seeds_are_not_written_among_other_files(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_bytes(b"precious")
    code, _, err = cli("seeds", "make", "--out", tmp_path)
    assert code == USAGE
    assert "name a new folder" in err
    assert os.listdir(tmp_path) == ["thesis.tex"]


def test_seeds_are_not_written_where_nobody_may(
    reference: Target, cli: Cli, unreadable: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What says which targets are installed may be in a folder of root's, too.
    monkeypatch.setattr("loadfuzz.cli.seeds.load_target", lambda name: reference)
    code, _, err = cli("seeds", "make", "--out", unreadable / "corpus")
    assert code == USAGE
    assert "--out" in err
