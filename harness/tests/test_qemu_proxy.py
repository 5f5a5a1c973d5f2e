"""The proxy between two QEMUs: where sections begin in a live stream, and what either side
sees of a fault."""

import asyncio
import errno
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import cache

import pytest

from loadfuzz.faults.kinds import FaultKind
from loadfuzz.faults.plan import NO_FAULTS, Fault, FaultPlan, fault_of
from loadfuzz.faults.resolving import resolve
from loadfuzz.faults.wire import Deliver, Dry, End, Fail, Injector, Wait
from loadfuzz.plugins import load_target
from loadfuzz.qemu import proxy as module
from loadfuzz.qemu import section_watch
from loadfuzz.qemu.late import LateInjector
from loadfuzz.qemu.proxy import STEP_SIZE, Ended, Passed, Proxy, pair, strikes_source
from loadfuzz.qemu.section_watch import HEADER_MAX, RECORD_MAX, SectionWatch
from savevm.document import Document
from savevm.document.resync import FOOTER_SIZE

V3 = b"\0\0\0\3"
SEEDS = {seed.name: seed.stream for seed in load_target("reference").seeds()}
FULL = SEEDS["full-fresh"]


@cache
def sections_of(stream: bytes) -> tuple[int, ...]:
    return tuple(section.start for section in Document.parse(stream).sections)


def plan_of(text: str) -> FaultPlan:
    return FaultPlan(tuple(fault_of(word) for word in text.split()))


# -- sections of a live stream ---------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 100, 4096, 1 << 20])
@pytest.mark.parametrize("name", SEEDS)
def test_sections_found_live_are_those_of_the_document(name: str, size: int) -> None:
    stream = SEEDS[name]
    watch = SectionWatch()
    sure = 0
    for at in range(0, len(stream), size):
        before = len(watch.starts)
        now = watch.feed(stream[at : at + size])
        # Nothing that was in no doubt turns out to be the beginning of a section.
        assert all(start >= sure for start in watch.starts[before:])
        assert sure <= now <= watch.size
        assert watch.size - now <= FOOTER_SIZE + HEADER_MAX
        sure = now
    assert watch.finish() == watch.size == len(stream)
    assert tuple(watch.starts) == sections_of(stream)
    vmdesc = Document.parse(stream).vmdesc
    assert watch.end == (vmdesc.start if vmdesc is not None else len(stream))
    assert watch.recorded() == stream


def header(section_id: int, name: bytes = b"card") -> bytes:
    """A FULL section's header."""
    return b"\4" + section_id.to_bytes(4, "big") + bytes((len(name),)) + name + bytes(7) + b"\1"


def footer(section_id: int) -> bytes:
    return b"\x7e" + section_id.to_bytes(4, "big")


@pytest.mark.parametrize(
    "inside",
    [
        b"\x7e" * 40,
        footer(5) + b"anything",
        footer(6) + header(7),
        header(6),
        footer(5)[:4] + footer(5) + b"\7",
    ],
    ids=["bytes", "own-footer", "another-footer", "header", "twice"],
)
def test_what_only_resembles_a_boundary_is_none(inside: bytes) -> None:
    first = header(5) + inside
    head = b"QEVM" + V3
    stream = head + first + footer(5) + header(6) + b"xyz" + footer(6) + b"\0"
    watch = SectionWatch()
    for byte in stream:
        watch.feed(bytes((byte,)))
    watch.finish()
    assert watch.starts == [len(head), len(head) + len(first) + FOOTER_SIZE]
    assert watch.end == len(stream)


def test_a_section_may_go_on_behind_another_one() -> None:
    start = [b"\1" + header(number)[1:] for number in (2, 3)]
    part = [b"\2" + number.to_bytes(4, "big") for number in (2, 3)]
    sections = [start[0], start[1], part[0] + b"more", part[1], b"\3" + part[0][1:]]
    numbers = (2, 3, 2, 3, 2)
    pieces = [piece + footer(number) for piece, number in zip(sections, numbers, strict=True)]
    watch = SectionWatch()
    watch.feed(b"QEVM" + V3 + b"".join(pieces) + b"\0")
    watch.finish()
    assert watch.starts == [8 + sum(map(len, pieces[:number])) for number in range(5)]


def test_a_stream_without_footers_has_one_section_that_is_known() -> None:
    watch = SectionWatch()
    watch.feed(b"QEVM" + V3 + header(0) + b"state" + header(1) + b"state")
    watch.finish()
    assert (watch.starts, watch.end) == ([8], 0)


