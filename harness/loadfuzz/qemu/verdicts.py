"""What QEMU's words mean: the reply to ``loadvm``, and what it printed when it died.

Messages of QEMU 7.2 to 11 (migration/savevm.c, migration/vmstate.c, migration/ram.c); the
reply's last line is by ``hmp_handle_error`` (monitor/hmp.c) and begins with "Error"; later
releases say more in it and print fewer lines before.  A
message of another release that is not known here still makes a verdict: a refusal without a
place, or a crash without a frame.
"""

import re
import signal
from dataclasses import dataclass
from errno import EINVAL
from os.path import basename
from typing import Final

from loadfuzz.errors import InfraError
from loadfuzz.execution import Depth, Escape, ExitKind, Refusal
from loadfuzz.qemu.process import Ending
from loadfuzz.wording import without_values

TEXT_MAX: Final = 600
"""Characters kept of a reason: names in it come from the stream and have up to 255 bytes."""
LINES_MAX: Final = 64
"""Lines of a reply that are looked at, from its end: each level of a description adds one."""
PATH_MAX: Final = 16
"""Places kept of the way to a field; descriptions are nested a dozen levels at most."""
_SHOWN_MAX: Final = 4
"""Lines that are kept of what an accepted load printed."""

_ERROR: Final = re.compile(r"^Error\b", re.MULTILINE)
_ERRNO: Final = re.compile(r"\b(?:Error|ret:) -(\d{1,5})\b")
_FIELD: Final = re.compile(
    r"Failed to load (?:(?P<owner>[^\s:]+):|element of type [^:]{1,64}? for )(?P<field>[^\s:,]+)"
)
_PLACES: Final = (
    (re.compile(r"loading state for instance 0x[0-9a-f]+ of device '([^']*)'"), ()),
    (re.compile(r"loading state section id \d+ ?\((.*)\)"), ()),
    (re.compile(r"Missing section footer for (.*?)(?:$| - )"), ("footer",)),
    (re.compile(r"section id in footer for (.*?)(?:$| - )"), ("footer",)),
    (re.compile(r"unsupported version -?\d+ for '(.*)' v"), ("version_id",)),
    (re.compile(r"Unknown (?:savevm )?section or instance '(.*)' \d+"), ()),
)  # fmt: skip
"""Messages that name a section, and what of it they are about."""
_PARTS: Final = (
    (re.compile(r"Not a migration stream|[Uu]nsupported migration stream|v2 format is obsolete"),
     ("header",), Depth.NOTHING),
    (re.compile(r"^Machine type received|[Cc]onfiguration section|configuration:|"
                r"hook failed for: configuration,|target-page-bits|capabilit", re.MULTILINE),
     ("configuration",), Depth.HEADER),
    (re.compile(r"MIG_CMD|QEMU_VM_COMMAND|loadvm_(?:postcopy|handle)|packaged|"
                r"[A-Z] received with bad length", re.IGNORECASE),
     ("command",), Depth.FIRST_SECTION),
    (re.compile(r"vmdesc", re.IGNORECASE), ("vmdesc",), Depth.ALL_SECTIONS),
)  # fmt: skip
"""Messages about parts of a stream that are no section."""
_GENERAL: Final = re.compile(r"^(Error\b|error while loading state|Failed to load [^\s:]+:\S+$)")
"""Lines that say where, not why."""
_WHERE: Final = re.compile(
    r"Error: |Error -?\d+ while loading VM state: |"
    r"error while loading state for instance 0x[0-9a-f]+ of device '[^']*': |"
    r"error while loading state section id \d+ ?\(.*?\): |Failed to load [^\s:]+:[^\s:]+: |"
    r"p(?:re|ost) load hook failed for: [^,]+, version_id: -?\d+, minimum_version: -?\d+: "
)
"""The same as the beginning of a line that goes on with why, as QEMU 11 has it."""

