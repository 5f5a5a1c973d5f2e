"""The target ``callable``: functions of all kinds, their refusals, and one that has three bugs."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import pytest

from loadfuzz import variants
from loadfuzz.errors import InfraError, UsageError
from loadfuzz.execution import ExitKind
from loadfuzz.executors.inprocess import InProcessExecutor
from loadfuzz.executors.trial import LoadTrial
from loadfuzz.executors.watchdog import Watchdog
from loadfuzz.findings import Violation
from loadfuzz.inputs import WHOLE, Delivery, Input
from loadfuzz.oracles import ALL, clean_error, no_hang
from loadfuzz.standalone.loop import fuzz
from loadfuzz_targets.callables import TARGET, CallableTarget
from loadfuzz_targets.reference import TARGET as REFERENCE
from savevm.board import full_machine
from savevm.commands import Command
from savevm.errors import LoadError
from savevm.load import load_from_bytes

LIMIT_S = 20.0
"""CPU seconds of one load: a limit for hangs, far beyond a slow machine."""
SHORT_S = 0.2
"""A limit for what is known to hang."""
EXECUTIONS = 150
"""Mutated streams that no oracle may ring on; more are tried where campaigns are tested."""
SEEDS = {seed.name: seed.stream for seed in REFERENCE.seeds()}
HERE = Path(__file__).parent
BROKEN = variants.join(
    "broken_async_loader:load",
    [
        ("path", str(HERE)),
        ("reject", "broken_async_loader.BadStream"),
        ("reject", "EOFError"),
    ],
)


# -- loaders -------------------------------------------------------------------------------

MODULE = "loadfuzz_loaders_of_tests"
SEEN: list[object] = []


class Refused(Exception):
    """A loader's own exception."""


def load_bytes(stream: bytes) -> int:
    SEEN.append(stream)
    return len(stream)


def load_unsaid(stream):  # type: ignore[no-untyped-def]
    SEEN.append(stream)


def load_file(file: BinaryIO) -> None:
    SEEN.append(file.read1(1 << 20))  # type: ignore[attr-defined]
    SEEN.append(file.read())


async def load_async_bytes(stream: bytes) -> None:
    await asyncio.sleep(0)
    SEEN.append(stream)


async def load_reader(reader: asyncio.StreamReader) -> None:
    while piece := await reader.read(1 << 20):
        SEEN.append(piece)


async def load_reader_early(reader: asyncio.StreamReader) -> None:
    SEEN.append(await reader.read(1))
    raise Refused("enough")


def refuse(stream: bytes) -> None:
    raise {
        b"value": ValueError("bad value"),
        b"eof": EOFError(),
        b"own": Refused("own words"),
        b"load": LoadError("in our words", offset=4, path=("rtc",)),
        b"key": KeyError("x"),
    }[stream]


async def refuse_in_group(stream: bytes) -> None:
    async def fail() -> None:
        raise {b"own": Refused("in a group"), b"key": KeyError("x")}[stream]

    async with asyncio.TaskGroup() as group:
        group.create_task(fail())
        group.create_task(asyncio.Event().wait())


async def wait_in_group(stream: bytes) -> None:
    async def wait_for_ever() -> None:
        await asyncio.Event().wait()

    async with asyncio.TaskGroup() as group:
        group.create_task(wait_for_ever())


async def go_round(stream: bytes) -> None:
    async def turn() -> None:
        while True:  # noqa: ASYNC110 - what is tested is a loop that nothing ends
            await asyncio.sleep(0)

    await turn()


async def sleep_long(stream: bytes) -> None:
    await asyncio.sleep(100_000)


async def leave_behind(stream: bytes) -> None:
    async def stay() -> None:
        try:
            await asyncio.sleep(100_000)
        finally:
            SEEN.append("cancelled")

    loop = asyncio.get_running_loop()
    SEEN.append(loop.create_task(stay()))
    await asyncio.sleep(0)


async def use_a_thread(stream: bytes) -> None:
    SEEN.append(await asyncio.to_thread(len, stream))


class Machine:
    """A class with a loader in it."""

    @staticmethod
    def load(stream: bytes) -> None:
        SEEN.append(stream)


def load_reference(stream: bytes) -> None:
    """A loader that is right in all things."""
    load_from_bytes(full_machine(), stream)


