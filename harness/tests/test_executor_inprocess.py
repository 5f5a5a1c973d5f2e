"""What the executor makes of everything a loader may do."""

import signal
import sys
import time
from collections.abc import Iterator

import pytest

from loadfuzz.errors import InfraError
from loadfuzz.execution import Depth, ExitKind
from loadfuzz.executors.documents import Documents
from loadfuzz.executors.guard import SubjectError
from loadfuzz.executors.inprocess import InProcessExecutor
from loadfuzz.executors.watchdog import Watchdog
from loadfuzz.inputs import WHOLE, Delivery, Input, Seed
from savevm import LoadError
from savevm.document import Document
from savevm.trace import Trace


class FakeSubject:
    """Does as the first byte of its input says; its state is one number."""

    def __init__(self) -> None:
        self.state = 0
        self.resets = 0
        self.resets_fail = False
        self.save_fails = False

    def load(self, stream: bytes, delivery: Delivery, trace: Trace | None) -> None:
        what = stream[:1]
        if trace is not None:
            trace("qemu_loadvm_state_section", 4)
            trace("qemu_loadvm_state_section_startfull", 7, "chosen by the stream", 1, 2)
            trace("vmstate_load", "serial", "serial")
        if what == b"r":
            raise LoadError("no such thing", offset=8, path=("serial", "footer"))
        if what == b"h":
            raise LoadError("no magic", offset=0, path=("header",))
        if what == b"d":
            self.state = 5
            raise LoadError("refused, and harmed")
        if what == b"i":
            self.state = 6
            self._deep(stream)
        if what == b"m":
            raise MemoryError
        if what == b"x":
            sys.exit(3)
        if what == b"k":
            raise KeyboardInterrupt
        if what == b"R":
            self._recurse()
        if what == b"s":
            raise Unprintable
        if what == b"l":
            self._swallow_and_spin()
        if what == b"p":
            self.save_fails = True
        self.state = len(stream) + len(delivery.chunks)

    def _deep(self, stream: bytes) -> None:
        stream[1 << 20]

    def _recurse(self) -> None:
        self._recurse()

    def _swallow_and_spin(self) -> None:
        try:
            while True:
                self._work()
        except BaseException:
            while True:
                self._work()

    def _work(self) -> int:
        return sum(range(50))

    def reset(self) -> None:
        if self.resets_fail:
            raise RuntimeError("cannot reset")
        self.resets += 1
        self.state = 0
        self.save_fails = False

    def digest(self) -> str:
        return str(self.state)

    def save(self) -> bytes:
        if self.save_fails:
            raise ZeroDivisionError("while saving")
        saved = b"a" * self.state
        self.state += 100
        return saved

    def check_invariants(self) -> list[str]:
        return []

    def step(self, count: int) -> None:
        self.state += count


class Unprintable(Exception):
    def __str__(self) -> str:
        raise ValueError("no text")


class FakeTarget:
    name = "fake"
    summary = "does as told"
    instrument = ("fake",)

    def __init__(self) -> None:
        self.opened: list[FakeSubject] = []
        self.parsed = 0

    def open(self) -> FakeSubject:
        self.opened.append(FakeSubject())
        return self.opened[-1]

    def seeds(self) -> list[Seed]:
        return [Seed("a", b"a", "fake")]

    def parse(self, stream: bytes) -> Document:
        self.parsed += 1
        return Document.parse(stream)


@pytest.fixture
def target() -> FakeTarget:
    return FakeTarget()


@pytest.fixture
def watchdog() -> Iterator[Watchdog]:
    with Watchdog(0.04) as guard:
        yield guard


@pytest.fixture
def executor(target: FakeTarget, watchdog: Watchdog) -> InProcessExecutor:
    return InProcessExecutor(target, watchdog)


def test_an_accepted_load_shows_its_state_and_is_undone_before_the_next(
    executor: InProcessExecutor, target: FakeTarget
) -> None:
    trial = executor.execute(Input(b"aaa"))
    assert trial.execution.kind is ExitKind.ACCEPTED
    assert trial.execution.depth is Depth.ACCEPTED
    assert (trial.digest_before, trial.digest_after) == ("0", "3")
    assert target.opened[0].resets == 0
    again = executor.execute(Input(b"aa"))
    assert target.opened[0].resets == 1
    assert (again.digest_before, again.digest_after) == ("0", "2")


def test_after_a_refusal_without_harm_the_loader_is_used_as_it_is(
    executor: InProcessExecutor, target: FakeTarget
) -> None:
    for _ in range(5):
        trial = executor.execute(Input(b"r"))
        assert trial.execution.kind is ExitKind.REJECTED
        assert trial.execution.refusal is not None
        assert trial.execution.refusal.path == ("serial", "footer")
    assert target.opened[0].resets == 0
    assert len(target.opened) == 1


def test_after_a_refusal_with_harm_the_loader_is_reset(
    executor: InProcessExecutor, target: FakeTarget
) -> None:
    trial = executor.execute(Input(b"d"))
    assert (trial.digest_before, trial.digest_after) == ("0", "5")
    assert executor.execute(Input(b"r")).digest_after == "0"
    assert target.opened[0].resets == 1