_NUMBERS: Final = re.compile(r"0x[0-9a-fA-F]+|\b\d+(?:\.\d+)*\b")
_VALUES: Final = re.compile(r"\): \(.*\)$")
"""What GLib puts behind a comparison: both sides of it."""
_PROGRAM: Final = re.compile(r"^(?:\S*qemu[\w.-]*|\(process:\d+\)|\([^)]*:\d+\)): ")
_GLIB_TIME: Final = re.compile(r"\d\d:\d\d:\d\d\.\d+: ")
_C_FILE: Final = r"(?P<file>[^\s:]+\.(?:c|h|cc|cpp|inc|rs)):(?P<line>\d+)"
_PLACED: Final = (
    re.compile(rf"ERROR:{_C_FILE}:(?P<function>[^:]+): (?P<what>.*)"),
    re.compile(rf"{_C_FILE}: (?P<function>[^:]+): (?P<what>Assertion .*)"),
    re.compile(rf"(?P<what>Unexpected error) in (?P<function>\w+)\(\) at {_C_FILE}"),
    re.compile(rf"SUMMARY: (?P<what>\w+Sanitizer: \S+) {_C_FILE}(?::\d+)? in (?P<function>\w+)"),
    re.compile(rf"{_C_FILE}:(?:\d+:)? (?P<what>runtime error: .*)(?P<function>)"),
)  # fmt: skip
"""Last words that name their place: GLib's and C's assertions, ``error_abort``, sanitizers."""
_DYING: Final = re.compile(
    r"\*\*\*|GLib-ERROR|hardware error|(?:free|malloc|realloc|munmap_chunk|unaligned)\w*\(\)|"
    r"corrupt|double free|[Aa]bort|[Ff]atal|terminate called|panicked",
)
"""Last words that do not."""
_REMARK: Final = re.compile(r"^(?:\S+: )?(?:warning|info): ")
"""What is printed by a QEMU that is well.  At the beginning: behind it a name may be a stream's."""
_GAVE_UP: Final = "GLib gave up without a word, most likely for lack of memory"
_NO_MEMORY: Final = re.compile(
    r"failed to allocate|cannot allocate|out[- ]of[- ]memory|bad_alloc|memory exhausted|"
    r"could not allocate|allocation of \d+ bytes failed|allocation-size-too-big|"
    r"rss-limit-exceeded",
    re.IGNORECASE,
)
_ENDED_BY_OTHERS: Final = frozenset({signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP})
_TERMINATED: Final = re.compile(r"terminating on signal \d+.*")
"""A QEMU that is asked to end (``qemu_system_killed``) exits with status 0."""


@dataclass(frozen=True, slots=True)
class Judged:
    """What a reply to ``loadvm`` says.

    Attributes:
        refusal: of the stream, ``None`` if it was accepted.
        depth: how deep the loader came.
        said: what was printed beside an acceptance, a line each, without numbers.
    """

    refusal: Refusal | None
    depth: Depth
    said: tuple[str, ...] = ()


def judge_reply(text: str) -> Judged:
    """What came of a load, from what the monitor printed.

    Not every line printed means a refusal: QEMU only mumbles over a missing vmdesc
    (``qemu_loadvm_state`` in migration/savevm.c).
    """
    if not text:
        return _ACCEPTED
    lines = [line.strip() for line in text.splitlines() if line.strip()][-LINES_MAX:]
    if not _ERROR.search(text):
        said = tuple(without_values(line)[:TEXT_MAX] for line in lines[:_SHOWN_MAX])
        return Judged(None, Depth.ACCEPTED, said)
    path, depth = _place(lines)
    found = _ERRNO.search(text)
    # A remark on one thing, such as a UUID that is not ours, does not explain another.
    causes = (line for line in lines if not _GENERAL.match(line) and not _REMARK.match(line))
    reason = next(causes, _why(lines[-1]))
    words = ": ".join((*path, reason))[:TEXT_MAX]
    errno = int(found[1]) if found else EINVAL
    return Judged(Refusal(words, errno, None, path), depth)


_ACCEPTED: Final = Judged(None, Depth.ACCEPTED)


def _why(line: str) -> str:
    """A line without what it says of the place first."""
    while (found := _WHERE.match(line)) and found.end() < len(line):
        line = line[found.end() :]
    return line


