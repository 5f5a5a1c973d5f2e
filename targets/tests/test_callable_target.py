"""The target ``callable``: functions of all kinds, their refusals, and one that has three bugs."""

from __future__ import annotations

import asyncio
import gc
import os
import sys
from collections.abc import AsyncIterator, Iterator
from errno import ECANCELED, ECONNRESET, EIO, ETIMEDOUT
from pathlib import Path
from typing import BinaryIO

import pytest

from loadfuzz import variants
from loadfuzz.abc import TakesFaults
from loadfuzz.campaign.batch import Batch, Engine
from loadfuzz.engines.worker import run_batch
from loadfuzz.errors import UsageError
from loadfuzz.events import Event, FindingAnnounced
from loadfuzz.execution import ExitKind
from loadfuzz.executors.inprocess import InProcessExecutor
from loadfuzz.executors.trial import LoadTrial
from loadfuzz.executors.watchdog import Watchdog
from loadfuzz.faults.kinds import Layer
from loadfuzz.faults.plan import FaultPlan, fault_of
from loadfuzz.findings import Finding, Violation
from loadfuzz.inputs import WHOLE, Delivery, Input
from loadfuzz.mutation import apply
from loadfuzz.oracles import ALL, UNDER_FAULTS, clean_error, faults, no_hang, no_leak
from loadfuzz.repro.folder import read_finding
from loadfuzz.standalone.loop import fuzz
from loadfuzz.storage import Corpus, seeds_of
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
HANG_S = 1.0
"""The same of a campaign, which runs whatever does not end a few times more."""
CAMPAIGN_EXECUTIONS = 3000
"""The last of three bugs is found after some hundred."""
THREE_BUGS = {
    "clean-error:KeyError at broken_async_loader.py:Loader.enter_run_state",
    "no-hang:broken_async_loader.py:Loader.skip_payload",
    "no-hang:broken_async_loader.py:Loader.load_part",
}
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


def test_a_campaign_finds_all_three_apart_and_reduced(tmp_path: Path) -> None:
    name = f"callable:{BROKEN}"
    corpus = Corpus(tmp_path / "corpus")
    corpus.folder.mkdir()
    seeds_of(tmp_path).add(filter(None, map(corpus.add, SEEDS.values())))
    found: dict[str, Finding] = {}

    def hear(event: Event) -> None:
        if isinstance(event, FindingAnnounced):
            found[event.signature] = read_finding(tmp_path / event.folder)

    run_batch(
        Batch(name, Engine.NATIVE, str(tmp_path), 0, 3, None, CAMPAIGN_EXECUTIONS,
              load_timeout_s=HANG_S),
        hear, stopped=lambda: set(found) >= THREE_BUGS,
    )  # fmt: skip
    assert set(found) >= THREE_BUGS
    # One bug is one bucket.
    assert {one for one in found if one.startswith(("no-hang", "clean-error"))} == THREE_BUGS
    for signature, finding in found.items():
        again, tries = finding.reliability
        assert again == tries >= 1, signature
        assert finding.parent_stream in SEEDS.values(), signature
        assert finding.input.stream == apply(finding.mutations, finding.parent_stream)
    (state,) = (one for one in found.values() if one.violation.oracle == clean_error.NAME)
    assert [change.path for change in state.mutations] == ["globalstate/runstate"]


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
    with pytest.raises(UsageError, match="callable:myloader:load"):
        InProcessExecutor(TARGET, watchdog)


# -- faults --------------------------------------------------------------------------------


async def count_reader(reader: asyncio.StreamReader) -> int:
    """Reads to the end by four bytes, and passes on whatever happens."""
    count = 0
    while piece := await reader.read(4):
        SEEN.append(piece)
        count += len(piece)
    return count


async def read_fields(reader: asyncio.StreamReader) -> None:
    while True:
        SEEN.append(await reader.readexactly(4))


async def read_head(reader: asyncio.StreamReader) -> None:
    SEEN.append(await reader.readexactly(4))
    await asyncio.sleep(1)
    raise Refused("not for me")


async def read_impatiently(reader: asyncio.StreamReader) -> None:
    async with asyncio.timeout(2):
        await count_reader(reader)


async def give_up_on_itself(reader: asyncio.StreamReader) -> None:
    await count_reader(reader)
    async with asyncio.timeout(2):
        await asyncio.Event().wait()


