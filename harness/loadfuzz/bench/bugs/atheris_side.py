"""General fuzzers that run under Atheris.

Imported in the second stage of a worker, when the target's packages were imported by
Atheris's hook.  libFuzzer never returns, so ``finish`` ends the process.
"""

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final, NoReturn

import atheris

from loadfuzz.bench.bugs.session import BugSession
from loadfuzz.bench.bugs.trial import TrialRequest
from loadfuzz.engines.account import child_size_max
from loadfuzz.engines.atheris_engine import AtherisEngine
from loadfuzz.engines.lineage import NO_LINEAGE
from loadfuzz.errors import InfraError
from loadfuzz.mutators.dictionary import dictionary_of, libfuzzer_syntax
from loadfuzz.rng import Rng
from loadfuzz.storage import Corpus

_SIGNALS: Final = ("int", "term", "usr1", "usr2")
_TIMEOUT_S: Final = 60
_EDITS_MAX: Final = 8
_EDIT_BYTES_MAX: Final = 8


def run_engine(session: BugSession, request: TrialRequest, finish: Callable[[], None]) -> NoReturn:
    """Our own mutators under Atheris."""

    def end(reason: str) -> NoReturn:
        finish()
        raise SystemExit(reason)  # not reached: finish ends the process

    AtherisEngine(session, Rng(request.seed), end).start(Path(request.out) / "run", ())


def run_bytes(
    session: BugSession, request: TrialRequest, finish: Callable[[], None], *, dictionary: bool
) -> NoReturn:
    """libFuzzer's own mutators."""
    extra: list[str] = []
    if dictionary:
        path = Path(request.out) / f"dictionary-{request.worker}"
        path.write_text(libfuzzer_syntax(dictionary_of(session.target)))
        extra.append(f"-dict={path}")
    _fuzz(session, request, finish, session_feeder(session, finish), extra)


def run_hypothesis(
    session: BugSession, request: TrialRequest, finish: Callable[[], None]
) -> NoReturn:
    """A property as one writes it for a format one knows nothing of: a seed with some
    bytes replaced, cut somewhere."""
    try:
        from hypothesis import HealthCheck, given, settings
        from hypothesis import strategies as st
    except ImportError as error:
        raise InfraError("Hypothesis is not installed; pip install hypothesis") from error
    corpus = Corpus(Path(request.out) / "corpus")
    seeds = [corpus.read(digest) for digest in sorted(corpus.digests())]
    feed = session_feeder(session, finish)
    edits = st.lists(
        st.tuples(st.integers(0, 1 << 16), st.binary(min_size=1, max_size=_EDIT_BYTES_MAX)),
        max_size=_EDITS_MAX,
    )

    @settings(database=None, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.sampled_from(seeds), edits, st.integers(0, 1 << 17))
    def loads(seed: bytes, changes: list[tuple[int, bytes]], length: int) -> None:
        stream = bytearray(seed)
        for offset, data in changes:
            at = offset % (len(stream) + 1)
            stream[at : at + len(data)] = data
        feed(bytes(stream[: length or None]))

    # Hypothesis hangs this on the decorated function and has no type for it.
    fuzz_one_input = loads.hypothesis.fuzz_one_input  # type: ignore[attr-defined]
    _fuzz(session, request, finish, fuzz_one_input, [])


def session_feeder(session: BugSession, finish: Callable[[], None]) -> Callable[[bytes], None]:
    """Runs what it is given; ends the process when the trial ends.

    What was run is judged when the next input is made, by :func:`_fuzz`: libFuzzer would
    take what the oracles do for coverage of the input.
    """

    def feed(data: bytes) -> None:
        session.judge_pending()
        session.execute(data, NO_LINEAGE)
        if session.ended():
            session.judge_pending()
            finish()

    return feed


def _fuzz(
    session: BugSession,
    request: TrialRequest,
    finish: Callable[[], None],
    test_one_input: Callable[[bytes], object],
    extra: list[str],
) -> NoReturn:
    folder = Path(request.out)
    corpus = Corpus(folder / "corpus")
    largest = 0
    for digest in corpus.digests():
        with suppress(OSError):
            largest = max(largest, (corpus.folder / digest).stat().st_size)
    own = folder / f"libfuzzer-{request.worker}"
    own.mkdir(exist_ok=True)
    arguments = [
        "loadfuzz",
        f"-max_len={child_size_max(largest)}",
        f"-seed={request.seed % 0xFFFF_FFFE + 1}",
        f"-timeout={_TIMEOUT_S}",
        f"-artifact_prefix={own}/",
        "-len_control=0",
        "-print_final_stats=0",
        "-verbosity=0",
        *(f"-handle_{name}=0" for name in _SIGNALS),
        *extra,
        str(own),
        str(corpus.folder),
    ]

    def libfuzzer_mutation(data: bytes, size_max: int, seed: int) -> bytes:
        del seed  # libFuzzer's own mutators draw from its own
        session.judge_pending()
        # Atheris has no types for its C functions.
        return bytes(atheris.Mutate(data, size_max))

    atheris.Setup(arguments, test_one_input, custom_mutator=libfuzzer_mutation)
    atheris.Fuzz()
    finish()
    raise SystemExit  # not reached: finish ends the process
