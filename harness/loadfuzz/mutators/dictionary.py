"""Words of the format, for whoever mutates bytes: generated, not written down.

They come from the trees of the target's seeds: every name with its length byte, every
subsection as it begins, the words that open RAM items, and the numbers that fields of
each width hold.
"""

from collections.abc import Iterable
from typing import Final

from loadfuzz.abc import Mutable, Target
from loadfuzz.mutation import Mutation, Splice
from loadfuzz.mutators.operator import Operator, replace_span, shown
from loadfuzz.places import Places
from loadfuzz.rng import Rng
from savevm.constants import QEMU_VM_SUBSECTION
from savevm.document import Role

WORDS_MAX: Final = 2000
"""Words of one dictionary; libFuzzer slows down with more."""
WORD_SIZE_MAX: Final = 64
"""Bytes of one word: libFuzzer takes no longer ones."""


def dictionary_of(target: Target) -> tuple[bytes, ...]:
    """Words of the streams of a target, each once, in the order of its seeds."""
    words: dict[bytes, None] = {}
    for seed in target.seeds():
        for word in words_of(Places(target.parse(seed.stream)), seed.stream):
            if 0 < len(word) <= WORD_SIZE_MAX and len(words) < WORDS_MAX:
                words.setdefault(word)
    return tuple(words)


def words_of(places: Places, stream: bytes) -> Iterable[bytes]:
    """Words of one stream."""
    yield from places.tokens
    for leaf in places.of(Role.SUBSECTION_NAME):
        yield bytes((QEMU_VM_SUBSECTION,)) + stream[leaf.start : leaf.end]
    for role in (Role.MAGIC, Role.VERSION, Role.RAM_HEADER, Role.VERSION_ID, Role.FOOTER_MARK):
        for leaf in places.of(role):
            yield stream[leaf.start : leaf.end]
    for section in places.sections:
        yield stream[section.start : section.header_end][:WORD_SIZE_MAX]
    for leaf in places.integers:
        if not leaf.element_size:
            yield stream[leaf.start : leaf.end]


def libfuzzer_syntax(words: Iterable[bytes]) -> str:
    r"""Words as libFuzzer's ``-dict`` and AFL's ``-x`` read them.

    >>> libfuzzer_syntax([b"\x03ram"])
    '"\\x03\\x72\\x61\\x6d"\n'
    """
    return "".join('"' + "".join(f"\\x{byte:02x}" for byte in word) + '"\n' for word in words)


def word(subject: Mutable, rng: Rng) -> Mutation | None:
    """A name that occurs in the stream, somewhere else."""
    tokens = subject.places.tokens
    if not tokens or not subject.stream:
        return None
    token = rng.choice(tokens)
    at = rng.below(len(subject.stream))
    if rng.chance(1, 2):
        return replace_span("raw-word", "", subject, at, at + len(token), token)
    if len(subject.stream) + len(token) > subject.size_max:
        return None
    return Mutation("raw-word", "", (Splice(at, at, token),), "", f"{shown(token)} at {at:#x}")


OPERATORS: Final = (Operator("raw-word", 4, word),)
