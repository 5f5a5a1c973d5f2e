"""What a file says, where it is wrong, and what comes first."""

import json
from pathlib import Path

import pytest

from loadfuzz.config import SIZE_MAX, find_config, read_config
from loadfuzz.errors import UsageError
from loadfuzz.testing.installed import Installed
from loadfuzz.testing.scripted import SEEDS_VARIABLE

WHOLE = """\
target = "planted"
time = "10m"
execs = "100k"
workers = 4
seed = 7
engine = "native"
load-timeout = "500ms"
until-stale = "2m"
first-finding = true
seeds = ["streams", "more.bin"]
out = "nightly"
dear-share = 64
ignore = ["footer:FULL", "footer:FULL", "atomic:ram"]

[operators]
"field-*" = 3
raw-bit = 1
"""


def written(folder: Path, text: str, name: str = "loadfuzz.toml") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_every_key_is_read(tmp_path: Path) -> None:
    config = read_config(written(tmp_path, WHOLE))
    assert config.options == {
        "target": "planted", "seconds": "10m", "execs": "100k", "workers": "4", "seed": "7",
        "engine": "native", "load_timeout": "500ms", "until_stale": "2m", "first_finding": True,
        "seeds": (str(tmp_path / "streams"), str(tmp_path / "more.bin")),
        "out": str(tmp_path / "nightly"),
    }  # fmt: skip
    assert config.operators == {"field-*": 3, "raw-bit": 1}
    assert config.ignore == ("footer:FULL", "atomic:ram")
    assert config.dear_share == 64


def test_a_pyproject_has_the_same_keys_in_its_table(tmp_path: Path) -> None:
    text = '[project]\ntime = "no"\n[tool.loadfuzz]\ntime = "9s"\n'
    text += "[tool.loadfuzz.operators]\nheader = 2\n"
    config = read_config(written(tmp_path, text, "pyproject.toml"))
    assert config.options == {"seconds": "9s"}
    assert config.operators == {"header": 2}


def test_our_own_file_comes_before_a_pyproject(tmp_path: Path) -> None:
    assert find_config(tmp_path) is None
    project = written(tmp_path, "[tool.other]\n", "pyproject.toml")
    assert find_config(tmp_path) is None
    project.write_text("[tool.loadfuzz]\n")
    assert find_config(tmp_path) == project
    assert find_config(tmp_path) == project
    own = written(tmp_path, "")
    assert find_config(tmp_path) == own


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("time = \nexecs = 1", "is no TOML: .*line 1"),
        ('time = "9s"\n\ntimes = 3', r"loadfuzz\.toml:3: times is no key of loadfuzz; there are "),
        ("\ntime = [1]", r"loadfuzz\.toml:2: time must be a text or a number"),
        ("first-finding = 1", r"loadfuzz\.toml:1: first-finding must be true or false"),
        ('seeds = "one"', r":1: seeds must be a list of paths"),
        ("seeds = [1]", r":1: seeds must be a path"),
        ('out = ""', r":1: out must be a path"),
        ("ignore = [3]", r":1: ignore must be a list of signatures"),
        ("dear-share = 0", r":1: dear-share must be a whole number"),
        ("dear-share = true", r":1: dear-share must be a whole number"),
        ("operators = 3", r":1: operators must be a table"),
        ("[operators]\nheader = -1", r":2: header must be a whole number from 0"),
        ("[operators]\nheader = 0", r":1: operators leaves no operator"),
    ],
)
def test_what_is_wrong_is_told_with_its_line(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        read_config(written(tmp_path, text))


def test_the_line_in_a_pyproject_is_that_of_our_table(tmp_path: Path) -> None:
    text = '[project]\ntime = "x"\n\n[tool.loadfuzz]\ntime = []\n'
    with pytest.raises(UsageError, match=r"pyproject\.toml:5: time must be"):
        read_config(written(tmp_path, text, "pyproject.toml"))


@pytest.mark.parametrize("data", [b"\xff", b"#" * (SIZE_MAX + 1)], ids=["no UTF-8", "huge"])
def test_a_file_that_nobody_wrote_by_hand_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "loadfuzz.toml").write_bytes(data)
    with pytest.raises(UsageError, match=r"loadfuzz\.toml"):
        read_config(tmp_path / "loadfuzz.toml")


