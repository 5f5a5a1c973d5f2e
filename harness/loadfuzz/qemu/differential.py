"""The same stream for the reference and for a stock QEMU: where do they disagree, and why?

The reference is strict on purpose, and QEMU's devices know more than a stream says of them.
Such differences are known by name, in ``differences.toml``; what no entry explains is a
mistake of one of the two, and is shown with the words of both.
"""

import re
import tomllib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from importlib.resources import files
from textwrap import wrap
from typing import Final, TypeAlias

from loadfuzz.abc import Executor, Target
from loadfuzz.errors import InfraError
from loadfuzz.execution import Depth, Escape, Execution, ExitKind, Refusal
from loadfuzz.inputs import WHOLE, digest_of
from savevm import LoadError
from savevm.constants import QEMU_VM_SECTION_FOOTER

STREAMS_MAX: Final = 100_000
"""Streams of one comparison: an hour of fresh QEMUs, and the results of all are kept."""
WORDS_MAX: Final = 160
"""Characters of a loader's words in a row of the summary."""
WIDTH: Final = 79
"""Columns of a summary's explanations."""
SKIPPED_MAX: Final = 16
"""Streams in a row that may be skipped: one of a machine that is short of something for a while;
more mean that it stays so."""
ROWS_MAX: Final = 200
"""Unexplained differences in a summary; who has more looks at these first."""

_FILE: Final = "differences.toml"
_KEYS: Final = frozenset({"name", "reason", "ours", "theirs", "ours_text", "theirs_text"})
_NAMELESS: Final = re.compile(r"^section 0x")
"""How the reference names a section that has no name; QEMU says none."""
_MISSING_FOOTER: Final = re.compile(r"Missing section footer for (.*?)(?:$| - )")
_SECTION_ID_SIZE: Final = 4
_INDEX: Final = re.compile(r"\[\d+\]")

Reference: TypeAlias = Callable[[bytes], Execution]
"""Loads a stream into a machine that is as new, and says what came of it."""


class Agreement(StrEnum):
    """How two verdicts compare."""

    BOTH_ACCEPT = "both accept"
    BOTH_REFUSE = "both refuse at the same place"
    ELSEWHERE = "both refuse, at different places"
    DIFFER = "different verdicts"

    @property
    def agrees(self) -> bool:
        """Whether there is nothing to explain."""
        return self in (Agreement.BOTH_ACCEPT, Agreement.BOTH_REFUSE)


@dataclass(frozen=True, slots=True)
class Explanation:
    """A known difference.

    Attributes:
        name: of the entry; that of a switch of :mod:`savevm.profile` where there is one.
        reason: one line.
    """

    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class Comparison:
    """One stream at both loaders.

    Attributes:
        digest: content address of the stream.
        ours: what the reference made of it.
        theirs: what QEMU made of it.
        agreement: how these compare.
        explanation: where they do not agree, if it is known why.
    """

    digest: str
    ours: Execution
    theirs: Execution
    agreement: Agreement
    explanation: Explanation | None = None

    @property
    def unexplained(self) -> bool:
        """Whether they differ and nobody knows why."""
        return not self.agreement.agrees and self.explanation is None


@dataclass(frozen=True, slots=True)
class _Difference:
    explanation: Explanation
    ours: frozenset[ExitKind]
    theirs: frozenset[ExitKind]
    ours_text: re.Pattern[str]
    theirs_text: re.Pattern[str]

    def fits(self, ours: Execution, theirs: Execution) -> bool:
        return (
            ours.kind in self.ours
            and theirs.kind in self.theirs
            and self.ours_text.search(words_of(ours)) is not None
            and self.theirs_text.search(words_of(theirs)) is not None
        )


def reference_of(target: Target) -> Reference:
    """The loader of a target, for :func:`compare`; each stream finds it as it was opened."""
    subject = target.open()

    def load(stream: bytes) -> Execution:
        try:
            subject.load(stream, WHOLE, None)
        except LoadError as error:
            return Execution(ExitKind.REJECTED, Depth.NOTHING, refusal=Refusal.of(error))
        except Exception as error:
            escape = Escape(type(error).__name__, str(error), ())
            return Execution(ExitKind.CRASHED, Depth.NOTHING, escape=escape)
        finally:
            subject.reset()
        return Execution(ExitKind.ACCEPTED, Depth.ACCEPTED)

    return load


