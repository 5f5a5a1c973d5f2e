"""The target ``command`` on a loader in C that has three memory bugs."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import pytest

from loadfuzz import variants
from loadfuzz.abc import RemoteTarget
from loadfuzz.errors import UsageError
from loadfuzz.execution import Execution, ExitKind
from loadfuzz.oracles import clean_error
from loadfuzz_targets.command import TARGET, CommandTarget, Layout
from loadfuzz_targets.reference import TARGET as REFERENCE
from savevm.document import Document, Role

SOURCE = Path(__file__).with_name("broken_loader.c")
LIMIT_S = 20.0
"""CPU seconds of one load: a limit for hangs, far beyond a slow machine."""
SEEDS = {seed.name: seed.stream for seed in REFERENCE.seeds()}


def _cannot(reason: str) -> NoReturn:
    """Skip, but fail where ``CI`` is set: a green run there must not mean that nothing was run."""
    if os.environ.get("CI", "").lower() in {"", "0", "false"}:
        pytest.skip(reason)
    pytest.fail(reason, pytrace=False)


@pytest.fixture(scope="session")
def loader(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The broken loader, built with AddressSanitizer."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        _cannot("no C compiler; install gcc or clang")
    program = tmp_path_factory.mktemp("loader") / "broken_loader"
    command = [compiler, "-Wall", "-fsanitize=address", "-g", "-o", str(program), str(SOURCE)]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    if built.returncode:
        empty = program.with_name("empty.c")
        empty.write_text("int main(void) { return 0; }\n")
        probe = subprocess.run([*command[:-1], str(empty)], capture_output=True, check=False)
        if probe.returncode:
            _cannot("the C compiler has no AddressSanitizer; install another, or its runtime")
        pytest.fail(built.stderr)
    return program


def target_for(loader: Path) -> CommandTarget:
    return TARGET.variant(variants.join(f"{loader} {{input}}", [("reject", "1"), ("crash", "2")]))


def loads(target: CommandTarget, folder: Path, streams: Sequence[bytes]) -> list[Execution]:
    async def body() -> list[Execution]:
        async with target.executor(folder, LIMIT_S) as executor:
            return [await executor.execute(stream) for stream in streams]

    return asyncio.run(body())


def long_name(stream: bytes) -> bytes:
    """The clock's name has 200 characters more."""
    document = REFERENCE.parse(stream)
    section = next(section for section in document.sections if section.idstr == "mc146818rtc")
    name = next(leaf for leaf in section.leaves() if leaf.role is Role.IDSTR)
    return document.with_value(name, section.idstr.encode() + b"x" * 200)


def far_index(stream: bytes) -> bytes:
    """The clock's selected byte is behind its last."""
    document = REFERENCE.parse(stream)
    return document.with_value(document.find("mc146818rtc/cmos_index"), 0x80)


def twice(stream: bytes) -> bytes:
    """The clock's section stands there twice."""
    document = REFERENCE.parse(stream)
    section = next(section for section in document.sections if section.idstr == "mc146818rtc")
    return document.duplicated(section)


def test_every_seed_is_accepted(loader: Path, tmp_path: Path) -> None:
    results = loads(target_for(loader), tmp_path, list(SEEDS.values()))
    wrong = [
        (name, result)
        for name, result in zip(SEEDS, results, strict=True)
        if result.kind is not ExitKind.ACCEPTED
    ]
    assert wrong == []


def test_a_stream_that_ends_too_early_is_refused_in_the_loaders_words(
    loader: Path, tmp_path: Path
) -> None:
    (result,) = loads(target_for(loader), tmp_path, [SEEDS["rtc-fresh"][:6]])
    assert result.kind is ExitKind.REJECTED
    assert result.refusal is not None
    assert result.refusal.text == "broken_loader: the stream ends too early at offset 4"


def test_each_of_three_memory_bugs_has_a_signature_of_its_own(loader: Path, tmp_path: Path) -> None:
    seed = SEEDS["rtc-fresh"]
    broken = [long_name(seed), far_index(seed), twice(seed)]
    results = loads(target_for(loader), tmp_path, broken)
    alarms = [clean_error.alarm(result) for result in results]
    assert [alarm.signature if alarm else "" for alarm in alarms] == [
        "clean-error:heap-buffer-overflow at broken_loader.c:read_counted",
        "clean-error:global-buffer-overflow at broken_loader.c:load_rtc",
        "clean-error:heap-use-after-free at broken_loader.c:run_post_load",
    ]


def test_the_same_bug_reached_in_another_stream_has_the_same_signature(
    loader: Path, tmp_path: Path
) -> None:
    streams = [far_index(SEEDS[name]) for name in ("rtc-fresh", "rtc-ran", "full-ran")]
    results = loads(target_for(loader), tmp_path, streams)
    alarms = [clean_error.alarm(result) for result in results]
    assert len({alarm.signature if alarm else "" for alarm in alarms}) == 1
    assert alarms[0] is not None


# -- naming one ----------------------------------------------------------------------------


def test_a_command_and_all_its_options_come_out_of_one_line() -> None:
    command = "./a,b/loader@home {input}"
    options = [
        ("accept", "3"), ("accept", "4"), ("reject", "1"), ("crash", "70"), ("pattern", "a,b=c"),
        ("refuses", "BadStream"), ("env", "X=1=2"), ("memory", "64"), ("format", "vmdesc"),
    ]  # fmt: skip
    name = variants.join(command, options)
    assert not {"@"} & set(name)
    target = TARGET.variant(name)
    assert target.name == f"command:{name}"
    assert target.layout is Layout.VMDESC
    spec = target.spec
    assert spec is not None
    assert (spec.command, spec.accept, spec.reject, spec.crash) == (command, (3, 4), (1,), (70,))
    assert (spec.crash_patterns, spec.refusals) == (("a,b=c",), ("BadStream",))
    assert (dict(spec.environment), spec.memory_bytes) == ({"X": "1=2"}, 64 << 20)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("", "there is no command"),
        ("x,reject=one", "reject=one is no number"),
        ("x,rejects=1", "no option 'rejects'"),
        ("x,format=json", "none of reference, vmdesc"),
        ("x,env=A", "env=NAME=VALUE"),
    ],
)
def test_a_name_that_makes_no_sense_says_how_to_write_it(name: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        TARGET.variant(name)


def test_the_plain_target_says_how_to_name_a_command(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"command:\./loader \{input\}"):
        TARGET.executor(tmp_path, LIMIT_S)


def test_it_is_a_target_whose_loads_have_no_memory(loader: Path) -> None:
    target: RemoteTarget = target_for(loader)
    assert isinstance(target, RemoteTarget)
    assert not target.stateful


# -- what stands in a stream ---------------------------------------------------------------


def test_a_stream_is_laid_out_as_the_references_devices_are() -> None:
    document = TARGET.parse(SEEDS["rtc-ran"])
    assert document.find("mc146818rtc/cmos_index").value == 12


def test_a_device_of_another_machine_is_understood_by_the_streams_own_vmdesc() -> None:
    renamed = SEEDS["rtc-fresh"].replace(b"mc146818rtc", b"another-rtc")
    for layout in Layout:
        document = TARGET.variant(f"x,format={layout}").parse(renamed)
        assert document.find("another-rtc/cmos_index").value == 0


def test_without_a_vmdesc_only_the_reference_knows_a_device() -> None:
    stream = SEEDS["rtc-ran"]
    assert Document.parse(stream).vmdesc is None
    with pytest.raises(KeyError):
        TARGET.variant("x,format=vmdesc").parse(stream).find("mc146818rtc/cmos_index")