async def load_reference_from_reader(reader: asyncio.StreamReader) -> str:
    machine = full_machine()
    load_from_bytes(machine, await reader.read())
    return machine.machine_type


def load_strictly(stream: bytes) -> None:
    """A loader with a rule of its own, which nobody else can know."""
    if sum(stream) % 2:
        raise ValueError("an odd stream")


def takes_nothing() -> None: ...


def takes_number(stream: int) -> None: ...


not_callable = 7


@pytest.fixture(autouse=True)
def _module(monkeypatch: pytest.MonkeyPatch) -> None:
    """This very file, under a name that can be imported."""
    monkeypatch.setitem(sys.modules, MODULE, sys.modules[__name__])
    monkeypatch.setattr(sys, "path", sys.path.copy())
    SEEN.clear()


@pytest.fixture(scope="module")
def watchdog() -> Iterator[Watchdog]:
    with Watchdog(LIMIT_S) as watchdog:
        yield watchdog


def named(function: str, *options: tuple[str, str]) -> CallableTarget:
    return TARGET.variant(variants.join(f"{MODULE}:{function}", options))


OWN = ("reject", f"{MODULE}.Refused")


def load(
    watchdog: Watchdog, target: CallableTarget, stream: bytes, delivery: Delivery = WHOLE
) -> LoadTrial:
    return InProcessExecutor(target, watchdog).execute(Input(stream, delivery))


# -- what a function is given --------------------------------------------------------------


@pytest.mark.parametrize(
    "function", ["load_bytes", "load_unsaid", "load_async_bytes", "Machine.load"]
)
def test_a_function_of_bytes_gets_all_of_them(watchdog: Watchdog, function: str) -> None:
    trial = load(watchdog, named(function), b"QEVM" * 9, Delivery((1,)))
    assert trial.execution.kind is ExitKind.ACCEPTED
    assert SEEN == [b"QEVM" * 9]


def test_a_reader_gets_one_piece_after_another_as_it_waits(watchdog: Watchdog) -> None:
    trial = load(watchdog, named("load_reader"), b"abcdefgh", Delivery((1, 3, 0)))
    assert trial.execution.kind is ExitKind.ACCEPTED
    assert SEEN == [b"a", b"bcd", b"e", b"fgh"]


def test_a_file_has_one_piece_at_hand(watchdog: Watchdog) -> None:
    trial = load(watchdog, named("load_file"), b"abcdefgh", Delivery((3,)))
    assert trial.execution.kind is ExitKind.ACCEPTED, trial.execution.escape
    assert SEEN == [b"abc", b"defgh"]


def test_an_option_says_what_to_give_where_no_annotation_does(watchdog: Watchdog) -> None:
    target = named("load_unsaid", ("input", "file"))
    assert load(watchdog, target, b"x").execution.kind is ExitKind.ACCEPTED
    assert SEEN[0].read() == b"x"  # type: ignore[attr-defined]


def test_a_stream_without_bytes_is_one_that_ends(watchdog: Watchdog) -> None:
    for function in ("load_reader", "load_file", "load_bytes"):
        trial = load(watchdog, named(function), b"")
        assert trial.execution.kind is ExitKind.ACCEPTED


def test_pieces_that_a_loader_did_not_want_do_not_reach_the_next_load(
    watchdog: Watchdog,
) -> None:
    executor = InProcessExecutor(named("load_reader_early", OWN), watchdog)
    for stream in (b"abc", b"xyz"):
        trial = executor.execute(Input(stream, Delivery((1,))))
        assert trial.execution.kind is ExitKind.REJECTED
    assert SEEN == [b"a", b"x"]


# -- refusals and escapes ------------------------------------------------------------------


def test_without_a_word_wrong_values_and_early_ends_refuse(watchdog: Watchdog) -> None:
    executor = InProcessExecutor(named("refuse"), watchdog)
    texts = []
    for stream in (b"value", b"eof", b"load"):
        refusal = executor.execute(Input(stream)).execution.refusal
        texts.append(refusal.text if refusal is not None else None)
    assert texts == ["bad value", "EOFError", "rtc: in our words (offset 0x4)"]
    for stream in (b"own", b"key"):
        assert executor.execute(Input(stream)).execution.kind is ExitKind.CRASHED


