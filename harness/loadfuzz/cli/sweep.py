"""``loadfuzz sweep``: one fault at every place of a stream."""

import asyncio
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from loadfuzz.cli.loaders import Wanted, loader_options, target_of
from loadfuzz.cli.params import ManyValues, number_within
from loadfuzz.errors import UsageError
from loadfuzz.exitcodes import ExitCode

if TYPE_CHECKING:
    from collections.abc import Mapping

    from loadfuzz.abc import RemoteTarget, Target
    from loadfuzz.faults.kinds import FaultKind
    from loadfuzz.findings import Finding
    from loadfuzz.inputs import Seed
    from loadfuzz.mutation import Mutation
    from loadfuzz.sweeps.running import Sweep

TELL_S: Final = 5.0
"""Seconds between two words on how far it is."""
DETAILED_MAX: Final = 6
"""Streams of which the table tells every stretch; --json has those of all."""
AMOUNT_MAX: Final = 1 << 30
WORKERS_MAX: Final = 256
STEP_MAX: Final = 1 << 30

_HELP = """\
Let one fault strike at every place of a stream, and map what the loader does.

Streams are the target's own (or --seeds). Each place is a load of its own, in a
loader as new. A place whose verdict is not what must follow from the fault is a
finding: a stream that was cut off and is accepted, a refusal that leaves something
behind, a short read that matters.

\b
Faults at an offset:
  truncate, close, half-close, eio, reset   must be refused
  cancel                                    must be refused, cleanly
  short-read, stall, eagain, slow           must not matter
  zero-tail, bit-flip, duplicate, reorder   must do no harm
A loader elsewhere (qemu:..., --command) is given whole streams: there only
those that change bytes can be swept. On a disk a cut stream goes on in zeros.

\b
Examples:
  loadfuzz sweep reference --fault truncate
  loadfuzz sweep snapshot --fault eio --at sections,fields
  loadfuzz sweep --callable mymodule:load --fault cancel
  loadfuzz sweep qemu:microvm --fault truncate --picture microvm.png

\b
Exit codes:
  0  every expectation holds   2  that fault cannot be swept there
  1  there are findings        3  the target cannot be run
  130  interrupted, nothing found until then
"""


def _places(value: str) -> "frozenset[str]":
    names = frozenset(part.strip() for part in value.split(",") if part.strip())
    known = {"offsets", "sections", "fields"}
    if not names or not names <= known:
        raise click.BadParameter(f"{value!r} is not of {', '.join(sorted(known))}")
    return names


