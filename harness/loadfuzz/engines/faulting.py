"""Which executions are done once more while something goes wrong, and what does.

Theory of operation.  A fault tells most about a stream that is loaded as a whole, so
every so manieth accepted input is loaded again under a plan.  The plans are mutants like
the streams: those that made the loader do something new are kept and changed further.
What such a load shows is told apart from what streams show by themselves, for the stream
is not the reason; so it adds nothing to the corpus.
"""

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Final

from loadfuzz.abc import Trial
from loadfuzz.execution import ExitKind
from loadfuzz.executors.documents import Documents
from loadfuzz.faults import drawing
from loadfuzz.faults.drawing import Setting
from loadfuzz.faults.kinds import Layer, PlaceKind
from loadfuzz.faults.plan import FaultPlan
from loadfuzz.feedback.novelty import Novelty
from loadfuzz.inputs import Input
from loadfuzz.rng import Rng

SHARE: Final = 16
"""One execution in so many is done under faults, as far as there are accepted inputs."""
KEPT_MAX: Final = 64
"""Plans that showed something new and are changed further, the latest."""


class Faulting:
    """Decides for one worker.

    Args:
        layers: what can go wrong around the loader; nothing is drawn for an empty set.
        names: of places that have names, by kind.
        documents: trees by stream: sections are aimed at where a tree is known.
        rng: decides everything.
    """

    __slots__ = ("_documents", "_due", "_kept", "_layers", "_names", "_novelty", "_rng")

    def __init__(
        self,
        layers: frozenset[Layer],
        names: Mapping[PlaceKind, Sequence[str]],
        documents: Documents,
        rng: Rng,
    ) -> None:
        self._layers = layers
        self._names = names
        self._documents = documents
        self._rng = rng
        self._due = 0
        self._kept: deque[FaultPlan] = deque(maxlen=KEPT_MAX)
        self._novelty = Novelty()

    def draw(self, trial: Trial, parent: bytes | None) -> Input | None:
        """The input of ``trial`` with a plan, or ``None`` when it is not its turn.

        Args:
            trial: a load without faults.
            parent: the stream that its input was made of, ``None`` for none.
        """
        if not self._layers:
            return None
        self._due += 1
        if self._due < SHARE or trial.execution.kind is not ExitKind.ACCEPTED:
            return None
        self._due = 0
        stream = trial.input.stream
        setting = Setting(self._layers, len(stream), self._sections(stream, parent), self._names)
        if self._kept and self._rng.chance(1, 2):
            plan = drawing.changed(self._rng.choice(self._kept), setting, self._rng)
        else:
            plan = drawing.fresh(setting, self._rng)
        return Input(stream, trial.input.delivery, faults=plan) if plan else None

    def _sections(self, stream: bytes, parent: bytes | None) -> list[int]:
        """Where sections begin, as far as that is known without a parse: a child of the
        same length has them where its parent has."""
        for known in (stream, parent):
            if known is not None and len(known) == len(stream) and known in self._documents:
                return [node.start for node in self._documents.document(known).sections]
        return []

    def learn(self, trial: Trial) -> bool:
        """Take in what a load under faults showed; whether that was new."""
        fresh = self._novelty.observe(trial.execution).new
        if fresh:
            self._kept.append(trial.input.faults)
        return fresh
