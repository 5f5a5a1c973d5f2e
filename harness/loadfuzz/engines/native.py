"""Our own loop: novelty of trace events and verdicts as feedback.

Needs nothing but Python.  With one worker and a budget in executions it is
deterministic: the same seed and the same corpus give the same events.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from loadfuzz.engines.account import Account, child_size_max
from loadfuzz.engines.breeding import Breeder
from loadfuzz.engines.lineage import NO_LINEAGE, Lineage
from loadfuzz.engines.schedule import Schedule
from loadfuzz.errors import InfraError
from loadfuzz.events import MachineryWarning
from loadfuzz.feedback.novelty import Observation
from loadfuzz.mutators.stack import MutationStack
from loadfuzz.rng import Rng
from loadfuzz.storage import Corpus, CorruptEntryError, explain, outsiders_of

SHARE_EXECUTIONS: Final = 2048
"""Executions between two looks for what other workers added: some seconds."""

AVOIDED_MAX: Final = 16
"""Children in a row that are not run because their failure is known; then one is."""


OVERRAN_MAX: Final = 64
"""Streams of the corpus that take too much time or memory and are kept in case that all do."""


class NativeEngine:
    """The loop of one worker.

    Args:
        session: runs and judges.
        rng: decides everything that chance decides.
        operators: factors on operators' weights, where neither the batch nor the target
            (:class:`loadfuzz.abc.ChoosesOperators`) decides.
    """

    def __init__(
        self, session: Account, rng: Rng, operators: Mapping[str, int] | None = None
    ) -> None:
        self._session = session
        self._rng = rng.child("schedule")
        self._breeder = Breeder(
            session.target,
            session.documents,
            MutationStack.of(
                session.target, rng.child("swarm"), operators or session.batch.operators
            ),
            rng.child("mutation"),
            child_size_max(0),
            session.fault,
        )
        self._corpus = Corpus(Path(session.batch.out) / "corpus")
        self._schedule = Schedule(session.novelty)
        self._known: set[str] = set()
        self._overran: list[tuple[bytes, str, Observation]] = []

    def run(self) -> str:
        """Fuzz until the budget is used up; returns why it ended.

        Raises:
            InfraError: the corpus cannot be used, or the target has no working
                loader any more.
        """
        try:
            reason = self._take_in()
            if reason:
                return reason
            if not len(self._schedule):
                # Better than nothing.
                for stream, digest, seen in self._overran:
                    self._schedule.add(stream, digest, seen, ours=False)
            self._breeder.prime(entry.stream for entry in self._schedule.accepted)
            return self._loop()
        except OSError as error:
            raise explain(error, f"using the corpus {self._corpus.folder}") from error

    def _loop(self) -> str:
        session, schedule, breeder = self._session, self._schedule, self._breeder
        if not len(schedule):
            raise InfraError(f"no stream to start from in {self._corpus.folder}; give seeds")
        # With a budget in executions the run has to be the same every time, so what others
        # add at their own pace must not be seen.
        shares = session.batch.executions is None
        avoided = 0
        while True:
            parent = schedule.draw(self._rng).stream
            child, lineage = breeder.child(parent, self._rng.choice(schedule.entries).stream)
            if avoided < AVOIDED_MAX and session.avoids(child, lineage):
                avoided += 1
                continue
            avoided = 0
            session.tally.applied(lineage.mutations)
            self._keep(child, session.run(child, lineage), lineage)
            reason = session.ended()
            if not reason and shares and session.tally.executions % SHARE_EXECUTIONS == 0:
                reason = self._take_in()
            if reason:
                return reason

    def _keep(self, stream: bytes, seen: Observation, lineage: Lineage) -> None:
        """Add what is new, or smaller than what stood for the same behaviour; but nothing is
        bred from what takes too much time or memory, for all of its children would."""
        if seen.overran:
            return
        old = None
        if not seen.new:
            old = self._schedule.smaller(seen.features, len(stream))
            if old is None:
                return
        digest = self._corpus.add(stream)
        if digest is None:
            return
        self._known.add(digest)
        if old is not None:
            # The larger one stays on disk: events have told of it, and others may be reading it.
            old.stream, old.digest = stream, digest
        else:
            self._schedule.add(stream, digest, seen, ours=True)
        self._session.added_entry(digest, len(stream), lineage.operators, seen)

    def _take_in(self) -> str:
        """Run and take in what is in the corpus and was not seen before."""
        session = self._session
        outsiders = outsiders_of(Path(session.batch.out)).read()
        for digest in list(self._corpus.digests()):
            if digest in self._known:
                continue
            self._known.add(digest)
            try:
                stream = self._corpus.read(digest)
            except FileNotFoundError:
                continue  # somebody distils the corpus meanwhile
            except CorruptEntryError as error:
                session.emit(MachineryWarning(str(error)))
                continue
            self._breeder.size_max = max(self._breeder.size_max, child_size_max(len(stream)))
            if outsiders is None or digest in outsiders:
                seen = session.run(stream, NO_LINEAGE)
            else:
                seen = session.observe(stream)
            if not seen.overran:
                self._schedule.add(stream, digest, seen, ours=False)
            elif len(self._overran) < OVERRAN_MAX:
                self._overran.append((stream, digest, seen))
            session.corpus_size += 1
            reason = session.ended()
            if reason:
                return reason
        return ""
