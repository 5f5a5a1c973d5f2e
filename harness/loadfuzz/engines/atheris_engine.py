"""libFuzzer's loop with the coverage of the Python loader as feedback.

Theory of operation.  Atheris never returns from its loop, owns SIGALRM and ends
the process through ``_exit``; so it has a process of its own, and this module
ends that process too.  libFuzzer picks a parent and keeps what gives new
coverage; we make the child, run it, judge it and go on, so that libFuzzer never
sees a failure.  Exactly two functions of ours are called from it:

- ``custom_mutator``: must neither raise nor return more than it may, since
  either hangs Atheris for good; see :mod:`loadfuzz.engines.breeding`.
- ``test_one_input``: whatever it raised would be a crash of the target.

libFuzzer names what it keeps by SHA-1, in a folder of this worker's own; what
appears there is copied to the campaign's corpus, and what other workers add to
the campaign's corpus is copied back, where libFuzzer's ``-reload`` finds it.
"""

import os
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from hashlib import sha1
from pathlib import Path
from typing import Final, NoReturn

import atheris

from loadfuzz.engines.account import child_size_max, worker_folder
from loadfuzz.engines.breeding import Breeder
from loadfuzz.engines.lineage import NO_LINEAGE, Lineage
from loadfuzz.engines.session import Session
from loadfuzz.errors import InfraError, LoadfuzzError
from loadfuzz.mutators.stack import MutationStack
from loadfuzz.rng import Rng
from loadfuzz.storage import Corpus, CorruptEntryError, explain, write_atomic

SYNC_S: Final = 3.0
"""Time between two looks at what other workers added."""

RSS_LIMIT_MB: Final = 2048
"""Resident memory at which libFuzzer ends the process, the last of three guards:
a single huge request fails at the address space limit, see worker.py."""

BACKSTOP_TIMES: Final = 30
"""libFuzzer's own limit for one input, in CPU limits: wall-clock time, for what
our watchdog cannot interrupt (a C function, a sleep)."""

BACKSTOP_S_MIN: Final = 60

DONORS_MAX: Final = 64
"""Streams remembered to take parts from."""

ACCEPTED_MAX: Final = 512
"""Accepted streams remembered as parents."""

ACCEPTED_SHARE: Final = (1, 2)
"""How often a refused parent gives way to an accepted one: what is refused at some
byte hides all behind that byte from its children too, and libFuzzer, which counts
coverage alone, does not know."""

OWN_CORPUS: Final = "libfuzzer"
"""Folder of what libFuzzer keeps, in the worker's folder."""

FIRST_COUNTER: Final = 1
"""What the first reservation of a coverage counter gives; then nothing is instrumented."""


