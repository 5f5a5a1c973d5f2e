"""``report.txt``: a finding as a person wants to read it."""

import shlex
from collections.abc import Sequence
from textwrap import wrap
from typing import Final

from loadfuzz.execution import Execution
from loadfuzz.faults.words import describe
from loadfuzz.findings import Finding
from loadfuzz.inputs import digest_of
from loadfuzz.mutation import Mutation
from loadfuzz.repro.hexdump import changed, picture
from loadfuzz.wording import count, printable

WIDTH: Final = 79
"""Columns of the text: it is read in terminals and in bug trackers."""
EVENTS_SHOWN: Final = 8
"""Last trace events that are shown; the manifest has all."""
TEXT_MAX: Final = 400
"""Characters of a value that are shown; a mutation may have written a megabyte."""
MUTATIONS_SHOWN: Final = 20
"""Mutations that are shown; a chain is a handful."""


def replay_command(folder: str) -> str:
    """The command that replays the finding in ``folder``."""
    return f"loadfuzz replay {shlex.quote(folder)}"


def write_report(finding: Finding, folder: str, script: str = "") -> str:
    """The text of ``report.txt``.

    Args:
        finding: what it tells of.
        folder: where it is put.
        script: file beside it that shows the finding without us, "" for none.
    """
    violation = finding.violation
    done, tries = finding.reliability
    title = wrap(cut(violation.title), WIDTH) or [""]
    lines = [
        *title,
        "=" * max(map(len, title)),
        "",
        f"oracle       {violation.oracle}",
        f"place        {cut(violation.path) or '(the whole stream)'}",
        f"signature    {cut(finding.signature)}",
        f"target       {finding.target}",
        f"input        {len(finding.input.stream)} bytes, sha256 {finding.input.digest[:16]}...",
    ]
    if finding.input.delivery.chunks:
        lines.append(f"delivered    in pieces of {finding.input.delivery.chunks} bytes, repeated")
    lines += _faults(finding)
    if tries:
        lines.append(f"reliability  {done} of {tries} runs in a fresh loader")
    lines += ["", *_block("expected", violation.expected), *_block("actual", violation.actual)]
    lines += ["", "What the loader did", "", *_execution(finding.execution)]
    lines += _before(finding)
    lines += ["", "What was changed", "", *_mutations(finding)]
    lines += ["", "To see it again", ""]
    if finding.again:
        lines.append(f"   {finding.again}")
    else:
        lines += [
            f"   {replay_command(folder)}",
            f"   {replay_command('.')}     (in this folder, wherever it is now)",
        ]
    if script:
        lines.append(f"   sh {shlex.quote(script)}     (here too, and without loadfuzz)")
    lines.append("")
    return "\n".join(printable(line).rstrip() for line in lines)


def _faults(finding: Finding) -> list[str]:
    """What goes wrong meanwhile, a line each."""
    told = finding.fault_words or describe(finding.input.faults)
    words = [piece for line in told for piece in wrap(cut(line), WIDTH - 13)]
    return [f"{'' if number else 'faults':<13}{line}" for number, line in enumerate(words)]


def cut(text: str) -> str:
    """``text`` in not much more than :data:`TEXT_MAX` characters."""
    return text if len(text) <= TEXT_MAX else f"{text[:TEXT_MAX]}... ({len(text)} characters)"


def _block(label: str, text: str) -> list[str]:
    lines = [
        piece
        for line in (cut(text).splitlines() or [""])
        for piece in (wrap(line, WIDTH - 13) or [""])
    ]
    return [f"{label if index == 0 else '':<13}{line}" for index, line in enumerate(lines)]


def _execution(execution: Execution) -> list[str]:
    depth = execution.depth.name.lower().replace("_", " ")
    lines = [f"   {execution.kind}, came as far as: {depth}, {execution.cpu_s:.3f} s of CPU"]
    if execution.refusal is not None:
        lines += [f"   {line}" for line in wrap(cut(execution.refusal.text), WIDTH - 3)]
    if execution.escape is not None:
        escape = execution.escape
        lines.append(f"   {escape.type_name}: {cut(escape.message)}")
        lines += [f"      {frame}" for frame in escape.frames]
    shown = execution.events[-EVENTS_SHOWN:]
    if shown:
        lines += ["", f"   the last {len(shown)} of {len(execution.events)} trace events:"]
        lines += [f"      {cut(event)}" for event in shown]
    return lines


def _before(finding: Finding) -> list[str]:
    """What has to be loaded first, and what was changed in it."""
    before = finding.input.before
    if not before:
        return []
    lines = ["", "What has to be loaded first, into the same loader", ""]
    known = [
        (number, stream, origin)
        for number, (stream, origin) in enumerate(zip(before, finding.earlier, strict=True), 1)
        if origin.parent_stream
    ]
    if len(known) < len(before):
        lines.append(f"   {count(len(before), 'stream')}, before-1 and so on, in that order:")
        lines.append("   which of them it takes is not known")
    for number, stream, origin in known:
        lines.append(f"   before-{number}, {len(stream)} bytes")
        if not origin.mutations:
            lines.append("   a good stream, as it is")
        else:
            lines += _changes(stream, origin.parent_stream, origin.mutations)
        lines.append("")
    return lines


def _mutations(finding: Finding) -> list[str]:
    stream = finding.input.stream
    refusal = finding.execution.refusal
    if not finding.mutations:
        if finding.parent_stream == stream:
            return ["   nothing: it is a good stream, which is accepted where nothing was loaded"]
        lines = ["   nothing: the input is a seed, or the engine did not say"]
        if refusal is not None and refusal.offset is not None and refusal.offset < len(stream):
            lines += ["", f"   the load stopped at offset {refusal.offset:#x}:"]
            lines += picture(stream, [(refusal.offset, refusal.offset + 1)])
        return lines
    return _changes(stream, finding.parent_stream, finding.mutations)


def _changes(stream: bytes, parent: bytes, mutations: Sequence[Mutation]) -> list[str]:
    """What ``mutations`` made of ``parent``, and where it stands in ``stream``."""
    digest = digest_of(parent)
    lines = [f"   from the stream {digest[:16]}... ({len(parent)} bytes):"]
    for mutation in mutations[:MUTATIONS_SHOWN]:
        where = f" at {mutation.path}" if mutation.path else ""
        lines.append(f"   {mutation.operator}{where}")
        if mutation.old or mutation.new:
            lines.append(f"      {cut(mutation.old) or '-'}  ->  {cut(mutation.new) or '-'}")
    try:
        found = changed(mutations, len(parent))
    except ValueError:
        # The engine did not keep the parent; what was changed is still told above.
        return lines
    total = sum(end - start for start, end in found)
    removed = len(parent) - len(stream)
    if not total and removed > 0:
        lines += ["", f"   {count(removed, 'byte')} of it are gone, marked where:"]
    else:
        lines += ["", f"   {count(total, 'byte')} of the input can differ from it:"]
    lines += picture(stream, found)
    return lines