def test_what_escapes_is_a_crash_with_its_place(executor: InProcessExecutor) -> None:
    trial = executor.execute(Input(b"i"))
    assert trial.execution.kind is ExitKind.CRASHED
    escape = trial.execution.escape
    assert escape is not None
    assert escape.type_name == "IndexError"
    assert escape.frames[-1].startswith("test_executor_inprocess.py:FakeSubject._deep:")
    assert [frame.split(":")[1] for frame in escape.frames] == [
        "FakeSubject.load",
        "FakeSubject._deep",
    ]
    assert executor.execute(Input(b"r")).digest_after == "0"


@pytest.mark.parametrize(
    ("stream", "kind", "type_name"),
    [
        (b"m", ExitKind.OUT_OF_MEMORY, "MemoryError"),
        (b"x", ExitKind.CRASHED, "SystemExit"),
        (b"R", ExitKind.CRASHED, "RecursionError"),
        (b"s", ExitKind.CRASHED, "Unprintable"),
    ],
)
def test_nothing_that_a_loader_raises_gets_past_the_executor(
    executor: InProcessExecutor, stream: bytes, kind: ExitKind, type_name: str
) -> None:
    trial = executor.execute(Input(stream))
    assert trial.execution.kind is kind
    assert trial.execution.escape is not None
    assert trial.execution.escape.type_name == type_name
    assert 1 <= len(trial.execution.escape.frames) <= 6
    assert executor.execute(Input(b"a")).execution.kind is ExitKind.ACCEPTED


def test_a_ctrl_c_is_meant_for_us_unless_somebody_handles_it(
    executor: InProcessExecutor,
) -> None:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            executor.execute(Input(b"k"))
        signal.signal(signal.SIGINT, lambda number, frame: None)
        assert executor.execute(Input(b"k")).execution.kind is ExitKind.CRASHED
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_load_without_end_is_interrupted_even_if_it_swallows_the_first_interruption(
    executor: InProcessExecutor,
) -> None:
    trial = executor.execute(Input(b"l"))
    assert trial.execution.kind is ExitKind.TIMED_OUT
    assert trial.execution.cpu_s >= 0.04
    escape = trial.execution.escape
    assert escape is not None
    # Not _work or what it calls, where it happens to be most of the time.
    assert escape.frames[-1].startswith("test_executor_inprocess.py:FakeSubject._swallow_and_spin")
    assert executor.execute(Input(b"a")).execution.kind is ExitKind.ACCEPTED


def test_depth_follows_the_sections_that_were_begun(executor: InProcessExecutor) -> None:
    assert executor.execute(Input(b"r")).execution.depth is Depth.HEADER
    assert executor.execute(Input(b"h"), trace=False).execution.depth is Depth.NOTHING
    assert executor.execute(Input(b"r"), trace=False).execution.depth is Depth.HEADER


def test_events_have_no_words_of_the_stream(executor: InProcessExecutor) -> None:
    assert executor.execute(Input(b"r")).execution.events == (
        "qemu_loadvm_state_section 4",
        "qemu_loadvm_state_section_startfull",
        "vmstate_load serial serial",
    )
    assert executor.execute(Input(b"r"), trace=False).execution.events == ()


def test_saving_comes_after_the_digest_and_once(
    executor: InProcessExecutor, target: FakeTarget
) -> None:
    trial = executor.execute(Input(b"aaa"))
    assert trial.saved() == b"aaa"
    assert trial.saved() == b"aaa"
    # The save itself changed the state; what counts is the state after the load.
    assert trial.digest_after == "3"
    assert target.opened[0].state == 103


def test_a_subject_that_was_saved_after_a_refusal_is_reset(executor: InProcessExecutor) -> None:
    executor.execute(Input(b"r")).saved()
    assert executor.execute(Input(b"r")).digest_after == "0"


def test_a_repeat_is_a_load_into_a_fresh_loader(
    executor: InProcessExecutor, target: FakeTarget
) -> None:
    trial = executor.execute(Input(b"aaa"))
    outcome = trial.repeat(b"aa", Delivery((1, 2, 3)))
    assert (outcome.kind, outcome.text, outcome.digest) == (ExitKind.ACCEPTED, "", "5")
    assert trial.repeat(b"r", WHOLE).text == "serial: footer: no such thing (offset 0x8)"
    assert trial.repeat(b"i", WHOLE).text == "IndexError: index out of range"
    assert trial.repeat(b"a", WHOLE).digest == "1"
    assert trial.digest_after == "3"
    assert target.opened[0].state == 3


def test_a_reload_is_saved_if_it_was_accepted(executor: InProcessExecutor) -> None:
    trial = executor.execute(Input(b"a"))
    outcome, saved = trial.reload(b"aaaa")
    assert (outcome.kind, outcome.digest, saved) == (ExitKind.ACCEPTED, "4", b"aaaa")
    outcome, saved = trial.reload(b"r")
    assert (outcome.kind, saved) == (ExitKind.REJECTED, b"")


