"""What a dying loader says of itself on stderr: sanitizers, Python, failed assertions.

Pure functions from text to :class:`Report`.  The text is a loader's, so it may be cut, mixed
with other output, or made up; whatever it is, nothing is raised.

The frames of a report are innermost last, each ``file.c:function:line``, without those of
the sanitizer's and the C library's own functions: then the last one is the function of the
loader in which it happened, and two bugs are told apart by it
(:func:`loadfuzz.oracles.clean_error.place_of`).
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from os.path import basename
from typing import Final

from loadfuzz.execution import Escape
from loadfuzz.executors.guard import FRAMES_MAX, MESSAGE_MAX

LINES_MAX: Final = 4000
"""Lines that are looked at: the longest report, a stack overflow, has some 300."""
LINE_CHARS_MAX: Final = 2000
"""Characters of a line that are looked at: a mangled C++ name is the longest honest one."""

OUT_OF_MEMORY: Final = "out-of-memory"
_MEMORY_KINDS: Final = frozenset({OUT_OF_MEMORY, "allocation-size-too-big", "rss-limit-exceeded"})


@dataclass(frozen=True, slots=True)
class Report:
    """What was said.

    Attributes:
        tool: who said it: ``AddressSanitizer``, ``Python``, ``assert``.
        kind: what happened: ``heap-buffer-overflow``, ``IndexError``.
        message: one line about it.
        frames: innermost last, each ``file.c:function:line``; at most
            :data:`~loadfuzz.executors.guard.FRAMES_MAX`.
    """

    tool: str
    kind: str
    message: str
    frames: tuple[str, ...]

    @property
    def out_of_memory(self) -> bool:
        """It ran out of memory, or asked for more than it may have."""
        return self.kind in _MEMORY_KINDS or self.kind == "MemoryError"

    def escape(self) -> Escape:
        """The same as what an execution says."""
        return Escape(self.kind, self.message[:MESSAGE_MAX], self.frames)


# -- sanitizers ----------------------------------------------------------------------------

_HEADER: Final = re.compile(r"(?:==\d+==\s*)?(?:ERROR|WARNING): (\w+Sanitizer): (.+)")
_LIMIT: Final = re.compile(r"==\d+==\s*(\w+Sanitizer): (?:hard|soft) rss limit exhausted(.*)")
_UNDEFINED: Final = re.compile(r"(\S+?):(\d+)(?::\d+)?: runtime error: (.+)")
_ACCESS: Final = re.compile(r"(?:READ|WRITE) of size \d+")
_FRAME: Final = re.compile(r"\s+#\d+ (?:0x[0-9a-fA-F]+ )?(?:in )?(.+)")
_SOURCE: Final = re.compile(r"(?:(.*) )?([^\s()]+?):(\d+)(?::\d+)?(?: \(.*\))*$")
_MODULE: Final = re.compile(r"(?:(.*) )?\(([^()\s]+)\+0x[0-9a-fA-F]+\)(?: \(BuildId: \w+\))?$")
_KIND: Final = re.compile(r"[A-Za-z][\w-]*(?: [A-Za-z][\w-]*)*?(?= on | in | \(|:|$)")

NO_SHADOW: Final = "ReserveShadowMemoryRange failed"
"""What AddressSanitizer says when a limit of address space leaves it no room."""

_SAID_AS: Final = (
    ("requested allocation size", "allocation-size-too-big"),
    ("allocator is out of memory", OUT_OF_MEMORY),
    ("rss limit", "rss-limit-exceeded"),
    ("specified RSS limit", "rss-limit-exceeded"),
    ("detected memory leaks", "memory-leak"),
    ("attempting double-free", "double-free"),
    ("attempting free on address", "bad-free"),
    ("attempting to call", "bad-malloc-usable-size"),
)
_RUNTIME_FUNCTION: Final = re.compile(
    r"_*interceptor_|___?(?:asan|msan|ubsan|tsan|lsan|sanitizer|hwasan)|__(?:asan|msan|ubsan|tsan)"
    r"|__sanitizer|__GI_|__libc_|__pthread_|__assert|__fortify|__chk_fail|__stack_chk"
    r"|(?:_start|start_thread|clone3?|abort|raise|gsignal|__restore_rt|_dl_\w+"
    r"|g_assertion_message\w*|g_logv?|g_log_structured\w*|g_(?:m|re)alloc\w*"
    r"|operator (?:new|delete).*|std\.terminate.*|__cxa_\w+|__gnu_cxx\..*|_Unwind_\w+)$"
)
_RUNTIME_FILE: Final = re.compile(
    r".*(?:libsanitizer/|compiler-rt/|/sysdeps/|/csu/|^nptl/|^stdlib/|^assert/|^string/|^libio/"
    r"|^/usr/include/|^/usr/lib/)"
)
_RUNTIME_MODULE: Final = re.compile(
    r"(?:lib(?:c|m|pthread|dl|asan|ubsan|tsan|msan|lsan|stdc\+\+|gcc_s|c\+\+|c\+\+abi)"
    r"|ld|ld-linux[\w-]*)[-.]"
)


def sanitizer_report(text: str) -> Report | None:
    """What a sanitizer says that ended the program, or else the first thing that
    UndefinedBehaviorSanitizer says, which goes on by default; ``None`` if none says
    anything."""
    lines = _lines(text)
    mild: Report | None = None
    for at, line in enumerate(lines):
        header = _HEADER.search(line)
        if header is not None:
            return _report_of(header[1], header[2], lines[at + 1 :])
        limit = _LIMIT.search(line)
        if limit is not None:
            return Report(limit[1], "rss-limit-exceeded", limit[0].strip(), ())
        undefined = _UNDEFINED.search(line) if mild is None else None
        if undefined is not None:
            frames = _stack(lines[at + 1 :])
            if not frames:
                frames = (f"{_file(undefined[1])}:?:{undefined[2]}",)
            said = undefined[3].strip()
            mild = Report("UndefinedBehaviorSanitizer", _undefined_kind(said), said, frames)
    return mild


def _report_of(tool: str, said: str, behind: list[str]) -> Report:
    kind = next((kind for words, kind in _SAID_AS if words in said), "")
    if not kind:
        found = _KIND.match(said)
        kind = found[0].replace(" ", "-") if found is not None else tool
    frames = _stack(behind)
    if kind == "stack-overflow":
        frames = _up_to_most_frequent(frames)
    # What follows is addresses, which say nothing the next time.
    message = re.split(r" on (?:unknown )?address | \(pc ", said)[0].strip()
    access = _ACCESS.match(behind[0]) if behind else None
    if access is not None:
        message += f", {access[0]}"
    return Report(tool, kind, message, frames[-FRAMES_MAX:])


def _undefined_kind(said: str) -> str:
    """The words of a message before what the stream chose.

    >>> _undefined_kind("index 17 out of bounds for type 'int [16]'")
    'index-out-of-bounds'
    """
    words = re.sub(r"'[^']*'|-?\b(?:0x)?\d[\w.+-]*", " ", said.partition(":")[0])
    words = re.sub(r"\bfor type\b.*|\bof type\b.*|\bin type\b.*", "", words)
    return "-".join(words.split()[:6]) or "undefined-behavior"


def _stack(lines: list[str]) -> tuple[str, ...]:
    """The first stack in ``lines``, innermost last, without the runtime's own frames unless
    there are no others."""
    own: list[str] = []
    every: list[str] = []
    begun = False
    for line in lines:
        found = _FRAME.match(line)
        if found is None:
            if begun or _HEADER.search(line) or _UNDEFINED.search(line):
                break
            continue
        begun = True
        frame, runtime = _frame(found[1].strip())
        every.append(frame)
        if not runtime:
            own.append(frame)
    frames = own or every
    return tuple(reversed(frames))


def _frame(said: str) -> tuple[str, bool]:
    """``file.c:function:line``, and whether it is the runtime's and not the loader's."""
    source = _SOURCE.match(said)
    if source is not None:
        function, path = _function(source[1] or ""), source[2]
        runtime = bool(_RUNTIME_FUNCTION.match(function) or _RUNTIME_FILE.match(path))
        return f"{_file(path)}:{function}:{source[3]}", runtime
    module = _MODULE.match(said)
    if module is not None:
        function, file = _function(module[1] or ""), _file(module[2])
        runtime = bool(_RUNTIME_FUNCTION.match(function) or _RUNTIME_MODULE.match(file))
        return f"{file}:{function}:0", runtime
    function = _function(said)
    return f"?:{function}:0", bool(_RUNTIME_FUNCTION.match(function))


def _function(said: str) -> str:
    """A function's name without its parameters; a colon would end it.

    >>> _function("vm::Loader::load(std::string const&, int)")
    'vm.Loader.load'
    """
    name = said.replace("(anonymous namespace)", "anonymous").replace("operator()", "call")
    return name.partition("(")[0].strip().replace("::", ".").replace(":", ".") or "?"


def _file(path: str) -> str:
    return basename(path).replace(":", ".") or "?"


def _up_to_most_frequent(frames: tuple[str, ...]) -> tuple[str, ...]:
    """A recursion gives up at a depth, and so in a function, that is chance: the one that is
    on the stack most often stands last."""
    if not frames:
        return frames
    places = [frame.rpartition(":")[0] for frame in frames]
    often = Counter(places).most_common(1)[0][0]
    last = max(at for at, place in enumerate(places) if place == often)
    return frames[: last + 1]


# -- Python --------------------------------------------------------------------------------

_TRACEBACK: Final = "Traceback (most recent call last):"
_GROUP: Final = "Exception Group Traceback"
_PYTHON_FRAME: Final = re.compile(r'\s+File "(.*)", line (\d+),? in (.+)')
_RAISED: Final = re.compile(r"([A-Za-z_][\w.]*)(?:: (.*))?$")
_FATAL: Final = re.compile(r"Fatal Python error: (.+)")
_THREAD: Final = "(most recent call first):"


def python_report(text: str) -> Report | None:
    """The exception that ended a Python program: its last traceback, and of an exception
    group the first that it holds; ``None`` if there is no traceback."""
    lines = [re.sub(r"^[ ]*[|+] ?", "", line) for line in _lines(text)]
    starts = [at for at, line in enumerate(lines) if line.endswith(_TRACEBACK)]
    if not starts:
        return None
    at = starts[-1]
    groups = [start for start in starts if _GROUP in lines[start]]
    if groups:
        at = next((start for start in starts if start > groups[-1]), groups[-1])
    frames: list[str] = []
    for line in lines[at + 1 :]:
        frame = _PYTHON_FRAME.match(line)
        if frame is not None:
            frames.append(_python_frame(frame))
        elif line and not line[0].isspace():
            raised = _RAISED.match(line)
            if raised is not None:
                return Report("Python", raised[1].rpartition(".")[2], raised[2] or "",
                              tuple(frames[-FRAMES_MAX:]))  # fmt: skip
            break
    return None  # cut off: nobody knows what it was


def python_fault(text: str) -> Report | None:
    """What Python says when a signal ends it (``PYTHONFAULTHANDLER``), if it does."""
    lines = _lines(text)
    for at, line in enumerate(lines):
        fatal = _FATAL.search(line)
        if fatal is None:
            continue
        frames: list[str] = []
        threads = [n for n, said in enumerate(lines) if n > at and said.endswith(_THREAD)]
        current = [n for n in threads if lines[n].startswith("Current")] or threads
        for said in lines[current[0] + 1 :] if current else ():
            frame = _PYTHON_FRAME.match(said)
            if frame is None:
                break
            frames.append(_python_frame(frame))
        frames.reverse()
        return Report(
            "Python", fatal[1].strip().replace(" ", "-"), line, tuple(frames[-FRAMES_MAX:])
        )
    return None


def _python_frame(found: re.Match[str]) -> str:
    return f"{_file(found[1])}:{found[3].strip().replace(':', '.')}:{found[2]}"


# -- assertions and allocators -------------------------------------------------------------

_ASSERTIONS: Final = (
    # glibc: prog: file.c:12: function: Assertion `x' failed.
    re.compile(r"(?:^|: )(?P<file>[^\s:]+):(?P<line>\d+): (?P<function>.+): Assertion .* failed"),
    # GLib: ERROR:../file.c:12:function: assertion failed: (x)
    re.compile(r"ERROR:(?P<file>[^\s:]+):(?P<line>\d+):(?P<function>[^\s:]+): .*"),
    # musl: Assertion failed: x (file.c: function: 12)
    re.compile(r"Assertion failed: .* \((?P<file>[^\s:]+): (?P<function>[^\s:]+): (?P<line>\d+)\)"),
)
_STARVED: Final = re.compile(
    r"std::bad_alloc|memory allocation of \d+ bytes failed|failed to allocate \d+ bytes"
    r"|runtime: out of memory|cannot allocate memory in static TLS block"
)


def assertion_report(text: str) -> Report | None:
    """The assertion that failed, of glibc's, musl's or GLib's; ``None`` if none did."""
    for line in _lines(text):
        for pattern in _ASSERTIONS:
            found = pattern.search(line)
            if found is not None:
                frame = f"{_file(found['file'])}:{_function(found['function'])}:{found['line']}"
                return Report("assert", "assertion", line.strip(), (frame,))
    return None


def says_out_of_memory(text: str) -> bool:
    """Whether a runtime of C++, Rust, Go or GLib says that memory ran out."""
    return any(_STARVED.search(line) for line in _lines(text))


def _lines(text: str) -> list[str]:
    return list(_bounded(text.splitlines()))


def _bounded(lines: Iterable[str]) -> Iterator[str]:
    for number, line in enumerate(lines):
        if number >= LINES_MAX:
            return
        yield line[:LINE_CHARS_MAX]