async def compare(
    reference: Reference,
    executor: Executor,
    streams: Iterable[bytes],
    *,
    told: Callable[[Comparison], None] | None = None,
    skipped: Callable[[bytes, InfraError], None] | None = None,
) -> list[Comparison]:
    """Give each stream to both loaders.

    A stream about which QEMU's surroundings let nothing be said is given to it once more, and
    then skipped.  Cancellation leaves what was told; the executor needs to be renewed.

    Args:
        reference: see :func:`reference_of`; its machine has to be QEMU's.
        executor: a QEMU whose every load finds a fresh machine
            (:func:`loadfuzz.qemu.incoming_pool.incoming_executor`).
        streams: at most :data:`STREAMS_MAX`.
        told: called with each comparison as it is made.
        skipped: called with each stream that is skipped, and why.

    Raises:
        InfraError: no QEMU can be had any more, more than :data:`SKIPPED_MAX` streams in a row
            would be skipped, or there are more streams.
        UsageError: QEMU cannot be started any more.
    """
    made: list[Comparison] = []
    missed = 0
    for number, stream in enumerate(streams):
        if number >= STREAMS_MAX:
            raise InfraError(f"more than {STREAMS_MAX:,} streams; compare them in several runs")
        try:
            theirs = await _execute_again(executor, stream)
        except InfraError as error:
            missed += 1
            if missed > SKIPPED_MAX:
                raise
            if skipped is not None:
                skipped(stream, error)
            await executor.renew()
            continue
        missed = 0
        if theirs.kind.ends_process:
            await executor.renew()
        ours = reference(stream)
        agreement = agreement_of(ours, theirs)
        explanation = None if agreement.agrees else explain(ours, theirs, stream)
        made.append(Comparison(digest_of(stream), ours, theirs, agreement, explanation))
        if told is not None:
            told(made[-1])
    return made


async def _execute_again(executor: Executor, stream: bytes) -> Execution:
    """Load a stream; once more where nothing can be said the first time."""
    try:
        return await executor.execute(stream)
    except InfraError:
        await executor.renew()
        return await executor.execute(stream)


def agreement_of(ours: Execution, theirs: Execution) -> Agreement:
    """How two verdicts compare; a place counts where both name one."""
    if ours.kind is theirs.kind is ExitKind.ACCEPTED:
        return Agreement.BOTH_ACCEPT
    if ours.kind is theirs.kind is ExitKind.REJECTED:
        same = _same_place(_path_of(ours), _path_of(theirs))
        return Agreement.BOTH_REFUSE if same else Agreement.ELSEWHERE
    return Agreement.DIFFER


def explain(ours: Execution, theirs: Execution, stream: bytes = b"") -> Explanation | None:
    """The known difference that two verdicts which do not agree are an example of.

    Args:
        ours: of the reference.
        theirs: of QEMU.
        stream: that both were given, b"" if it is not there to be looked into.
    """
    if stream and ours.kind is ExitKind.ACCEPTED and _lacks_footer(stream, words_of(theirs)):
        return None  # nothing excuses a reference that has not missed it
    for difference in _table():
        if difference.fits(ours, theirs):
            return difference.explanation
    return None


def _lacks_footer(stream: bytes, words: str) -> bool:
    """Whether a footer that QEMU misses is nowhere behind the head of its section: the mark, and
    the section's id (``save_section_footer`` in migration/savevm.c)."""
    missed = _MISSING_FOOTER.search(words)
    if missed is None:
        return False
    name = missed[1].encode("utf-8", "surrogateescape")
    at = stream.find(bytes([len(name)]) + name, _SECTION_ID_SIZE) if len(name) < 256 else -1
    if at < 0:
        return False  # QEMU shows names that are no text otherwise than they are
    footer = bytes([QEMU_VM_SECTION_FOOTER]) + stream[at - _SECTION_ID_SIZE : at]
    return stream.find(footer, at + len(name)) < 0