def test_a_stream_that_is_too_long_is_passed_on_and_not_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(section_watch, "RECORD_MAX", 100)
    stream = FULL
    watch = SectionWatch()
    for at in range(0, len(stream), 64):
        watch.feed(stream[at : at + 64])
    assert watch.finish() == len(stream)
    assert len(watch.recorded(0, RECORD_MAX)) == 100
    assert len(watch.starts) < len(sections_of(stream))


# -- places that become known late -----------------------------------------------------------------

_PLANS = (
    "reset@section:2",
    "stall@section:0=20 close@section:3",
    "short-read@section:1=3 eagain@section:1=2 half-close@section:4",
    "duplicate@section:1=20 bit-flip@byte:3=2",
    "slow@section:2=4096 reset@read:9",
    "zero-tail@section:3",
    "reorder@section:1=16 stall@section:1=9000",
)


def acts_of(pull: Callable[[int], object], more: Callable[[], bool]) -> list[object]:
    """Acts until nothing more comes."""
    acts: list[object] = []
    for _ in range(100_000):
        act = pull(50)
        if not isinstance(act, Dry):
            acts.append(act)
        elif not more():
            return acts
        if isinstance(act, Fail | End):
            return acts
    raise AssertionError("it does not end")


@pytest.mark.parametrize("text", _PLANS)
@pytest.mark.parametrize("size", [1, 33, 5000])
def test_a_late_injector_does_what_one_that_knew_everything_does(text: str, size: int) -> None:
    stream = FULL
    plan = plan_of(text)
    pieces = [stream[at : at + size] for at in range(0, len(stream), size)]
    knowing = Injector(resolve(plan, Document.parse(stream)))
    late_pieces, watch = list(pieces), SectionWatch()
    late = LateInjector(plan, watch.recorded)
    ended = False
    # What is held back comes later; so both get the same, when the late one gets it.
    placed = pushed = 0

    def more() -> bool:
        nonlocal placed, pushed, ended
        if ended:
            return False
        ended = not late_pieces
        sure = watch.finish() if ended else watch.feed(late_pieces.pop(0))
        for number in range(placed, len(watch.starts)):
            late.place(number, watch.starts[number])
        placed = len(watch.starts)
        schedule.append(watch.recorded(pushed, sure))
        late.push(schedule[-1])
        pushed = sure
        if ended:
            late.push_end()
        return True

    schedule: list[bytes] = []
    found = acts_of(late.pull, more)
    turns = iter(enumerate(schedule, 1))

    def same() -> bool:
        number, piece = next(turns, (0, b""))
        knowing.push(piece)
        if ended and number == len(schedule):
            knowing.push_end()
        return number > 0

    assert acts_of(knowing.pull, same) == found
    assert late.struck == tuple(knowing.struck) != ()
    assert late.position == knowing.position


def test_a_break_behind_what_came_twice_strikes_as_soon_as_its_place_is_known() -> None:
    stream = FULL
    late = LateInjector(plan_of("duplicate@byte:9=64 reset@section:0"), lambda a, b: stream[a:b])
    late.push(stream[:100])
    assert acts_of(late.pull, lambda: False) == [
        Deliver((stream[:73] + stream[9:100])[at : at + 50]) for at in range(0, 164, 50)
    ]
    late.place(0, 120)
    late.push(stream[100:200])
    assert late.pull(50) == Fail(errno.ECONNRESET)


# -- what either side sees -------------------------------------------------------------------------


@dataclass
class Ends:
    """What came of a connection.

    Attributes:
        passed: what the proxy says.
        got: what the destination read.
        destination: error number at its end, 0 for an end of file.
        source: error number of what ended its writing, 0 when all was taken.
    """

    passed: Passed
    got: bytes
    destination: int
    source: int