async def swallow_cancel(reader: asyncio.StreamReader) -> None:
    try:
        await count_reader(reader)
    except asyncio.CancelledError:
        SEEN.append("swallowed")


async def swallow_cancel_and_wait(reader: asyncio.StreamReader) -> None:
    await swallow_cancel(reader)
    await asyncio.Event().wait()


async def read_beside_a_task(reader: asyncio.StreamReader) -> None:
    """Its task is forgotten when it is cancelled, or refuses."""

    async def beside() -> None:
        await asyncio.Event().wait()

    task = asyncio.get_running_loop().create_task(beside())
    if await count_reader(reader) % 4:
        raise Refused("odd")
    task.cancel()


async def read_in_group(reader: asyncio.StreamReader) -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(count_reader(reader))
        group.create_task(asyncio.sleep(1))


async def read_by_generator(reader: asyncio.StreamReader) -> None:
    async def fields() -> AsyncIterator[bytes]:
        while piece := await reader.read(4):
            yield piece

    async for field in fields():
        if field == b"ijkl":
            raise Refused("enough")


async def fail_by_itself(reader: asyncio.StreamReader) -> None:
    await count_reader(reader)
    raise OSError(EIO, "its own")


async def cancel_itself(reader: asyncio.StreamReader) -> None:
    raise asyncio.CancelledError


def count_file(file: BinaryIO) -> int:
    count = 0
    while piece := file.read(4):
        SEEN.append(piece)
        count += len(piece)
    return count


LETTERS = b"abcdefghijklmnop"
ALL_LAYERS = {Layer.TRANSPORT, Layer.PROCESS}


def under(
    watchdog: Watchdog, target: CallableTarget, *plan: str, stream: bytes = LETTERS,
    delivery: Delivery = WHOLE,
) -> tuple[str, list[str]]:  # fmt: skip
    """How a load of letters ended, and what struck."""
    item = Input(stream, delivery, faults=FaultPlan(tuple(map(fault_of, plan))))
    trial = InProcessExecutor(target, watchdog).execute(item)
    execution = trial.execution
    told = str(execution.kind)
    if execution.refusal is not None:
        told = f"{told} {execution.refusal.errno} {execution.refusal.text}"
    elif execution.escape is not None:
        places = [":".join(frame.split(":")[1:2]) for frame in execution.escape.frames]
        told = f"{told} {execution.escape.type_name} in {(places or ['?'])[-1]}"
    return told, list(map(str, trial.struck()))


def test_what_can_go_wrong_depends_on_what_a_function_is_given() -> None:
    layers = {
        name: set(named(name).open().layers)  # type: ignore[attr-defined]
        for name in ("load_bytes", "load_async_bytes", "load_file", "count_reader")
    }
    assert layers == {
        "load_bytes": {Layer.TRANSPORT}, "load_async_bytes": ALL_LAYERS,
        "load_file": {Layer.TRANSPORT}, "count_reader": ALL_LAYERS,
    }  # fmt: skip
    assert isinstance(named("load_bytes").open(), TakesFaults)


@pytest.mark.parametrize("function", ["count_reader", "count_file"])
@pytest.mark.parametrize(
    ("fault", "ended", "seen"),
    [
        ("short-read@byte:2=1", "accepted", LETTERS),
        ("stall@byte:9=4000", "accepted", LETTERS),
        ("stall@byte:8=6000", f"rejected {ETIMEDOUT} ", b"abcdefgh"),
        ("eagain@byte:3=5", "accepted", LETTERS),
        ("slow@byte:0=64", "accepted", LETTERS),
        ("slow@byte:3=1", f"rejected {ETIMEDOUT} ", b"abcdefgh"),
        ("eio@byte:8", f"rejected {EIO} ", b"abcdefgh"),
        ("reset@byte:0", f"rejected {ECONNRESET} ", b""),
        ("reset@read:1", f"rejected {ECONNRESET} ", b"abcd"),
        ("close@byte:12", "accepted", b"abcdefghijkl"),
        ("half-close@byte:0", "accepted", b""),
        ("duplicate@byte:4=2", "accepted", b"abcdefefghijklmnop"),
        ("reorder@byte:0=1", "accepted", b"bacdefghijklmnop"),
        ("zero-tail@byte:14", "accepted", b"abcdefghijklmn\0\0"),
        ("bit-flip@byte:0=5", "accepted", b"Abcdefghijklmnop"),
    ],
)
def test_faults_of_the_transport_reach_a_reader_and_a_file(
    watchdog: Watchdog, function: str, fault: str, ended: str, seen: bytes
) -> None:
    told, struck = under(watchdog, named(function, OWN), fault, delivery=Delivery((4,)))
    assert told.startswith(ended)
    assert b"".join(piece for piece in SEEN if isinstance(piece, bytes)) == seen
    assert len(struck) == (2 if str(ETIMEDOUT) in ended else 1)


