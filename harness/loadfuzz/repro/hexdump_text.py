"""``hexdump.txt``: every stream of a finding, and each changed field with its bytes."""

from collections.abc import Sequence
from textwrap import wrap
from typing import Final

from loadfuzz.findings import Earlier, Finding
from loadfuzz.inputs import digest_of
from loadfuzz.mutation import Mutation
from loadfuzz.repro.folder import INPUT, PARENT, before_name
from loadfuzz.repro.hexdump import changed, picture
from loadfuzz.repro.report import MUTATIONS_SHOWN, WIDTH, cut
from loadfuzz.wording import count, printable

_INDENT: Final = 3


def write_hexdump(finding: Finding) -> str:
    """The text of ``hexdump.txt``, in lines of at most 79 columns."""
    lines: list[str] = []
    for number, (stream, origin) in enumerate(
        zip(finding.input.before, finding.earlier, strict=True), 1
    ):
        name = before_name(number)
        lines += _stream(name, ", loaded first", stream, f"{name}-{PARENT}", origin)
    origin = Earlier(finding.parent_stream, finding.mutations)
    lines += _stream(INPUT, "", finding.input.stream, PARENT, origin)
    return "\n".join(lines)


def _stream(name: str, when: str, stream: bytes, seed_name: str, origin: Earlier) -> list[str]:
    seed = origin.parent_stream
    lines = [f"{name}: {count(len(stream), 'byte')}{when}"]
    if seed:
        lines.append(
            f"made from {seed_name}: {count(len(seed), 'byte')}, sha256 {digest_of(seed)[:16]}..."
        )
    else:
        lines.append("what it was made from is not known")
    if seed and seed == stream:
        lines.append("nothing was changed in it: it is a good stream")
    for number, mutation in enumerate(origin.mutations[:MUTATIONS_SHOWN]):
        lines += ["", *_named(mutation), "", *_shown(stream, seed, origin.mutations, number)]
    left = len(origin.mutations) - MUTATIONS_SHOWN
    if left > 0:
        lines += ["", f"   {count(left, 'further change')}: see finding.json"]
    return [*(line.rstrip() for line in lines), ""]


def _named(mutation: Mutation) -> list[str]:
    """``NAME: OLD -> NEW``, on several lines where it is long."""
    name = printable(cut(mutation.path or mutation.operator))
    if not mutation.old and not mutation.new:
        return _wrapped(name, _INDENT)
    values = printable(f"{cut(mutation.old) or '-'} -> {cut(mutation.new) or '-'}")
    if _INDENT + len(name) + len(values) + 2 <= WIDTH:
        return [f"{'':{_INDENT}}{name}: {values}"]
    return [*_wrapped(f"{name}:", _INDENT), *_wrapped(values, 2 * _INDENT)]


def _wrapped(text: str, indent: int) -> list[str]:
    return [f"{'':{indent}}{line}" for line in wrap(text, WIDTH - indent) or ["-"]]


def _shown(
    stream: bytes, seed: bytes, mutations: Sequence[Mutation], number: int
) -> list[str]:  # fmt: skip
    """Where the bytes of one change are in what all of them have made."""
    try:
        ranges = changed(mutations, len(seed), only=number)
    except ValueError:
        return ["   (the stream that this was done to was not kept)"]
    return picture(stream, ranges) or ["   (what came after it has changed this again)"]