def known_differences() -> tuple[Explanation, ...]:
    """All that :func:`explain` may answer, in the order in which it looks."""
    return tuple(dict.fromkeys(difference.explanation for difference in _table()))


def words_of(execution: Execution) -> str:
    """What a loader had to say; "" if it accepted without a word."""
    if execution.refusal is not None:
        return execution.refusal.text
    if execution.escape is not None:
        return f"{execution.escape.type_name}: {execution.escape.message}"
    return ""


def summary(comparisons: Sequence[Comparison], skipped: int = 0) -> list[str]:
    """Rows for a report: how often they agree, what explains how many of the differences,
    and each that nothing explains, with the words of both.

    Args:
        comparisons: those that were made.
        skipped: streams about which nothing could be said.
    """
    counts = Counter(comparison.agreement for comparison in comparisons)
    rows = [f"{len(comparisons):6d} streams"]
    rows += [f"{skipped:6d} skipped"] if skipped else []
    rows += [f"{counts[agreement]:6d} {agreement}" for agreement in Agreement]
    reasons = Counter(made.explanation for made in comparisons if made.explanation is not None)
    for explanation, count in reasons.most_common():
        text = f"{count:6d} explained by {explanation.name}: {explanation.reason}"
        rows += wrap(text, WIDTH, subsequent_indent=" " * 9)
    unexplained = [comparison for comparison in comparisons if comparison.unexplained]
    rows.append(f"{len(unexplained):6d} unexplained")
    for made in unexplained[:ROWS_MAX]:
        rows.append(f"       {made.digest[:12]} {made.agreement}")
        rows.append(f"         reference: {_row(made.ours)}")
        rows.append(f"         loader:    {_row(made.theirs)}")
    if len(unexplained) > ROWS_MAX:
        rows.append(f"       and {len(unexplained) - ROWS_MAX} more")
    return rows


def _row(execution: Execution) -> str:
    words = words_of(execution).encode("unicode_escape").decode()
    return f"{execution.kind} {words}".rstrip()[:WORDS_MAX]


def _path_of(execution: Execution) -> tuple[str, ...]:
    return () if execution.refusal is None else execution.refusal.path


def _same_place(ours: tuple[str, ...], theirs: tuple[str, ...]) -> bool:
    """Whether two ways to a place can be the same: of each only a part may be known."""
    if not ours or not theirs or _NAMELESS.match(ours[0]):
        return True
    if _shown(ours[0]) != _shown(theirs[0]):
        return False
    if len(ours) == 1 or len(theirs) == 1:
        return True
    # QEMU does not name structs in between in every release, nor elements.
    return _field(ours[-1]) in map(_field, theirs) or _field(theirs[-1]) in map(_field, ours)


def _shown(idstr: str) -> str:
    """An idstr as far as it survives a terminal."""
    return "".join(character for character in idstr if " " <= character <= "~")


def _field(name: str) -> str:
    name = _INDEX.sub("", name)
    return "version_id" if name == "version" else name


@cache
def _table() -> tuple[_Difference, ...]:
    text = files("loadfuzz.qemu").joinpath(_FILE).read_text("utf-8")
    entries = tomllib.loads(text)["difference"]
    return tuple(_difference(entry) for entry in entries)


def _difference(entry: Mapping[str, object]) -> _Difference:
    """An entry of the table.

    Raises:
        InfraError: it is none; our own file is broken.
    """

    def text(key: str, default: str | None = None) -> str:
        value = entry.get(key, default)
        if not isinstance(value, str):
            raise InfraError(f"{_FILE}: {key} of {entry.get('name')!r} is no text")
        return value

    def kinds(key: str) -> frozenset[ExitKind]:
        value = entry.get(key)
        if not isinstance(value, list) or not value:
            raise InfraError(f"{_FILE}: {key} of {entry.get('name')!r} is no list of verdicts")
        return frozenset(ExitKind(kind) for kind in value)

    if unknown := entry.keys() - _KEYS:
        raise InfraError(f"{_FILE}: unknown keys {', '.join(sorted(unknown))}")
    return _Difference(
        Explanation(text("name"), text("reason")),
        kinds("ours"), kinds("theirs"),
        re.compile(text("ours_text", "")), re.compile(text("theirs_text", "")),
    )  # fmt: skip