@pytest.mark.parametrize(
    ("fault", "seen", "strikes"),
    [
        ("bit-flip@byte:0=5", b"Abcdefghijklmnop", True),
        ("close@byte:3", b"abc", True),
        ("half-close@read:0", b"", True),
        ("close@byte:16", LETTERS, False),
        ("eio@byte:3", LETTERS, False),
        ("stall@byte:3=9000", LETTERS, False),
        ("short-read@byte:3=1", LETTERS, False),
        ("cancel@step:0", LETTERS, False),
        ("kill@step:0", LETTERS, False),
    ],
)
def test_bytes_at_once_can_only_be_others_or_fewer(
    watchdog: Watchdog, fault: str, seen: bytes, strikes: bool
) -> None:
    told, struck = under(watchdog, named("load_bytes"), fault)
    assert told == "accepted"
    assert [seen] == SEEN
    assert bool(struck) is strikes


def test_a_plan_of_several_faults_strikes_in_order(watchdog: Watchdog) -> None:
    plan = ("eio@byte:12", "stall@byte:8=10", "short-read@byte:4=2", "cancel@step:99")
    told, struck = under(watchdog, named("count_reader"), *plan)
    assert told.startswith(f"rejected {EIO}")
    assert struck == ["short-read@byte:4=2", "stall@byte:8=10", "eio@byte:12"]


@pytest.mark.parametrize("fault", ["eio@byte:4", "reset@byte:4", "close@byte:4", "stall@byte:4=9"])
def test_a_fault_behind_what_a_loader_reads_has_not_struck(watchdog: Watchdog, fault: str) -> None:
    told, struck = under(watchdog, named("read_head", OWN), fault)
    assert told.endswith("not for me")
    assert SEEN == [b"abcd"]
    assert struck == []


def test_what_is_cut_off_ends_as_a_short_stream_does(watchdog: Watchdog) -> None:
    told, struck = under(watchdog, named("read_fields"), "close@byte:10")
    assert "2 bytes read" in told
    assert told.startswith("rejected")
    assert struck == ["close@byte:10"]


def test_an_error_of_its_own_is_no_error_of_the_transport(watchdog: Watchdog) -> None:
    assert under(watchdog, named("fail_by_itself"), "stall@byte:4=9")[0] == (
        "crashed OSError in fail_by_itself"
    )
    assert under(watchdog, named("fail_by_itself"), "reset@byte:99")[0] == (
        "crashed OSError in fail_by_itself"
    )
    assert under(watchdog, named("cancel_itself"), "cancel@step:9")[0].startswith(
        "crashed CancelledError"
    )


def test_a_timeout_of_the_loaders_own_is_clean_where_it_was_kept_waiting(
    watchdog: Watchdog,
) -> None:
    target = named("read_impatiently", OWN)
    assert under(watchdog, target, "stall@byte:4=1500")[0] == "accepted"
    assert under(watchdog, target, "stall@byte:4=2500")[0].startswith(f"rejected {ETIMEDOUT}")
    told, _ = under(watchdog, named("give_up_on_itself", OWN), "short-read@byte:4=1")
    assert told.startswith("crashed TimeoutError")


def test_errors_in_a_task_group_are_what_stands_in_them(watchdog: Watchdog) -> None:
    told, _ = under(watchdog, named("read_in_group", OWN), "reset@byte:4")
    assert told.startswith(f"rejected {ECONNRESET}")


def test_a_load_that_is_cancelled_wherever_it_waits_is_refused(watchdog: Watchdog) -> None:
    target, ends = named("read_in_group", OWN), []
    for step in range(40):
        told, struck = under(watchdog, target, f"cancel@step:{step}", delivery=Delivery((1,)))
        ends.append(told)
        assert struck == ([f"cancel@step:{step}"] if told != "accepted" else [])
    # It waits for its tasks alone.
    assert ends == [f"rejected {ECANCELED} cancelled"] + ["accepted"] * 39
    ends = [
        under(watchdog, named("count_reader"), f"cancel@step:{step}", delivery=Delivery((1,)))[0]
        for step in range(18)
    ]
    assert ends == [f"rejected {ECANCELED} cancelled"] * 17 + ["accepted"]


