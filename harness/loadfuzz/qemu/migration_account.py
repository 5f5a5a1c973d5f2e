"""``migration.txt`` of a finding: both sides' part in a migration, for people."""

from loadfuzz.findings import Finding
from loadfuzz.qemu.cancelling import Cancel
from loadfuzz.qemu.migration import Attempt


def account(finding: Finding, attempt: Attempt) -> str:
    """What happened on both sides, and how to have it again; lines of text."""
    passed, settled = attempt.passed, attempt.settled
    lines = [
        finding.again,
        "",
        f"struck       {' '.join(map(str, attempt.struck)) or 'nothing'}",
        f"passed       {passed.delivered} of {passed.sent} bytes; {passed.ended.value}",
        f"state ends   behind byte {passed.state_end or '(not reached)'}",
        f"source       {attempt.source.outcome}, {attempt.source.state or 'gone'}",
        *_indented(attempt.source.said),
        *(f"cancel       {_words_of(cancel)}" for cancel in attempt.cancels),
        f"destination  {attempt.destination.outcome}, {attempt.destination.state or 'gone'}",
        *_indented(attempt.destination.said),
        f"told to run  {', '.join(settled.told) or 'nobody'}",
        f"running      {', '.join(settled.running) or 'nobody'}",
        *_indented(settled.said),
        "",
    ]
    return "\n".join(lines)


def _words_of(cancel: Cancel) -> str:
    made = "accepted" if cancel.accepted else "too late" if cancel.late else "ignored"
    return f"{cancel.fault}: {made}; {cancel.error or cancel.state or 'no state'}"


def _indented(text: str) -> list[str]:
    return [f"             {line}" for line in text.splitlines()]