def test_a_subject_that_fails_elsewhere_than_in_a_load_is_named(
    executor: InProcessExecutor,
) -> None:
    trial = executor.execute(Input(b"p"))
    with pytest.raises(SubjectError) as caught:
        trial.saved()
    assert caught.value.escape.type_name == "ZeroDivisionError"
    assert executor.execute(Input(b"a")).saved() == b"a"


def test_a_loader_that_cannot_be_reset_is_replaced(
    executor: InProcessExecutor, target: FakeTarget
) -> None:
    executor.execute(Input(b"a"))
    target.opened[0].resets_fail = True
    assert executor.execute(Input(b"aa")).digest_after == "2"
    assert len(target.opened) == 2


def test_a_target_that_cannot_be_opened_is_our_error(watchdog: Watchdog) -> None:
    class Broken(FakeTarget):
        def open(self) -> FakeSubject:
            raise OSError("no device")

    with pytest.raises(InfraError, match="no device"):
        InProcessExecutor(Broken(), watchdog)


def test_a_trial_of_the_past_does_not_answer_with_the_present(
    executor: InProcessExecutor,
) -> None:
    old = executor.execute(Input(b"aaa"))
    executor.execute(Input(b"a"))
    with pytest.raises(InfraError):
        old.digest_after


def test_trees_are_made_once_and_bounded(target: FakeTarget) -> None:
    documents = Documents(target, streams_max=2)
    for stream in (b"1", b"2", b"1", b"1", b"3", b"1"):
        assert documents.document(stream).to_bytes() == stream
    assert target.parsed == 3
    assert b"2" not in documents
    assert len(documents) == 2
    small = Documents(target, bytes_max=10)
    for stream in (b"x" * 6, b"y" * 6, b"z" * 60):
        small.places(stream)
        assert len(small) == 1


def test_the_guest_runs_once_for_all_who_ask(
    executor: InProcessExecutor, target: FakeTarget
) -> None:
    trial = executor.execute(Input(b"aa"))
    first = trial.guest_run(8)
    after = target.opened[0].state
    assert trial.guest_run(8) is first
    assert target.opened[0].state == after


def test_a_guest_that_fails_does_so_for_all_who_ask(executor: InProcessExecutor) -> None:
    trial = executor.execute(Input(b"p"))
    for _ in range(2):
        with pytest.raises(SubjectError, match="ZeroDivisionError"):
            trial.guest_run(8)


class Counting(FakeSubject):
    """Says what it holds: fewer after each load, or it fails to say."""

    held = 9

    def load(self, stream: bytes, delivery: Delivery, trace: Trace | None) -> None:
        self.held -= 1
        super().load(stream, delivery, trace)

    def resources(self) -> dict[str, int]:
        return {"files": self.held}

    def damages(self) -> list[str]:
        if self.state == 3:
            raise RuntimeError("cannot tell")
        return []


class CountingTarget(FakeTarget):
    def open(self) -> FakeSubject:
        self.opened.append(Counting())
        return self.opened[-1]


def test_what_there_is_less_of_has_not_piled_up(watchdog: Watchdog) -> None:
    trial = InProcessExecutor(CountingTarget(), watchdog).execute(Input(b"a"))
    assert not trial.holds_more()
    growth = trial.growth()
    assert growth is not None
    assert growth.piled_up == ()


def test_a_subject_that_fails_to_tell_what_it_holds_is_the_targets_fault(
    watchdog: Watchdog,
) -> None:
    executor = InProcessExecutor(CountingTarget(), watchdog)
    trial = executor.execute(Input(b"aaa"))
    with pytest.raises(SubjectError, match="cannot tell"):
        trial.damages()
    assert executor.execute(Input(b"a")).execution.kind is ExitKind.ACCEPTED


class Slow(FakeSubject):
    """Takes a while for a stream that arrives in pieces."""

    def load(self, stream: bytes, delivery: Delivery, trace: Trace | None) -> None:
        if delivery.chunks:
            end = time.thread_time() + 0.25
            while time.thread_time() < end:
                self._work()
        super().load(stream, delivery, trace)


def test_a_repeat_that_was_only_slow_has_all_of_the_limit() -> None:
    class SlowTarget(FakeTarget):
        def open(self) -> FakeSubject:
            return Slow()

    with Watchdog(0.1) as watchdog:
        trial = InProcessExecutor(SlowTarget(), watchdog).execute(Input(b"a"))
        assert trial.repeat(b"a", Delivery((1,))).kind is ExitKind.ACCEPTED
        with watchdog.allowing(2):
            assert trial.after((b"l",)).kind is ExitKind.ACCEPTED


def test_a_cache_of_trees_that_is_still_empty_is_shared(watchdog: Watchdog) -> None:
    documents = Documents(FakeTarget())
    executor = InProcessExecutor(FakeTarget(), watchdog, documents)
    assert executor.documents is documents