@click.command(name="sweep", cls=ManyValues, help=_HELP)
@click.argument("target", required=False)
@click.option("--fault", "fault", required=True, metavar="KIND", help="What goes wrong.")
@click.option(
    "--amount",
    type=number_within(0, AMOUNT_MAX),
    metavar="N",
    help="How much, in the fault's unit (default: the usual).",
)
@click.option(
    "--at",
    "at",
    type=_places,
    metavar="PLACES",
    help="offsets, sections, fields, or several with commas (default: offsets).",
)
@click.option("--every-offset", is_flag=True, help="The same as --at offsets.")
@click.option(
    "--step", type=number_within(1, STEP_MAX), default="1", metavar="N",
    help="Of the offsets, one in N (default: 1).",
)  # fmt: skip
@loader_options
@click.option(
    "--seeds",
    multiple=True,
    metavar="PATH...",
    type=click.Path(path_type=Path),
    help="Sweep these files instead of the target's own streams.",
)
@click.option(
    "--workers", type=number_within(1, WORKERS_MAX), metavar="N",
    help="Processes (default: one per core).",
)  # fmt: skip
@click.option(
    "--picture", metavar="FILE", type=click.Path(path_type=Path),
    help="Draw the maps (.png, .svg or .pdf).",
)  # fmt: skip
@click.option(
    "--out",
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="Keep findings there (default: loadfuzz-out/sweep-TARGET-NNN).",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")
def command(
    target: str | None,
    fault: str,
    amount: int | None,
    at: "frozenset[str] | None",
    every_offset: bool,
    step: int,
    qemu: str | None,
    command_line: str | None,
    function: str | None,
    loader_options: tuple[str, ...],
    seeds: tuple[Path, ...],
    workers: int | None,
    picture: Path | None,
    out: Path | None,
    as_json: bool,
) -> int:  # fmt: skip
    """See the help text above."""
    from loadfuzz.campaign.batch import LOAD_TIMEOUT_S
    from loadfuzz.campaign.seeding import good_seeds
    from loadfuzz.campaign.settings import cores
    from loadfuzz.plugins import load_any_target
    from loadfuzz.sweeps.places import At
    from loadfuzz.sweeps.running import Sweep

    kind = _kind(fault)
    if out is not None and out.exists() and not out.is_dir():
        raise UsageError(f"--out {out} is no folder; name one, or a place for one")
    if picture is not None:
        from loadfuzz.pictures import check_picture

        check_picture(picture)
    spec = target_of(target, Wanted(qemu, command_line, function, loader_options), "reference")
    loader = load_any_target(spec)
    chosen = frozenset(map(At, at or ())) | (frozenset({At.OFFSETS}) if every_offset else set())
    streams = good_seeds(seeds) if seeds else list(loader.seeds())
    if not streams:
        raise UsageError(f"{spec} has no streams of its own; give some with --seeds")
    sweep = Sweep(loader, streams, kind, amount, chosen or frozenset({At.OFFSETS}), step)
    interrupted = False
    try:
        asyncio.run(sweep.run(workers or cores(), LOAD_TIMEOUT_S, _Progress(sweep)))
    except KeyboardInterrupt:
        interrupted = True
        print(f"interrupted after {sweep.done:,} of {sweep.places:,} places", file=sys.stderr)
    folder = _keep(loader, streams, sweep, kind, amount, out)
    if picture is not None:
        _draw(sweep, f"{kind} at every place of {loader.name}", picture)
    if as_json:
        print(_json_of(spec, kind, sweep, folder))
    else:
        _print(sweep, folder)
    if any(one.broken for one in sweep.maps):
        return ExitCode.FINDINGS
    return ExitCode.INTERRUPTED if interrupted else ExitCode.CLEAN


def _kind(text: str) -> "FaultKind":
    from loadfuzz.faults.kinds import FaultKind, Layer
    from loadfuzz.sweeps.places import ALIASES, sweepable

    if text in ALIASES:
        return ALIASES[text]
    try:
        return FaultKind(text)
    except ValueError:
        raise UsageError(
            f"there is no fault {text!r} with an offset; there are "
            f"{', '.join([*ALIASES, *sweepable(frozenset(Layer))])}"
        ) from None


class _Progress:
    """Says every few seconds how far a sweep is."""

    def __init__(self, sweep: "Sweep") -> None:
        self._sweep = sweep
        self._start_s = self._told_s = time.monotonic()

    def __call__(self) -> None:
        now_s = time.monotonic()
        if now_s - self._told_s < TELL_S:
            return
        self._told_s = now_s
        sweep = self._sweep
        rate = sweep.done / (now_s - self._start_s)
        broken = sum(len(one.wrong) for one in sweep.maps)
        left_s = (sweep.places - sweep.done) / rate
        print(
            f"{sweep.done:,} of {sweep.places:,} places, {rate:,.0f}/s, {broken} broken, "
            f"{left_s:.0f} s left",
            file=sys.stderr,
        )


def _keep(
    loader: "Target | RemoteTarget",
    streams: "list[Seed]",
    sweep: "Sweep",
    kind: "FaultKind",
    amount: int | None,
    out: Path | None,
) -> str:
    """Write the first finding of each signature; where they are, "" without any."""
    from loadfuzz.abc import RemoteTarget
    from loadfuzz.campaign.folder import new_folder
    from loadfuzz.findings import Earlier, Finding
    from loadfuzz.inputs import Input, digest_of
    from loadfuzz.repro.folder import write_finding
    from loadfuzz.storage import explain
    from loadfuzz.sweeps.places import input_at, mutation_of, stream_under

    broken = [(at, place) for at, one in enumerate(sweep.maps) for place in one.broken]
    if not broken:
        return ""
    try:
        if out is None:
            out = new_folder(f"sweep-{loader.name}")
        out.mkdir(parents=True, exist_ok=True)
        for at, place in broken:
            stream = streams[at].stream
            item = input_at(stream, kind, place.offset, amount)
            mutations: tuple[Mutation, ...] = ()
            if isinstance(loader, RemoteTarget):
                # It was given another stream; no fault happened around it.
                mutations = (mutation_of(item, loader.parse(stream)),)
                before = tuple(
                    stream_under(input_at(streams[seed].stream, kind, offset, amount))
                    for seed, offset in place.before
                )
                item = Input(stream_under(item), before=before)
            finding = Finding(
                target=loader.name,
                input=item,
                violation=place.violation,
                execution=place.execution,
                parent=digest_of(stream),
                parent_stream=stream,
                mutations=mutations,
                reliability=place.reliability,
                fault_words=place.words,
                earlier=tuple(Earlier() for _ in item.before),
            )
            write_finding(out, finding, _script(loader, finding))
    except OSError as error:
        raise explain(error, f"writing findings to {out}") from error
    return str(out)


def _script(loader: "Target | RemoteTarget", finding: "Finding") -> "Mapping[str, bytes]":
    """What the target adds to a finding, such as a script that does without us."""
    from loadfuzz.abc import BringsScript

    if not isinstance(loader, BringsScript):
        return {}
    try:
        return loader.script(finding)
    except Exception as error:
        # The finding matters more.
        print(f"no script for {finding.signature}: {error}", file=sys.stderr)
        return {}


def _draw(sweep: "Sweep", title: str, picture: Path) -> None:
    try:
        from loadfuzz.sweeps.picture import draw

        draw(sweep.maps, title, picture)
    except ImportError as error:
        raise UsageError(
            f"--picture needs matplotlib ({error}); install it with "
            "\"pip install 'loadfuzz[report]'\", or leave --picture away"
        ) from error
    print(f"drawn in {picture}", file=sys.stderr)


def _print(sweep: "Sweep", folder: str) -> None:
    from loadfuzz.sweeps.telling import details, table, wrong
    from loadfuzz.wording import count

    print("\n".join(table(sweep.maps)))
    some = [one for one in sweep.maps if one.broken] or sweep.maps
    if len(sweep.maps) > DETAILED_MAX:
        some = some[:DETAILED_MAX] if some is not sweep.maps else []
    told = [line for one in some for line in details(one)]
    if told:
        print()
        print("\n".join(told))
    lines = wrong(sweep.maps)
    print()
    if lines:
        print("\n".join(lines))
        wrong_places = sum(len(one.wrong) for one in sweep.maps)
        print(
            f"\n{count(wrong_places, 'place')} with a wrong verdict; the first of each kind is in "
            f"{folder}/findings, for loadfuzz replay"
        )
        return
    struck = sum(one.struck for one in sweep.maps)
    if not sweep.done:
        print("nothing was tried")
    elif not struck:
        print(f"{sweep.done:,} places, and no fault ever struck: this loader never comes to them")
    else:
        left = sweep.done - struck
        missed = f"; at {left:,} no fault struck" if left else ""
        print(f"{sweep.done:,} places, every expectation holds{missed}")


def _json_of(target: str, kind: "FaultKind", sweep: "Sweep", folder: str) -> str:
    from loadfuzz import codec
    from loadfuzz.sweeps.telling import as_json

    value = {
        "target": target,
        "fault": str(kind),
        "places": sweep.places,
        "done": sweep.done,
        "broken": sum(len(one.wrong) for one in sweep.maps),
        "folder": folder,
        "maps": [as_json(one) for one in sweep.maps],
    }
    return codec.encode(value).decode()