def through(
    text: str,
    stream: bytes,
    *,
    at_step: Callable[[Fault], Awaitable[bool]] | None = None,
    read_max: int = 1 << 30,
    closing: bool = True,
    patient: bool = False,
) -> Ends:
    """Send a stream through a proxy.

    Args:
        text: the plan.
        stream: what the source sends.
        at_step: as the proxy wants it.
        read_max: bytes after which the destination closes its end.
        closing: the source closes behind the stream.
        patient: it does so only when the destination has come to an end.
    """

    async def nothing(_: Fault) -> bool:
        raise AssertionError("no step was planned")

    async def run() -> Ends:
        loop = asyncio.get_running_loop()
        ours_out, source = pair()
        ours_in, destination = pair(marked=True)
        for end in (source, destination):
            end.setblocking(False)
        got = bytearray()
        ends = {"source": 0, "destination": 0}
        arrived = asyncio.Event()

        async def send() -> None:
            try:
                await loop.sock_sendall(source, stream)
            except OSError as error:
                ends["source"] = error.errno or -1
            if patient:
                await arrived.wait()
            if closing:
                source.close()

        async def receive() -> None:
            try:
                while len(got) < read_max and (data := await loop.sock_recv(destination, 4096)):
                    got.extend(data)
            except OSError as error:
                ends["destination"] = error.errno or -1
            destination.close()
            arrived.set()

        proxy = Proxy(ours_out, ours_in, plan_of(text), at_step or nothing)
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(send())
                tasks.create_task(receive())
                passed = await proxy.run()
        finally:
            source.close()
            assert ours_in.fileno() == ours_out.fileno() == -1
        return Ends(passed, bytes(got), ends["destination"], ends["source"])

    return asyncio.run(run())


def noise(size: int) -> bytes:
    """Bytes that differ."""
    return bytes(at * 7 % 251 for at in range(size))


def test_without_faults_everything_arrives() -> None:
    stream = FULL
    ends = through("", stream)
    assert (ends.got, ends.destination, ends.source) == (stream, 0, 0)
    passed = ends.passed
    assert (passed.ended, passed.struck) == (Ended.WHOLE, ())
    assert passed.sent == passed.delivered == len(stream)
    assert passed.sections == sections_of(stream)
    assert passed.whole_state


@pytest.mark.parametrize(
    ("text", "destination", "source"),
    [
        ("reset@byte:5000", errno.ECONNRESET, errno.EPIPE),
        ("eio@byte:5000", errno.ECONNRESET, errno.EPIPE),
        ("stall@byte:5000=6000", errno.ECONNRESET, errno.EPIPE),
        ("close@byte:5000", 0, errno.EPIPE),
        ("half-close@byte:5000", 0, 0),
    ],
)
def test_each_side_sees_of_a_broken_connection_what_a_socket_can_show(
    text: str, destination: int, source: int
) -> None:
    stream = noise(100_000)
    ends = through(text, stream)
    assert ends.got == stream[:5000]
    assert (ends.destination, ends.source) == (destination, source)
    assert ends.passed.ended is Ended.BROKEN
    assert ends.passed.delivered == 5000
    assert ends.passed.struck[0].kind == fault_of(text).kind
    if text.startswith("half"):
        assert ends.passed.sent == len(stream)
    else:
        assert ends.passed.sent <= 5000 + 2 * STEP_SIZE


def test_a_destination_sees_a_half_close_while_the_source_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "SILENT_MAX_S", 5.0)
    ends = through("half-close@byte:5", noise(9000), patient=True)
    assert (ends.got, ends.source, ends.passed.ended) == (noise(5), 0, Ended.BROKEN)


@pytest.mark.parametrize(
    "text",
    [
        "stall@byte:100=3000",
        "short-read@read:2=1 eagain@byte:9=3",
        "slow@byte:50=1048576",
        "short-read@byte:4096=10",
    ],
)
def test_silence_and_small_pieces_change_nothing(text: str) -> None:
    stream = noise(30_000)
    ends = through(text, stream)
    assert ends.got == stream
    assert ends.passed.ended is Ended.WHOLE
    assert {fault.kind for fault in ends.passed.struck} == {
        fault.kind for fault in plan_of(text).faults
    }


def test_silences_are_scaled_and_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    sleep = asyncio.sleep

    async def counted(seconds: float) -> None:
        slept.append(seconds)
        await sleep(0)

    monkeypatch.setattr(asyncio, "sleep", counted)
    through("stall@byte:10=1000", noise(100))
    assert slept == [pytest.approx(module.TIME_SCALE)]
    slept.clear()
    plan = " ".join(f"stall@byte:{at}=4000" for at in range(16))
    monkeypatch.setattr(module, "WAITED_MAX_S", 0.1)
    through(plan, noise(100))
    assert sum(slept) <= 0.1 + 1e-9


@pytest.mark.parametrize(
    ("text", "arrives"),
    [
        ("bit-flip@byte:7=0", lambda s: s[:7] + bytes((s[7] ^ 1,)) + s[8:]),
        ("duplicate@byte:10=5", lambda s: s[:15] + s[10:]),
        ("reorder@byte:10=5", lambda s: s[:10] + s[15:20] + s[10:15] + s[20:]),
        ("zero-tail@byte:300", lambda s: s[:300] + bytes(len(s) - 300)),
    ],
)
def test_what_is_changed_under_way_arrives_changed(
    text: str, arrives: Callable[[bytes], bytes]
) -> None:
    stream = noise(20_000)
    assert through(text, stream).got == arrives(stream)