def test_named_exceptions_refuse_and_no_others(watchdog: Watchdog) -> None:
    executor = InProcessExecutor(named("refuse", OWN), watchdog)
    kinds = {
        stream: executor.execute(Input(stream)).execution.kind
        for stream in (b"own", b"load", b"value", b"eof")
    }
    assert kinds == {
        b"own": ExitKind.REJECTED, b"load": ExitKind.REJECTED,
        b"value": ExitKind.CRASHED, b"eof": ExitKind.CRASHED,
    }  # fmt: skip


def test_an_escape_is_placed_in_the_loader_and_not_in_us(watchdog: Watchdog) -> None:
    violation = clean_error.alarm(load(watchdog, named("refuse"), b"key").execution)
    assert violation is not None
    assert violation.path == f"KeyError at {Path(__file__).name}:refuse"


def test_an_exception_group_is_what_stands_in_it(watchdog: Watchdog) -> None:
    executor = InProcessExecutor(named("refuse_in_group", OWN), watchdog)
    refused = executor.execute(Input(b"own")).execution
    assert refused.refusal is not None
    assert refused.refusal.text == "in a group"
    violation = clean_error.alarm(executor.execute(Input(b"key")).execution)
    assert violation is not None
    assert violation.path.startswith("KeyError at ")
    assert violation.path.endswith("fail")


# -- hangs ---------------------------------------------------------------------------------


def test_a_task_that_waits_for_ever_is_a_hang_in_its_own_function(watchdog: Watchdog) -> None:
    executor = InProcessExecutor(named("wait_in_group"), watchdog)
    for _ in range(2):
        violation = no_hang.alarm(executor.execute(Input(b"x")).execution)
        assert violation is not None
        assert violation.path.endswith("wait_in_group.<locals>.wait_for_ever")


def test_a_task_that_goes_round_through_the_loop_is_a_hang_in_its_own_function() -> None:
    with Watchdog(SHORT_S) as short:
        violation = no_hang.alarm(load(short, named("go_round"), b"x").execution)
    assert violation is not None
    assert violation.path.endswith("go_round.<locals>.turn")