def test_a_folder_and_a_missing_file_are_named(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(UsageError, match="cannot be read"):
            read_config(path)


# -- loadfuzz run -----------------------------------------------------------------------------

FILE = 'target = "scripted"\nengine = "native"\nworkers = 1\nexecs = 40\nseed = 3\nout = "mine"\n'


def test_the_command_line_comes_before_the_environment_and_that_before_the_file(
    installed: Installed,
) -> None:
    written(installed.folder, FILE)
    first = installed.json("run", "--json")
    assert (first["target"], first["executions"], first["seed"]) == ("scripted", 40, 3)
    second = installed.json("run", "--json", LOADFUZZ_EXECS="50", LOADFUZZ_SEED="4")
    assert (second["executions"], second["seed"]) == (50, 4)
    third = installed.json("run", "--json", "--execs", "60", LOADFUZZ_EXECS="50")
    assert (third["executions"], third["seed"]) == (60, 3)


SEEDS = {SEEDS_VARIABLE: "QEVMXabc"}
"""Those with which the scripted target has findings."""


def signatures_found(installed: Installed) -> list[str]:
    """By a run as the file in its folder has it."""
    found = installed.json("run", "--json", **SEEDS)["findings"]
    assert isinstance(found, list)
    return [finding["signature"] for finding in found]


def test_known_findings_are_counted_and_are_none(installed: Installed) -> None:
    written(installed.folder, FILE)
    signatures = signatures_found(installed)
    assert signatures
    # As many as there may be: no file of a worker has room for all of them.
    known = [*signatures, *(f"footer:somewhere, number {number}" for number in range(900))]
    ignore = f"ignore = {json.dumps(known)}\n"
    written(installed.folder, FILE.replace("mine", "other") + ignore)
    done = installed.run("run", "--json", **SEEDS)
    assert done.returncode == 0, done.stderr
    value = json.loads(done.stdout)
    assert value["findings"] == []
    assert set(value["ignored"]) == set(signatures)
    assert "ignored, as configured: " in done.stderr
    assert not list((installed.folder / "other" / "findings").iterdir())


def test_operators_are_those_of_the_file(installed: Installed) -> None:
    written(installed.folder, FILE.replace("40", "400") + '[operators]\n"raw*" = 2\n')
    used = installed.json("run", "--json", "--execs", "400")["operators"]
    assert isinstance(used, dict)
    assert used
    assert all(name.startswith("raw") for name in used)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[operators]\nwarp = 1\n", "no operator is called 'warp'"),
        ('\ntime = "soon"\n', "loadfuzz.toml:2: time: 'soon' is no time"),
        ("workers = 999\n", "loadfuzz.toml:1: workers: 999 is not within 1 to 256"),
        ('engine = "warp"\n', "loadfuzz.toml:1: engine: 'warp' is not one of"),
        ("colour = 1\n", "loadfuzz.toml:1: colour is no key"),
    ],
)
def test_wrong_values_end_with_2_and_run_nothing(
    installed: Installed, text: str, said: str
) -> None:
    written(installed.folder, text)
    done = installed.run("run", "scripted")
    assert done.returncode == 2
    assert said in done.stderr
    assert not (installed.folder / "loadfuzz-out").exists()


def test_another_file_can_be_named(installed: Installed) -> None:
    written(installed.folder, FILE, "night.toml")
    value = installed.json("run", "--config", "night.toml", "--json")
    assert value["executions"] == 40
    assert installed.run("run", "--config", "nowhere.toml").returncode == 2


def test_what_was_found_before_it_was_known_is_no_finding_any_more(installed: Installed) -> None:
    written(installed.folder, FILE)
    signatures = signatures_found(installed)
    written(installed.folder, FILE + f"ignore = {json.dumps(signatures)}\n")
    done = installed.run("run", "--json", **SEEDS)
    assert done.returncode == 0, done.stderr
    value = json.loads(done.stdout)
    assert (value["findings"], set(value["ignored"])) == ([], set(signatures))


@pytest.mark.parametrize(
    "text",
    ["[ tool.loadfuzz ]", ' [tool."loadfuzz"]', "[tool]\nloadfuzz.time = '9s'",
     "tool.loadfuzz.time = '9s'"],
)  # fmt: skip
def test_a_table_is_found_however_it_is_spelled(tmp_path: Path, text: str) -> None:
    assert find_config(tmp_path) is None
    project = written(tmp_path, text + "\n", "pyproject.toml")
    assert find_config(tmp_path) == project


def test_an_operator_with_factor_0_is_off_whatever_stands_for_all(installed: Installed) -> None:
    written(installed.folder, FILE + '[operators]\n"raw*" = 1\nraw-bit = 0\n')
    used = installed.json("run", "--json", "--execs", "300")["operators"]
    assert isinstance(used, dict)
    assert used
    assert "raw-bit" not in used


def test_the_sweeps_alone_are_not_enough(installed: Installed) -> None:
    written(installed.folder, FILE + "[operators]\nfield-sweep = 1\n")
    done = installed.run("run")
    assert done.returncode == 2
    assert "the sweeps alone come to an end" in done.stderr
