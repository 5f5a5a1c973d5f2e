"""Who makes the inputs of a trial: one entry each.

All of them feed one :class:`~loadfuzz.bench.bugs.session.BugSession`, so that loader,
oracles, seeds and budget are the same and only the inputs differ.  To add a fuzzer, add a
function that runs inputs until ``session.ended()`` says why to stop, and an entry.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from loadfuzz.errors import UsageError

if TYPE_CHECKING:  # they import the loader, which Atheris has to instrument first
    from loadfuzz.bench.bugs.session import BugSession
    from loadfuzz.bench.bugs.trial import TrialRequest


@dataclass(frozen=True, slots=True)
class Fuzzer:
    """One way to make inputs.

    Attributes:
        name: as on the command line.
        summary: one line.
        drive: runs inputs until the trial ends; may end by calling ``finish`` and never
            return.
        atheris: it runs under Atheris, so the target must be imported by it.
    """

    name: str
    summary: str
    drive: "Callable[[BugSession, TrialRequest, Callable[[], None]], None]"
    atheris: bool = False


def _structure(session: "BugSession", request: "TrialRequest", finish: Callable[[], None]) -> None:
    from loadfuzz.engines.native import NativeEngine
    from loadfuzz.rng import Rng

    NativeEngine(session, Rng(request.seed)).run()


def _raw(session: "BugSession", request: "TrialRequest", finish: Callable[[], None]) -> None:
    from loadfuzz.engines.native import NativeEngine
    from loadfuzz.rng import Rng

    NativeEngine(session, Rng(request.seed), operators={"raw*": 1}).run()


def _guided(session: "BugSession", request: "TrialRequest", finish: Callable[[], None]) -> None:
    from loadfuzz.bench.bugs.atheris_side import run_engine

    run_engine(session, request, finish)


def _bytes(session: "BugSession", request: "TrialRequest", finish: Callable[[], None]) -> None:
    from loadfuzz.bench.bugs.atheris_side import run_bytes

    run_bytes(session, request, finish, dictionary=False)


def _bytes_dict(session: "BugSession", request: "TrialRequest", finish: Callable[[], None]) -> None:
    from loadfuzz.bench.bugs.atheris_side import run_bytes

    run_bytes(session, request, finish, dictionary=True)


def _hypothesis(session: "BugSession", request: "TrialRequest", finish: Callable[[], None]) -> None:
    from loadfuzz.bench.bugs.atheris_side import run_hypothesis

    run_hypothesis(session, request, finish)


def _zzuf(session: "BugSession", request: "TrialRequest", finish: Callable[[], None]) -> None:
    from loadfuzz.bench.bugs.zzuf_side import run_zzuf

    run_zzuf(session, request)


FUZZERS: Final[tuple[Fuzzer, ...]] = (
    Fuzzer("structure", "our mutators, guided by behaviours (the native engine)", _structure),
    Fuzzer("structure+coverage", "our mutators, guided by coverage (Atheris)", _guided, True),
    Fuzzer("raw", "our raw byte operators alone, on the native engine", _raw),
    Fuzzer("bytes", "Atheris with its own mutators", _bytes, True),
    Fuzzer("bytes+dict", "the same, with a dictionary of the descriptions", _bytes_dict, True),
    Fuzzer("hypothesis", "Hypothesis's fuzz_one_input under Atheris", _hypothesis, True),
    Fuzzer("zzuf", "zzuf, which flips bits of the seeds", _zzuf),
)
"""Every fuzzer, ours first."""


def fuzzer_named(name: str) -> Fuzzer:
    """The fuzzer of that name.

    Raises:
        UsageError: there is none.
    """
    found = {fuzzer.name: fuzzer for fuzzer in FUZZERS}.get(name)
    if found is None:
        known = ", ".join(fuzzer.name for fuzzer in FUZZERS)
        raise UsageError(f"no fuzzer {name!r}; there are {known}")
    return found