class AtherisEngine:
    """The two functions that libFuzzer calls, and what they keep.

    Args:
        session: runs and judges.
        rng: decides everything that we decide; libFuzzer has its own seed.
        finish: called with the reason when the work is done; ends the process.
    """

    def __init__(self, session: Session, rng: Rng, finish: Callable[[str], NoReturn]) -> None:
        self._session = session
        self._finish = finish
        self._rng = rng.child("donor")
        self._corpus = Corpus(Path(session.batch.out) / "corpus")
        self._own = worker_folder(session.batch) / OWN_CORPUS
        self._own.mkdir(exist_ok=True)
        self._known = set(self._corpus.digests())
        self._donors: list[bytes] = []
        self._accepted: list[bytes] = []
        self._accepted_set: set[bytes] = set()
        largest = 0
        for digest in self._known:
            with suppress(OSError):
                largest = max(largest, (self._corpus.folder / digest).stat().st_size)
        self._size_max = child_size_max(largest)
        self._breeder = Breeder(
            session.target,
            session.documents,
            MutationStack.of(session.target, rng.child("swarm"), session.batch.operators),
            rng.child("mutation"),
            self._size_max,
            session.judge.fault,
        )
        session.corpus_size = len(self._known)
        self._breeder.prime(seed.stream for seed in session.target.seeds())
        self._child: bytes | None = None
        self._lineage = NO_LINEAGE
        self._failure = ""
        self._ran: tuple[bytes, Lineage] | None = None
        self._ran_accepted = False
        self._own_seen = set(os.listdir(self._own))
        self._changed_ns = self._own_changed_ns()
        self._sync_s = time.monotonic()

    def arguments(self, wrapper: Path, extra: Sequence[str]) -> list[str]:
        """libFuzzer's command line.

        Args:
            wrapper: becomes ``argv[0]``.
            extra: further flags, which win.
        """
        batch = self._session.batch
        backstop_s = max(BACKSTOP_S_MIN, int(BACKSTOP_TIMES * batch.load_timeout_s))
        arguments = [
            str(wrapper),
            # One mutation per execution, always of a corpus unit: their trees are cached.
            "-mutate_depth=1",
            f"-max_len={self._size_max}",
            f"-seed={batch.seed % 0xFFFF_FFFE + 1}",
            f"-timeout={backstop_s}",
            f"-rss_limit_mb={RSS_LIMIT_MB}",
            f"-artifact_prefix={worker_folder(batch)}/",
            "-reload=1",
            "-print_final_stats=0",
            "-print_pcs=0",
            "-verbosity=0",
            # Python has to see these itself: to stop cleanly, and to print its own stack.
            *(f"-handle_{name}=0" for name in _OUR_SIGNALS),
        ]
        if batch.seconds is not None:
            # Only should we fail to end it ourselves.
            arguments.append(f"-max_total_time={int(batch.seconds) + backstop_s}")
        return [*arguments, *extra, str(self._own), str(self._corpus.folder)]

    def start(self, wrapper: Path, extra: Sequence[str]) -> NoReturn:
        """Fuzz until the budget is used up; ends the process.

        Raises:
            InfraError: the target's packages are not instrumented.
        """
        if atheris._reserve_counter() <= FIRST_COUNTER:
            raise InfraError(
                f"no code of {', '.join(self._session.target.instrument)} is instrumented, so "
                "there is no coverage to go by; name the loader's top-level package in the "
                "target's `instrument`, and import it nowhere earlier"
            )
        atheris.Setup(
            self.arguments(wrapper, extra),
            self.test_one_input,
            custom_mutator=self.custom_mutator,
        )
        atheris.Fuzz()
        self._finish("libFuzzer ended by itself")

    def custom_mutator(self, data: bytes, size_max: int, seed: int) -> bytes:
        """A child of ``data``, at most ``size_max`` bytes; never raises."""
        del seed  # our own source draws: one generator per child would cost more than the draws
        try:
            # Here and not in test_one_input, where what the oracles do would be coverage.
            self._session.judge_pending()
            self._notice_kept()
            parent, donor = self._parents(data)
            child, lineage = self._breeder.child(parent, donor, size_max)
            self._session.tally.applied(lineage.mutations)
            self._child, self._lineage = child, lineage
            return child
        except LoadfuzzError as error:
            self._failure = str(error)
        except OSError as error:
            self._failure = str(explain(error, f"using the corpus {self._corpus.folder}"))
        except BaseException as error:
            with suppress(BaseException):
                self._session.judge.fault("making a child", error)
        self._child = None
        return data[:size_max]

    def test_one_input(self, data: bytes) -> None:
        """Run and judge ``data``; ends the process when the work is done."""
        session = self._session
        if self._failure:
            self._finish(self._failure)
        lineage = self._lineage if data == self._child else NO_LINEAGE
        reason = ""
        try:
            session.judge_pending()
            seen = session.execute(data, lineage)
            self._ran = (data, lineage)
            if seen.accepted and lineage is NO_LINEAGE:
                self._remember_accepted(data)
            self._ran_accepted = seen.accepted
            reason = session.ended()
            if time.monotonic() - self._sync_s >= SYNC_S:
                self._sync()
        except LoadfuzzError as error:
            reason = str(error)
        except OSError as error:
            reason = str(explain(error, f"using the corpus {self._corpus.folder}"))
        except BaseException as error:
            session.judge.fault("running an input", error)
        if reason:
            try:
                session.judge_pending()
            except Exception as error:
                reason = f"the last input could not be judged: {error}"
            self._finish(reason)

    def _parents(self, data: bytes) -> tuple[bytes, bytes]:
        """The stream to mutate, and one to take parts from."""
        rng, donors = self._rng, self._donors
        if len(donors) < DONORS_MAX:
            donors.append(data)
        elif rng.chance(1, 16):
            donors[rng.below(DONORS_MAX)] = data
        if self._accepted and data not in self._accepted_set and rng.chance(*ACCEPTED_SHARE):
            return rng.choice(self._accepted), data
        return data, rng.choice(donors)

    def _remember_accepted(self, stream: bytes) -> None:
        if stream in self._accepted_set:
            return
        self._accepted_set.add(stream)
        if len(self._accepted) < ACCEPTED_MAX:
            self._accepted.append(stream)
        else:
            at = self._rng.below(ACCEPTED_MAX)
            self._accepted_set.discard(self._accepted[at])
            self._accepted[at] = stream

    # -- the two corpora ------------------------------------------------------------------

    def _own_changed_ns(self) -> int:
        return os.stat(self._own).st_mtime_ns

    def _notice_kept(self) -> None:
        """Copy the input that was run last to the campaign's corpus if libFuzzer
        has just kept one: it writes to its folder right after the run."""
        changed_ns = self._own_changed_ns()
        if changed_ns == self._changed_ns:
            return
        self._changed_ns = changed_ns
        if self._ran is not None:
            stream, lineage = self._ran
            name = sha1(stream, usedforsecurity=False).hexdigest()
            if name not in self._own_seen and (self._own / name).exists():
                self._own_seen.add(name)
                self._add(stream, lineage)
                if self._ran_accepted:
                    self._remember_accepted(stream)

    def _add(self, stream: bytes, lineage: Lineage) -> None:
        digest = self._corpus.add(stream)
        if digest is not None:
            self._known.add(digest)
            self._session.added_entry(digest, len(stream), lineage.operators)

    def _sync(self) -> None:
        self._sync_s = time.monotonic()
        for digest in list(self._corpus.digests()):
            if digest in self._known:
                continue
            self._known.add(digest)
            try:
                stream = self._corpus.read(digest)
            except (OSError, CorruptEntryError) as error:
                self._session.judge.fault(f"reading corpus entry {digest}", error)
                continue
            write_atomic(self._own / digest, stream, durable=False)
            self._own_seen.add(digest)
            self._session.corpus_size += 1
        # Two files within one tick of the file system's clock look like one.
        for name in sorted(set(os.listdir(self._own)) - self._own_seen):
            self._own_seen.add(name)
            with suppress(FileNotFoundError):
                self._add((self._own / name).read_bytes(), NO_LINEAGE)
        self._changed_ns = self._own_changed_ns()


_OUR_SIGNALS: Final = (
    "abrt", "bus", "fpe", "ill", "int", "segv", "term", "usr1", "usr2", "xfsz",
)  # fmt: skip
