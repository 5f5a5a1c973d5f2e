"""A batch that travels: all that a machine needs that does not see the campaign's folder,
and what it sends back.

While a parcel is worked on it sends messages: findings as soon as they are complete, so
that none is lost with the machine, and its numbers every now and then.  What it kept for
the corpus comes with the last message, as a message for each stream.
"""

from dataclasses import dataclass
from typing import Final, TypeAlias

import msgspec

from loadfuzz import events
from loadfuzz.campaign.batch import Engine
from loadfuzz.campaign.settings import Settings
from loadfuzz.inputs import digest_of

PROGRESS_S: Final = 2.0
"""Time between two reports of numbers: a thousand workers then send 500 a second."""
MESSAGE_SIZE_MAX: Final = 1 << 26
"""Longest message in bytes, with files as base64: most findings have three streams of 2 MiB at
most, and a sequence of more is one of a smaller machine's."""
FILES_SIZE_MAX: Final = MESSAGE_SIZE_MAX // 4 * 3 - (1 << 16)
"""Bytes of a finding's files that fit into one, with their names."""


@dataclass(frozen=True, slots=True)
class Parcel:
    """What is to be done.

    Attributes:
        number: of this parcel in its campaign, from 0.
        settings: of a campaign of one worker that does it; the target without the stream that
            it was fitted to.
        engine: what drives it.
        machine: the stream that the target was fitted to, empty when it was not.
        streams: to start from.
        outsiders: digests of those that were not judged yet.
        seeds: digests of those that are seeds (:func:`loadfuzz.storage.seeds_of`); none where
            the target's worker does not ask.
    """

    number: int
    settings: Settings
    engine: Engine
    machine: bytes
    streams: tuple[bytes, ...]
    outsiders: tuple[str, ...]
    seeds: tuple[str, ...] = ()


class _Message(msgspec.Struct, frozen=True, tag_field="message"):
    """Root of what is sent back."""


class Told(_Message, frozen=True, tag="told"):
    """An event of the worker there."""

    event: events.Progress | events.MachineryWarning | events.FindingRepeated


class Found(_Message, frozen=True, tag="found"):
    """A finding: the files of its folder, by name."""

    files: dict[str, bytes]


class Kept(_Message, frozen=True, tag="kept"):
    """A stream that showed something new there.

    Attributes:
        stream: its bytes.
        operators: that made it.
        features, behaviour: what it showed there, as in
            :class:`~loadfuzz.events.CorpusAdded`.
    """

    stream: bytes
    operators: tuple[str, ...]
    features: tuple[str, ...]
    behaviour: str

    @property
    def digest(self) -> str:
        """Its content address."""
        return digest_of(self.stream)


class Finished(_Message, frozen=True, tag="finished"):
    """The last message.

    Attributes:
        judged: all streams of the parcel were run, and those from outside judged.
        problem: why it ended before its time, "" when it did not.
    """

    judged: bool
    problem: str


Message: TypeAlias = Told | Found | Kept | Finished

_decoder: msgspec.json.Decoder[Message] = msgspec.json.Decoder(Message)


def encode_message(message: Message) -> bytes:
    """One line of JSON, with its newline."""
    return msgspec.json.encode(message) + b"\n"


def decode_message(line: bytes) -> Message:
    """The message on a line.

    Raises:
        msgspec.DecodeError: it is none.
    """
    return _decoder.decode(line)