@pytest.mark.parametrize("number", range(4))
def test_a_fault_at_a_section_strikes_before_its_first_byte(number: int) -> None:
    stream = FULL
    ends = through(f"close@section:{number}", stream)
    assert ends.got == stream[: sections_of(stream)[number]]


def test_a_fault_at_a_section_that_never_comes_does_not_strike() -> None:
    stream = FULL
    ends = through("close@section:99999", stream)
    assert (ends.got, ends.passed.struck) == (stream, ())


def test_a_stream_that_is_too_long_to_keep_still_arrives(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(section_watch, "RECORD_MAX", 2000)
    ends = through("stall@byte:100=10 reset@section:16", FULL)
    assert ends.got == FULL
    assert [fault.kind for fault in ends.passed.struck] == [FaultKind.STALL]


def test_a_destination_that_closes_is_a_broken_pipe_to_the_source() -> None:
    ends = through("", noise(200_000), read_max=10_000)
    assert ends.passed.ended is Ended.REFUSED
    assert ends.source == errno.EPIPE


def test_a_source_that_falls_silent_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SILENT_MAX_S", 0.05)
    ends = through("", noise(100), closing=False)
    assert ends.passed.ended is Ended.SILENT
    assert noise(100).startswith(ends.got)


def test_steps_are_done_before_their_piece_and_the_rest_behind_the_last() -> None:
    done: list[tuple[str, int]] = []
    stream = noise(3 * STEP_SIZE)

    async def at_step(fault: Fault) -> bool:
        done.append((str(fault), proxies[0].delivered))
        return True

    proxies: list[Proxy] = []
    create = Proxy.__init__

    def remembering(self: Proxy, *arguments: object) -> None:
        create(self, *arguments)  # type: ignore[arg-type]
        proxies.append(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Proxy, "__init__", remembering)
        ends = through("kill@step:3 cancel@step:0 kill@step:4 kill@step:901", stream,
                       at_step=at_step)  # fmt: skip
    assert done == [
        ("cancel@step:0", 0),
        ("kill@step:3", STEP_SIZE),
        ("kill@step:4", 2 * STEP_SIZE),
        ("kill@step:901", 3 * STEP_SIZE),
    ]
    assert ends.got == stream
    assert [strikes_source(fault) for fault in ends.passed.struck] == [True, False, True, False]


def test_a_step_that_took_no_effect_has_not_struck() -> None:
    async def at_step(fault: Fault) -> bool:
        return fault.place.number == 2

    ends = through("kill@step:0 kill@step:2", noise(9000), at_step=at_step)
    assert [str(fault) for fault in ends.passed.struck] == ["kill@step:2"]


@pytest.mark.parametrize("text", ["", "half-close@byte:5"])
@pytest.mark.parametrize(("bound", "value"), [("PASSING_MAX_S", 0.0), ("SENT_MAX", 20_000)])
def test_a_source_that_always_has_more_is_cut_off(
    text: str, bound: str, value: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, bound, value)
    ends = through(text, noise(200_000))
    assert ends.passed.ended is Ended.ENDLESS
    assert ends.passed.sent <= 20_000 + STEP_SIZE
    assert ends.source == errno.EPIPE


def test_behind_a_break_no_step_is_done() -> None:
    ends = through("close@byte:10 kill@step:900", noise(50_000))
    assert [fault.kind for fault in ends.passed.struck] == [FaultKind.CLOSE]


def test_cancellation_closes_both_ends() -> None:
    async def run() -> tuple[socket.socket, socket.socket]:
        ours_out, source = pair()
        ours_in, destination = pair(marked=True)

        async def nothing(_: Fault) -> bool:
            raise AssertionError("no step was planned")

        with source, destination:
            proxy = Proxy(ours_out, ours_in, NO_FAULTS, nothing)
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.01):
                    await proxy.run()
        return ours_out, ours_in

    assert [end.fileno() for end in asyncio.run(run())] == [-1, -1]


def test_the_acts_of_an_injector_are_those_that_a_proxy_knows() -> None:
    assert {Deliver, Dry, End, Fail, Wait} == set(Injector.pull.__annotations__["return"].__args__)
