"""Adds up the events of a campaign: where every number on a screen comes from."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from loadfuzz import events
from loadfuzz.engines.times import CLASS_MAX, percentile
from loadfuzz.events import Event
from loadfuzz.execution import Depth


@dataclass(slots=True)
class _Worker:
    """One worker's numbers; a worker that was restarted counts on from where it was."""

    running: bool = False
    restarts: int = 0
    before: Counter[str] = field(default_factory=Counter)
    now: Counter[str] = field(default_factory=Counter)

    def fold(self) -> None:
        self.before += self.now
        self.now = Counter()


@dataclass(frozen=True, slots=True)
class OperatorTotals:
    """What one mutation operator has done: times applied, of those with new behaviour."""

    name: str
    applied: int
    fresh: int


class Totals:
    """The state of a campaign as its events tell it.

    Attributes:
        started: the first event, when there was one.
        ended: the last event, when there was one.
        set_aside: seeds that cannot be used.
        refused: seeds that the target does not accept.
        warnings: what went wrong around us.
        findings: by signature, in order of their announcement.
        known: signatures of findings from before this run.

    Args:
        ignore: signatures that are counted and are no findings.
    """

    def __init__(self, ignore: Iterable[str] = ()) -> None:
        self._ignore = frozenset(ignore)
        self.started: events.CampaignStarted | None = None
        self.ended: events.CampaignEnded | None = None
        self.set_aside: list[events.SeedSetAside] = []
        self.refused: list[events.SeedRefused] = []
        self.warnings: list[str] = []
        self.findings: dict[str, events.FindingAnnounced] = {}
        self.known: set[str] = set()
        self._seen: dict[tuple[int, str], int] = {}
        self._seen_before: Counter[str] = Counter()
        self._corpus: set[str] = set()
        self._corpus_start = 0
        self._workers: dict[int, _Worker] = {}

    def know(self, finding: events.FindingAnnounced) -> None:
        """Count a finding of an earlier run of this campaign."""
        self.discover(finding)
        if finding.signature in self.findings:
            self.known.add(finding.signature)

    def discover(self, finding: events.FindingAnnounced) -> None:
        """Count a finding that is in the folder, if it is none of those to be ignored."""
        if finding.signature not in self._ignore:
            self.findings.setdefault(finding.signature, finding)

    def add(self, event: Event) -> None:
        """Count one event."""
        match event:
            case events.CampaignStarted():
                self.started = event
                self._corpus_start = event.seeds
            case events.SeedSetAside():
                self.set_aside.append(event)
            case events.SeedRefused():
                self.refused.append(event)
            case events.MachineryWarning():
                self.warnings.append(event.text)
            case events.WorkerStarted():
                worker = self._worker(event.worker)
                worker.fold()
                self._fold_seen(event.worker)
                worker.running = True
            case events.Progress():
                self._worker(event.worker).now = _flatten(event)
            case events.CorpusAdded():
                self._corpus.add(event.digest)
            case events.FindingAnnounced():
                self.findings.setdefault(event.signature, event)
                self._seen[event.worker, event.signature] = 1
            case events.FindingRepeated():
                self._seen[event.worker, event.signature] = event.times
            case events.WorkerEnded():
                worker = self._worker(event.worker)
                worker.running = False
                worker.restarts += event.restarted
                worker.now["executions"] = max(worker.now["executions"], event.executions)
            case events.CampaignEnded():
                self.ended = event

    @property
    def executions(self) -> int:
        """Inputs that were run."""
        return self._sum("executions")

    @property
    def corpus(self) -> int:
        """Streams in the corpus: the seeds and what was added."""
        return self._corpus_start + len(self._corpus)

    @property
    def taking_in(self) -> bool:
        """Whether a worker that runs may still be at the streams that it began with."""
        return any(
            worker.running
            and not worker.before["executions"]
            and worker.now["executions"] <= self._corpus_start
            for worker in self._workers.values()
        )

    @property
    def workers_running(self) -> int:
        """Worker processes that run."""
        return sum(worker.running for worker in self._workers.values())

    @property
    def restarts(self) -> int:
        """Times a worker was replaced."""
        return sum(worker.restarts for worker in self._workers.values())

    def executions_of(self, worker: int) -> int:
        """Inputs that one worker ran, over all its restarts."""
        found = self._workers.get(worker)
        return found.before["executions"] + found.now["executions"] if found else 0

    def lives(self) -> dict[int, int]:
        """Inputs that each worker's present process has told of, by worker."""
        return {index: worker.now["executions"] for index, worker in self._workers.items()}

    def reached(self, depth: Depth) -> int:
        """Executions that came at least as deep as ``depth``."""
        return sum(self._sum(f"depth/{deep.name}") for deep in Depth if deep >= depth)

    def kind(self, name: str) -> int:
        """Executions that ended with this exit kind."""
        return self._sum(f"kind/{name}")

    def operators(self) -> list[OperatorTotals]:
        """All operators, those that showed most new behaviour first."""
        names = self._names("applied/")
        rows = [
            OperatorTotals(name, self._sum(f"applied/{name}"), self._sum(f"fresh/{name}"))
            for name in names
        ]
        return sorted(rows, key=lambda row: (-row.fresh, -row.applied, row.name))

    def judged(self) -> dict[str, int]:
        """Times each oracle was asked."""
        return {name: self._sum(f"judged/{name}") for name in self._names("judged/")}

    def progress(self) -> events.Progress:
        """All of this as the numbers of one worker, over all its restarts."""

        def under(prefix: str) -> dict[str, int]:
            return {name: self._sum(f"{prefix}{name}") for name in self._names(prefix)}

        return events.Progress(
            worker=0,
            executions=self.executions,
            corpus=self.corpus,
            depths={name.lower(): count for name, count in under("depth/").items()},
            kinds=under("kind/"),
            operators={row.name: (row.applied, row.fresh) for row in self.operators()},
            judged=under("judged/"),
            loads=self._loads(),
        )

    def load_s(self, share: float) -> float | None:
        """CPU seconds within which this share of all loads ended, about; ``None`` at first."""
        return percentile(self._loads(), share)

    @property
    def flaky(self) -> int:
        """Findings that did not happen again in each re-run."""
        return sum(done < tries for done, tries in (f.reliability for f in self.findings.values()))

    def _loads(self) -> dict[int, int]:
        return {int(name): self._sum(f"load/{name}") for name in self._names("load/")}

    def times_seen(self, signature: str) -> int:
        """How often a finding was seen in this run, about: workers tell at 2, 4, 8..."""
        now = sum(times for (_, seen), times in self._seen.items() if seen == signature)
        return self._seen_before[signature] + now

    def ignored(self) -> dict[str, int]:
        """Signatures that were seen and are to be ignored, with about how often."""
        seen = {*self._seen_before, *(signature for _, signature in self._seen)}
        signatures = sorted(seen & self._ignore)
        return {signature: self.times_seen(signature) for signature in signatures}

    def _fold_seen(self, worker: int) -> None:
        """A worker's next process counts from 1 again."""
        for index, signature in [key for key in self._seen if key[0] == worker]:
            self._seen_before[signature] += self._seen.pop((index, signature))

    def _worker(self, index: int) -> _Worker:
        return self._workers.setdefault(index, _Worker())

    def _sum(self, key: str) -> int:
        return sum(worker.before[key] + worker.now[key] for worker in self._workers.values())

    def _names(self, prefix: str) -> list[str]:
        keys = {key for w in self._workers.values() for key in (*w.before, *w.now)}
        return sorted(key.removeprefix(prefix) for key in keys if key.startswith(prefix))


def _flatten(event: events.Progress) -> Counter[str]:
    flat = Counter({"executions": event.executions})
    for name, count in event.depths.items():
        flat[f"depth/{name.upper().replace('-', '_')}"] += count
    for name, count in event.kinds.items():
        flat[f"kind/{name}"] += count
    for name, (applied, fresh) in event.operators.items():
        flat[f"applied/{name}"] += applied
        flat[f"fresh/{name}"] += fresh
    for name, count in event.judged.items():
        flat[f"judged/{name}"] += count
    for number, count in event.loads.items():
        flat[f"load/{min(max(number, 0), CLASS_MAX)}"] += max(count, 0)
    return flat
