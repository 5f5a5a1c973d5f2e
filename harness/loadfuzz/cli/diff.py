"""``loadfuzz diff``: the reference and another loader on the same streams."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from loadfuzz.cli.loaders import Wanted, loader_options, target_of
from loadfuzz.cli.params import ManyValues, number_within
from loadfuzz.exitcodes import ExitCode

if TYPE_CHECKING:
    from collections.abc import Iterator

    from loadfuzz.abc import RemoteTarget, Target
    from loadfuzz.errors import InfraError
    from loadfuzz.inputs import Seed
    from loadfuzz.qemu.differential import Comparison
    from loadfuzz.rng import Rng

STREAMS_DEFAULT: Final = 300
STREAMS_MAX: Final = 100_000
LOAD_TIMEOUT_S: Final = 2.0
TELL_S: Final = 5.0
"""Seconds between two words on how far it is."""

_HELP = """\
Give the same streams to the reference and to another loader, a QEMU or a command of
yours, and say where they disagree: accepted or refused, and at which section and field.

The reference's machine is built from the stream's own vmdesc. Streams are the target's
seeds (or --seeds) and mutants of them. What is known to differ, since the reference is
strict on purpose and releases mend things, is counted under its name; the rest is shown
with the words of both, and kept with --out as soon as it is found. After Ctrl-C what was
compared until then is told.

\b
Examples:
  loadfuzz diff qemu:pc
  loadfuzz diff qemu:q35 --qemu ./qemu-system-x86_64 --streams 2k --out found
  loadfuzz diff --command './loader {input}'

\b
Exit codes:
  0  nothing unexplained   2  wrong arguments
  1  something is          3  there is no loader
  130  interrupted, nothing unexplained until then
"""


@click.command(name="diff", cls=ManyValues, help=_HELP)
@click.argument("target", required=False)
@loader_options
@click.option(
    "--seeds",
    multiple=True,
    metavar="PATH...",
    type=click.Path(path_type=Path),
    help="Start from these files instead of the target's own streams.",
)
@click.option(
    "--streams",
    "count",
    type=number_within(1, STREAMS_MAX),
    default=str(STREAMS_DEFAULT),
    metavar="N",
    help=f"Streams to compare (default: {STREAMS_DEFAULT}).",
)
@click.option(
    "--seed", type=number_within(0, 1 << 32), default="1", metavar="N", help="Random seed."
)
@click.option("--out", type=click.Path(path_type=Path), metavar="DIR", help="Keep what differs.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")
def command(
    target: str | None,
    qemu: str | None,
    command_line: str | None,
    function: str | None,
    loader_options: tuple[str, ...],
    seeds: tuple[Path, ...],
    count: int,
    seed: int,
    out: Path | None,
    as_json: bool,
) -> int:
    """See the help text above."""
    import asyncio

    from loadfuzz.abc import RemoteTarget
    from loadfuzz.campaign.seeding import good_seeds
    from loadfuzz.errors import UsageError
    from loadfuzz.plugins import load_any_target
    from loadfuzz.qemu.differential import summary
    from loadfuzz.rng import Rng

    spec = target_of(target, Wanted(qemu, command_line, function, loader_options), "qemu:pc")
    if spec.startswith("qemu") and ",via=" not in spec:
        # Only a fresh machine has nothing of the loads before, as the reference's has not.
        spec = f"{spec},via=incoming" if ":" in spec else "qemu:pc,via=incoming"
    loader = load_any_target(spec)
    if not isinstance(loader, RemoteTarget):
        raise UsageError(f"{spec} runs in our process: name a QEMU or a command")
    given = good_seeds(seeds) if seeds else list(loader.seeds())
    reference = _reference_for(given)
    streams = _streams(reference, [one.stream for one in given], count, Rng(seed))
    found = Found(streams, out)
    interrupted = False
    try:
        asyncio.run(_compare(reference, loader, streams, found))
    except KeyboardInterrupt:
        interrupted = True
        print(f"interrupted after {len(found.made)} of {len(streams)} streams", file=sys.stderr)
    made, skipped = found.made, found.skipped
    unexplained = [one for one in made if one.unexplained]
    if as_json:
        print(_json_of(spec, made, skipped))
    else:
        print("\n".join(summary(made, skipped)))
        if unexplained and out is not None:
            print(f"these streams are in {out}, each named by its digest")
    if unexplained:
        return ExitCode.FINDINGS
    return ExitCode.INTERRUPTED if interrupted else ExitCode.CLEAN


def _reference_for(seeds: "list[Seed]") -> "Target":
    """The reference's loader, on a machine that the longest seed describes."""
    import tempfile
    from dataclasses import replace

    from loadfuzz.fitting import fit
    from loadfuzz.plugins import load_target

    reference = load_target("reference")
    first = max(seeds, key=lambda one: len(one.stream))
    with tempfile.NamedTemporaryFile(prefix="loadfuzz-") as file:
        file.write(first.stream)
        file.flush()
        return fit(reference, [replace(first, origin=file.name)])


