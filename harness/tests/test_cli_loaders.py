"""Which loader is fuzzed, and what the command line makes of it: a QEMU, a command, a function."""

import json
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from loadfuzz.cli.loaders import Wanted, target_of, with_machine, with_qemu
from loadfuzz.errors import UsageError
from loadfuzz.testing.installed import Installed

LOADER = """\
import sys
stream = open(sys.argv[1], "rb").read()
if stream[:4] != b"QEVM":
    sys.exit(3)
if stream.find(b"\\x7f\\xff\\xff\\xff") in range(790):
    [][0]
"""


@pytest.mark.parametrize(
    ("target", "wanted", "spec"),
    [
        (None, Wanted(), "reference"),
        ("planted", Wanted(), "planted"),
        (None, Wanted(qemu="/q"), "qemu:pc,qemu=/q"),
        ("qemu:q35", Wanted(qemu="/a,b"), "qemu:q35,qemu=/a%2Cb"),
        ("qemu:pc,qemu=/old,device=x", Wanted(qemu="/new"), "qemu:pc,device=x,qemu=/new"),
        ("qemu", Wanted(options=("device=e1000,romfile=",)), "qemu:pc,device=e1000%2Cromfile="),
        (
            None,
            Wanted(command="./l {input}", options=("reject=3",)),
            "command:./l {input},reject=3",
        ),
        (None, Wanted(function="m:f"), "callable:m:f"),
    ],
)
def test_the_options_make_one_name(target: str | None, wanted: Wanted, spec: str) -> None:
    assert target_of(target, wanted, "reference") == spec