def _place(lines: list[str]) -> tuple[tuple[str, ...], Depth]:
    # Each level adds its line behind the one that it was called from: the last is outermost.
    # Releases that prepend to one message have it the other way round, in one line.
    inner: list[tuple[str, ...]] = []
    for line in lines:
        inner += reversed(
            [(match["owner"] or "", match["field"]) for match in _FIELD.finditer(line)]
        )
    fields = tuple(field for _, field in reversed(inner))[:PATH_MAX]
    for line in reversed(lines):
        for pattern, part in _PLACES:
            if found := pattern.search(line):
                return (found[1], *part, *fields), Depth.FIRST_SECTION
    if inner and inner[-1][0] == "configuration":
        return ("configuration", *fields), Depth.HEADER
    text = "\n".join(lines)
    for pattern, part, depth in _PARTS:
        if pattern.search(text):
            return part, depth
    return fields, Depth.FIRST_SECTION


@dataclass(frozen=True, slots=True)
class Death:
    """Why a QEMU died by itself.

    Attributes:
        kind: CRASHED or OUT_OF_MEMORY.
        escape: by which signal, with which last words, and where if they say so.
    """

    kind: ExitKind
    escape: Escape


def judge_death(ending: Ending, doing: str = "") -> Death:
    """What the end of a process means.

    Args:
        ending: of the process.
        doing: what it was told to do, where that was not the load itself.

    Raises:
        InfraError: somebody else ended it.
    """
    terminated = _TERMINATED.search(ending.said)
    if terminated or (
        ending.returncode < 0 and -ending.returncode in _ENDED_BY_OTHERS
    ):  # fmt: skip
        how = terminated[0] if terminated else ending.how
        raise InfraError(
            f"QEMU was ended from outside ({how}); see whether memory ran out (dmesg) or "
            "somebody kills processes"
        )
    line, message, frames = _last_words(ending.said)
    kind = ExitKind.OUT_OF_MEMORY if _says_no_memory(line, frames) else ExitKind.CRASHED
    if not message and ending.returncode == -signal.SIGTRAP:
        # GLib's g_error, and in a loader that is g_malloc. Its message went to the monitor that
        # ran the command (qemu_log_func in util/error-report.c), and died with it.
        kind, message = ExitKind.OUT_OF_MEMORY, _GAVE_UP
    said = f"{doing}: {message}" if doing and message else doing or message
    return Death(kind, Escape(ending.how, said, frames))


def last_words(printed: str) -> tuple[str, tuple[str, ...]]:
    """The line that tells why a process died, without numbers that differ from time to time,
    and ``file.c:function:line`` if it says where; ("", ()) when it said nothing."""
    return _last_words(printed)[1:]


def _says_no_memory(line: str, frames: tuple[str, ...]) -> bool:
    """Whether the last words are about memory.  An assertion that names its place is one,
    whatever words are in its condition; a sanitizer's summary has both."""
    return bool(_NO_MEMORY.search(line)) and (not frames or "Sanitizer" in line)


def _last_words(printed: str) -> tuple[str, str, tuple[str, ...]]:
    """The line as it was printed, and what :func:`last_words` makes of it."""
    lines = [line.strip() for line in printed.splitlines() if line.strip()]
    for line in reversed(lines):
        for pattern in _PLACED:
            if found := pattern.search(line):
                file, function = basename(found["file"]), found["function"].strip()
                place = f"{file}:{function}:{found['line']}"
                return line, _condition(found["what"]), (place,)
    for line in reversed(lines):
        if _DYING.search(line) or _NO_MEMORY.search(line):
            return line, _without_numbers(line), ()
    lines = [line for line in lines if not _REMARK.match(line)]
    return (lines[-1], _without_numbers(lines[-1]), ()) if lines else ("", "", ())


def _condition(what: str) -> str:
    """What was not so, as the source says it, without the values that it had."""
    if what[:9].lower() == "assertion":
        return _VALUES.sub(")", what)[:TEXT_MAX]
    return _without_numbers(what)


def _without_numbers(line: str) -> str:
    line = _PROGRAM.sub("", line)
    line = _GLIB_TIME.sub("", line)
    return _NUMBERS.sub("#", line)[:TEXT_MAX]