def _streams(reference: "Target", seeds: list[bytes], count: int, rng: "Rng") -> list[bytes]:
    """The seeds, and children of them."""
    from loadfuzz.abc import Mutable
    from loadfuzz.inputs import STREAM_SIZE_MAX
    from loadfuzz.mutators import ALL
    from loadfuzz.mutators.stack import MutationStack
    from loadfuzz.places import Places

    stack = MutationStack(ALL)
    parents = [(stream, Places(reference.parse(stream))) for stream in seeds]
    found = dict.fromkeys(seeds)
    for _ in range(2 * count):
        if len(found) >= count:
            break
        stream, places = rng.choice(parents)
        subject = Mutable(stream, places, rng.choice(seeds), STREAM_SIZE_MAX)
        found.setdefault(stack.child(subject, rng)[0])
    return list(found)[:count]


class Found:
    """What was compared until now; what is unexplained is written at once.

    Args:
        streams: all that are compared.
        out: folder for those, ``None`` for none.

    Attributes:
        made: comparisons, in order.
        skipped: streams about which nothing could be said.
    """

    def __init__(self, streams: list[bytes], out: Path | None) -> None:
        self.made: list[Comparison] = []
        self.skipped = 0
        self._streams = streams
        self._out = out

    def add(self, one: "Comparison") -> None:
        """A comparison was made.

        Raises:
            InfraError: its stream cannot be written.
        """
        # They come in the order of the streams.
        stream = self._streams[len(self.made) + self.skipped]
        self.made.append(one)
        if one.unexplained and self._out is not None:
            _keep(self._out, one.digest, stream)

    def skip(self, _: bytes, error: "InfraError") -> None:
        """A stream was skipped."""
        self.skipped += 1
        print(f"a stream is skipped: {error}", file=sys.stderr, flush=True)


async def _compare(
    reference: "Target", loader: "RemoteTarget", streams: list[bytes], found: Found
) -> None:
    import tempfile

    from loadfuzz.qemu.differential import compare, reference_of

    ours = reference_of(reference)
    with tempfile.TemporaryDirectory(prefix="loadfuzz-") as folder:
        async with loader.executor(
            Path(folder), LOAD_TIMEOUT_S, explain=False, copies=True
        ) as executor:
            await compare(ours, executor, _telling(streams), told=found.add, skipped=found.skip)


def _telling(streams: list[bytes]) -> "Iterator[bytes]":
    """The streams, with a word on stderr every few seconds."""
    import time

    told_s = time.monotonic()
    for number, stream in enumerate(streams):
        if time.monotonic() - told_s >= TELL_S:
            told_s = time.monotonic()
            print(f"{number} of {len(streams)} streams", file=sys.stderr, flush=True)
        yield stream


def _keep(out: Path, digest: str, stream: bytes) -> None:
    from loadfuzz.storage import explain, write_atomic

    try:
        out.mkdir(parents=True, exist_ok=True)
        write_atomic(out / digest, stream)
    except OSError as error:
        raise explain(error, f"writing to {out}") from error


def _json_of(spec: str, made: "list[Comparison]", skipped: int) -> str:
    from loadfuzz import codec
    from loadfuzz.qemu.differential import words_of

    rows = [
        {
            "input": one.digest,
            "agreement": one.agreement.value,
            "explanation": None if one.explanation is None else one.explanation.name,
            "reference": {"kind": one.ours.kind.value, "text": words_of(one.ours)},
            "loader": {"kind": one.theirs.kind.value, "text": words_of(one.theirs)},
        }
        for one in made
    ]
    value = {
        "target": spec,
        "streams": len(made),
        "skipped": skipped,
        "unexplained": sum(one.unexplained for one in made),
        "differences": [row for row, one in zip(rows, made, strict=True)
                        if not one.agreement.agrees],
    }  # fmt: skip
    return codec.encode(value).decode()