@pytest.mark.parametrize(
    ("target", "wanted", "words"),
    [
        ("reference", Wanted(qemu="/q"), "--qemu is for target qemu"),
        (None, Wanted(command="a", function="m:f"), "--command and --callable both say"),
        ("planted", Wanted(command="a"), "--command and a target both say"),
        (None, Wanted(command="a", qemu="/q"), "--qemu is for target qemu, not for --command"),
        ("reference", Wanted(options=("a=b",)), "has no options"),
        ("qemu:pc", Wanted(options=("fast",)), "write KEY=VALUE"),
    ],
)
def test_what_contradicts_itself_is_refused(target: str | None, wanted: Wanted, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        target_of(target, wanted, "reference")


def test_what_is_named_from_here_is_found_from_elsewhere_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    loader = tmp_path / "loader"
    loader.write_text("#!/bin/sh\n")
    loader.chmod(0o755)
    (tmp_path / "mine.py").write_text("")
    spec = target_of(None, Wanted(command="./loader {input}"), "reference")
    assert spec == f"command:{tmp_path}/loader {{input}}"
    assert target_of(None, Wanted(function="mine:load"), "reference") == (
        f"callable:mine:load,path={tmp_path}"
    )
    given = Wanted(function="mine:load", options=("path=src",))
    assert target_of(None, given, "reference") == f"callable:mine:load,path={tmp_path}/src"


def test_a_finding_is_run_in_another_binary() -> None:
    assert with_qemu("qemu:pc,device=x", "/new") == "qemu:pc,device=x,qemu=/new"
    with pytest.raises(UsageError, match="--qemu is for target qemu"):
        with_qemu("planted", "/new")


def test_in_another_release_the_machine_is_the_type_that_the_streams_name() -> None:
    assert with_machine("qemu:pc,qemu=/new", "pc-i440fx-7.2") == (
        "qemu:pc,qemu=/new,machine=pc-i440fx-7.2"
    )
    assert with_machine("qemu:pc,machine=mine", "pc-i440fx-7.2") == "qemu:pc,machine=mine"
    assert with_machine("qemu:none", "") == "qemu:none"


def test_a_command_is_fuzzed_its_findings_replayed_and_what_was_tried_reported(
    installed: Installed,
) -> None:
    script = installed.folder / "loader.py"
    script.write_text(LOADER)
    command = f"{sys.executable} {script} {{input}}"
    done = installed.run(
        "run", "--command", command, "-o", "reject=3", "--execs", "500", "--workers", "1",
        "--seed", "4", "--out", "mine", "--json",
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    result = json.loads(done.stdout)
    assert result["target"] == f"command:{command},reject=3"
    (finding,) = result["findings"]
    assert finding["signature"] == "clean-error:IndexError at loader.py:<module>"
    folder = f"{finding['folder']}"
    again = installed.run("replay", folder, "-n", "2", "--json")
    assert again.returncode == 1, again.stderr
    assert json.loads(again.stdout)["reproduced"] == 2
    report = installed.run("report", "mine")
    assert report.returncode == 1, report.stderr
    assert "mc146818rtc" in report.stdout
    assert max(map(len, report.stdout.splitlines())) <= 80 or folder in report.stdout
    rows = json.loads(installed.run("report", "mine", "--json").stdout)["devices"]
    assert any(row["untried"] for row in rows)


def test_a_report_of_a_campaign_without_counts_says_why(installed: Installed) -> None:
    installed.run("run", "--execs", "50", "--workers", "1", "--engine", "native", "--out", "plain")
    done = installed.run("report", "plain")
    assert done.returncode == 2
    assert "has no counts by field" in done.stderr


def test_a_program_that_is_missing_is_a_failure_that_says_what_to_do(installed: Installed) -> None:
    done = installed.run("run", "--command", "./gone {input}", "--execs", "10", "--out", "gone")
    assert done.returncode == 3
    assert "no program of that name" in done.stderr


def test_a_loader_that_takes_no_seed_is_no_clean_run(installed: Installed) -> None:
    done = installed.run("run", "--command", "false", "--time", "3s", "--out", "none")
    assert done.returncode == 3
    assert "accepts none of its" in done.stderr


def test_a_function_beside_us_is_found_by_every_engine(installed: Installed) -> None:
    (installed.folder / "beside.py").write_text("def load(stream: bytes) -> None:\n    pass\n")
    done = installed.run(
        "run", "--callable", "beside:load", "--execs", "60", "--workers", "1", "--out", "beside"
    )
    assert "does not get going" not in done.stderr
    assert done.returncode in (0, 1), done.stderr


def test_a_binary_that_is_a_number_is_told_with_its_line(
    installed: Installed, tmp_path: Path
) -> None:
    (tmp_path / "loadfuzz.toml").write_text("execs = 5\nqemu = 3\n")
    done = installed.run("run", "--config", str(tmp_path / "loadfuzz.toml"))
    assert done.returncode == 2
    assert "loadfuzz.toml:2: qemu must be a text" in done.stderr


def test_the_configuration_may_name_the_loader_and_the_command_line_another(
    installed: Installed, tmp_path: Path
) -> None:
    (tmp_path / "loadfuzz.toml").write_text('command = "./gone {input}"\nexecs = 20\n')
    config = str(tmp_path / "loadfuzz.toml")
    done = installed.run("run", "--config", config, "--out", "a")
    assert "no program of that name" in done.stderr
    done = installed.run("run", "reference", "--config", config, "--out", "b", "--workers", "1")
    assert done.returncode == 0, done.stderr


def test_a_command_is_compared_with_the_reference(installed: Installed) -> None:
    script = installed.folder / "trusting.py"
    script.write_text("import sys\nsys.exit(sys.stdin.buffer.read(4) != b'QEVM')\n")
    done = installed.run(
        "diff", "--command", f"{sys.executable} {script}", "--streams", "60", "--json", "--out", "d"
    )
    assert done.returncode == 1, done.stderr
    result = json.loads(done.stdout)
    assert result["streams"] == 60
    rows = [row for row in result["differences"] if row["explanation"] is None]
    assert len(rows) == result["unexplained"] > 0
    assert {row["loader"]["kind"] for row in rows} == {"accepted"}
    assert {path.name for path in (installed.folder / "d").iterdir()} == {
        row["input"] for row in rows
    }


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Children can be interrupted, though we may have been started in the background, where a
    shell has SIGINT ignored and all that comes of it inherits that."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_an_interrupted_comparison_tells_and_keeps_what_was_found(
    installed: Installed, interruptible: None
) -> None:
    marker = installed.folder / "many"
    script = installed.folder / "interrupting.py"
    script.write_text(
        "import pathlib, os, signal, sys, time\n"
        "many = pathlib.Path(sys.argv[1])\n"
        "with many.open('a') as file: file.write('x')\n"
        "if many.stat().st_size == 58:\n"
        "    starter = pathlib.Path(f'/proc/{os.getppid()}/stat').read_text()\n"
        "    os.kill(int(starter.rpartition(')')[2].split()[1]), signal.SIGINT)\n"
        "    time.sleep(60)\n"
    )
    done = installed.run(
        "diff", "--command", f"{sys.executable} {script} {marker}", "--streams", "60", "--json",
        "--out", "e",
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    result = json.loads(done.stdout)
    assert (result["streams"], result["skipped"]) == (57, 0)
    assert "interrupted after 57 of 60 streams" in done.stderr
    assert len(list((installed.folder / "e").iterdir())) == result["unexplained"] > 0


def test_a_target_in_our_process_is_not_compared(installed: Installed) -> None:
    done = installed.run("diff", "planted")
    assert done.returncode == 2
    assert "name a QEMU or a command" in done.stderr