def test_a_loader_that_sleeps_too_long_is_a_hang(
    watchdog: Watchdog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("loadfuzz_targets.idle_loop.SLEEP_S_MAX", 0.01)
    violation = no_hang.alarm(load(watchdog, named("sleep_long"), b"x").execution)
    assert violation is not None
    assert violation.path.endswith(":sleep_long")


def test_a_loader_may_wait_for_a_thread(watchdog: Watchdog) -> None:
    trial = load(watchdog, named("use_a_thread"), b"1234")
    assert trial.execution.kind is ExitKind.ACCEPTED
    assert SEEN == [4]


def test_what_a_load_leaves_behind_is_cancelled_with_it(watchdog: Watchdog) -> None:
    executor = InProcessExecutor(named("leave_behind"), watchdog)
    executor.execute(Input(b"x"))
    assert isinstance(SEEN[0], asyncio.Task)
    assert SEEN[0].cancelled()
    assert SEEN[1] == "cancelled"


# -- oracles -------------------------------------------------------------------------------


def alarms(target: CallableTarget, watchdog: Watchdog, *names: str) -> list[Violation]:
    executor = InProcessExecutor(target, watchdog)
    found: list[Violation] = []
    for name in names or tuple(SEEDS):
        trial = executor.execute(Input(SEEDS[name]))
        found += [violation for oracle in ALL if (violation := oracle.judge(trial))]
    return found


@pytest.mark.parametrize(
    "target",
    [
        named("load_reference"),
        named("load_reference", ("state", "return")),
        named("load_reference_from_reader", ("state", "return")),
    ],
    ids=["bytes", "state", "reader"],
)
def test_no_oracle_rings_on_a_loader_that_is_right(
    target: CallableTarget, watchdog: Watchdog
) -> None:
    assert alarms(target, watchdog, "rtc-fresh", "small-ran", "ram-in-parts") == []
    assert fuzz(target, EXECUTIONS, 20150622) is None


def test_a_loader_may_have_rules_that_we_do_not_know(watchdog: Watchdog) -> None:
    executor = InProcessExecutor(named("load_strictly"), watchdog)
    kinds = set()
    for stream in SEEDS.values():
        trial = executor.execute(Input(stream))
        kinds.add(trial.execution.kind)
        if trial.execution.kind is ExitKind.REJECTED:
            assert [violation for oracle in ALL if (violation := oracle.judge(trial))] == []
    assert kinds == {ExitKind.ACCEPTED, ExitKind.REJECTED}


def test_a_returned_state_stands_for_what_was_loaded(watchdog: Watchdog) -> None:
    executor = InProcessExecutor(named("load_bytes", ("state", "return")), watchdog)
    digests = [executor.execute(Input(stream)).digest_after for stream in (b"1", b"2", b"12")]
    assert digests[0] == digests[1] != digests[2]
    assert digests[0].startswith("return=")
    # An own digest for what was never loaded: a fresh loader's.
    assert executor.execute(Input(b"")).digest_before == ""


# -- the loader with three bugs ------------------------------------------------------------


@pytest.fixture
def broken(watchdog: Watchdog) -> InProcessExecutor:
    return InProcessExecutor(TARGET.variant(BROKEN), watchdog)


def test_every_seed_is_accepted_by_the_broken_loader(broken: InProcessExecutor) -> None:
    wrong = [
        (name, trial.execution)
        for name, stream in SEEDS.items()
        if (trial := broken.execute(Input(stream))).execution.kind is not ExitKind.ACCEPTED
    ]
    assert wrong == []


def test_each_of_three_bugs_has_a_signature_of_its_own() -> None:
    document = REFERENCE.parse(SEEDS["none-ran"])
    state = document.to_bytes().replace(b"prelaunch\0", b"sleeping!\0")
    part = document.retyped(document.sections[0], 2)
    odd = document.inserted(
        document.sections[0].start,
        b"\x08" + int(Command.PING).to_bytes(2, "big") + b"\0\5\0\0\0\0\0",
    )
    signatures = []
    with Watchdog(SHORT_S) as short:
        executor = InProcessExecutor(TARGET.variant(BROKEN), short)
        for stream in (state, odd, part):
            execution = executor.execute(Input(stream)).execution
            violation = clean_error.alarm(execution) or no_hang.alarm(execution)
            signatures.append(violation.signature if violation is not None else execution)
    assert signatures == [
        "clean-error:KeyError at broken_async_loader.py:Loader.enter_run_state",
        "no-hang:broken_async_loader.py:Loader.skip_payload",
        "no-hang:broken_async_loader.py:Loader.load_part",
    ]


# -- naming one ----------------------------------------------------------------------------


def test_what_is_measured_is_the_package_of_the_function() -> None:
    assert TARGET.variant("vm.loader:load").instrument == ("vm",)
    assert TARGET.instrument == ()


def test_the_name_of_a_target_opens_the_same_target_again() -> None:
    target = TARGET.variant(BROKEN)
    assert target.name == f"callable:{BROKEN}"
    assert TARGET.variant(target.name.partition(":")[2]) == target


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("loader", "is no MODULE:FUNCTION"),
        ("a:b,rejects=X", "no option 'rejects'"),
        ("a:b,input=text", "none of bytes, reader, file"),
        ("a:b,state=all", "state=all means nothing"),
    ],
)
def test_a_name_that_makes_no_sense_says_how_to_write_it(name: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        TARGET.variant(name)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("no_such_module_here:load", "cannot import 'no_such_module_here'.*path=DIR"),
        (f"{MODULE}:no_such_function", "no_such_function"),
        (f"{MODULE}:not_callable", "cannot be called"),
        (f"{MODULE}:takes_nothing", "takes nothing"),
        (f"{MODULE}:takes_number", "takes a int, which is not known; .*input=bytes"),
        (f"{MODULE}:load_bytes,reject={MODULE}.SEEN", "is no exception"),
    ],
)
def test_a_function_that_is_not_there_or_takes_something_else_is_said(name: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        TARGET.variant(name).open()


def test_the_plain_target_says_how_to_name_a_function(watchdog: Watchdog) -> None:
    with pytest.raises(UsageError, match="callable:myloader:load"):
        TARGET.open()
    with pytest.raises(InfraError, match="has no working loader"):
        InProcessExecutor(TARGET, watchdog)