def test_a_loader_that_swallows_its_cancellation_is_told_apart(watchdog: Watchdog) -> None:
    told, struck = under(watchdog, named("swallow_cancel"), "cancel@step:0")
    assert (told, struck) == ("accepted", ["cancel@step:0"])
    assert SEEN == ["swallowed"]
    item = Input(LETTERS, faults=FaultPlan((fault_of("cancel@step:0"),)))
    trial = InProcessExecutor(named("swallow_cancel"), watchdog).execute(item)
    violation = faults.judge(trial)
    assert violation is not None
    assert violation.path.startswith("cancel")
    told, _ = under(watchdog, named("swallow_cancel_and_wait"), "cancel@step:0")
    assert told.startswith("timed-out HangError in swallow_cancel_and_wait")


def test_a_loader_that_fails_and_leaves_a_task_behind_is_caught_there(watchdog: Watchdog) -> None:
    target = named("read_beside_a_task", OWN)
    left = "crashed TasksLeftError in read_beside_a_task.<locals>.beside"
    assert under(watchdog, target, "cancel@step:0")[0] == left
    assert under(watchdog, target, "eio@byte:8")[0] == left
    assert under(watchdog, target, "stall@byte:8=5")[0] == "accepted"


def test_tasks_that_refusals_leave_behind_pile_up(watchdog: Watchdog) -> None:
    executor = InProcessExecutor(named("read_beside_a_task", OWN), watchdog)
    for stream, rings in ((LETTERS, False), (b"abc", True), (LETTERS, False)):
        violation = no_leak.judge(executor.execute(Input(stream)))
        assert (violation is not None) is rings
        if violation is not None:
            assert violation.path == "pile/tasks"


def test_a_generator_that_is_given_up_is_no_task_left_behind(watchdog: Watchdog) -> None:
    target = named("read_by_generator", OWN)
    assert under(watchdog, target, "stall@byte:4=5")[0].endswith("enough")
    trial = InProcessExecutor(target, watchdog).execute(Input(LETTERS))
    assert no_leak.judge(trial) is None


def test_sleep_is_virtual_under_faults_and_has_the_same_bound(watchdog: Watchdog) -> None:
    told, _ = under(watchdog, named("sleep_long"), "bit-flip@byte:0=0")
    assert told == "timed-out HangError in sleep_long"


def test_a_load_with_faults_leaves_no_file_open(watchdog: Watchdog) -> None:
    executor = InProcessExecutor(named("swallow_cancel_and_wait"), watchdog)
    item = Input(LETTERS, faults=FaultPlan((fault_of("cancel@step:0"),)))
    executor.execute(item)
    gc.collect()  # what other tests have dropped
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        executor.execute(item)
    assert len(os.listdir("/proc/self/fd")) == before


def test_the_same_faults_are_the_same_load(watchdog: Watchdog) -> None:
    stream, plan = SEEDS["rtc-fresh"], ("stall@byte:99=70", "short-read@byte:500=3", "eio@read:9")
    target = named("load_reference_from_reader", ("state", "return"))
    once, again = (
        (under(watchdog, target, *plan, stream=stream, delivery=Delivery((311,))), SEEN.copy())
        for _ in range(2)
    )
    assert once == again
    assert once[0][1] == ["stall@byte:99=70", "short-read@byte:500=3", "eio@byte:2058"]


def test_no_oracle_rings_when_things_go_wrong_around_a_loader_that_is_right(
    watchdog: Watchdog,
) -> None:
    stream = SEEDS["rtc-fresh"]
    for name in ("load_reference_from_reader", "load_reference"):
        executor = InProcessExecutor(named(name, ("state", "return")), watchdog)
        for text in (
            "short-read@byte:7=1", "stall@byte:500=4000", "stall@byte:500=9000", "eio@byte:40",
            "reset@read:0", "close@byte:3000", "bit-flip@byte:60=3", "cancel@step:0",
        ):  # fmt: skip
            trial = executor.execute(Input(stream, faults=FaultPlan((fault_of(text),))))
            assert [found for oracle in UNDER_FAULTS if (found := oracle.judge(trial))] == []
