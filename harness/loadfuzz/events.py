"""The one typed event stream of a campaign.

Workers emit events as lines of JSON; the supervisor passes them on to
reporters and into ``events.ndjson``.  Everything a person or a script sees is
derived from these.
"""

from typing import TypeAlias

import msgspec


class _Event(msgspec.Struct, frozen=True, tag_field="event"):
    """Root: ``event`` names the kind."""


class CampaignStarted(_Event, frozen=True, tag="campaign-started"):
    """Before the first worker."""

    target: str
    engine: str
    seed: int
    workers: int
    out: str
    seeds: int
    time_s: float | None
    executions: int | None


class SeedSetAside(_Event, frozen=True, tag="seed-set-aside"):
    """A seed that cannot be used; the run goes on without it."""

    name: str
    reason: str


class SeedRefused(_Event, frozen=True, tag="seed-refused"):
    """A seed that the target does not accept; it is fuzzed all the same."""

    name: str
    reason: str


class MachineryWarning(_Event, frozen=True, tag="machinery-warning"):
    """Something of ours or around us is not as it should be; the run goes on."""

    text: str


class WorkerStarted(_Event, frozen=True, tag="worker-started"):
    """A worker process runs."""

    worker: int
    pid: int


class Progress(_Event, frozen=True, tag="progress"):
    """Totals of one worker since it began; emitted about twice a second.

    Attributes:
        depths: executions by :class:`~loadfuzz.execution.Depth`, as deep as
            they came.
        kinds: executions by :class:`~loadfuzz.execution.ExitKind`.
        operators: mutations by operator: (applied, of those new behaviour).
        judged: times each oracle was asked.
        loads: loads by how long they took, see :mod:`loadfuzz.engines.times`.
    """

    worker: int
    executions: int
    corpus: int
    depths: dict[str, int]
    kinds: dict[str, int]
    operators: dict[str, tuple[int, int]]
    judged: dict[str, int]
    loads: dict[int, int] = {}


class CorpusAdded(_Event, frozen=True, tag="corpus-added"):
    """An input that showed something new was kept.

    Attributes:
        features: what was new, as names that are the same in every process.
        behaviour: name of all that it showed together.
    """

    worker: int
    digest: str
    size: int
    executions: int
    operators: tuple[str, ...]
    features: tuple[str, ...] = ()
    behaviour: str = ""


class FindingAnnounced(_Event, frozen=True, tag="finding"):
    """A finding is complete on disk.

    Attributes:
        path: of the field, section or source line.
        folder: of the finding, relative to the campaign's folder.
    """

    worker: int
    signature: str
    oracle: str
    title: str
    path: str
    folder: str
    executions: int
    reliability: tuple[int, int]


class FindingRepeated(_Event, frozen=True, tag="finding-repeated"):
    """A finding that this worker had already announced was seen again."""

    worker: int
    signature: str
    times: int


class WorkerEnded(_Event, frozen=True, tag="worker-ended"):
    """A worker process is gone.

    Attributes:
        reason: ``budget``, ``stopped``, or what went wrong.
        restarted: another one takes its place.
    """

    worker: int
    executions: int
    reason: str
    restarted: bool


class CampaignEnded(_Event, frozen=True, tag="campaign-ended"):
    """The last event."""

    executions: int
    seconds: float
    corpus: int
    findings: int
    reason: str


Event: TypeAlias = (
    CampaignStarted
    | SeedSetAside
    | SeedRefused
    | MachineryWarning
    | WorkerStarted
    | Progress
    | CorpusAdded
    | FindingAnnounced
    | FindingRepeated
    | WorkerEnded
    | CampaignEnded
)

_decoder: msgspec.json.Decoder[Event] = msgspec.json.Decoder(Event)


def encode(event: Event) -> bytes:
    """One line of JSON, with its newline."""
    return msgspec.json.encode(event) + b"\n"


def decode(line: bytes) -> Event:
    """The event on a line.

    Raises:
        msgspec.ValidationError: the line is JSON but no event.
        msgspec.DecodeError: the line is no JSON.
    """
    return _decoder.decode(line)
