"""``loadfuzz corpus``: collections of streams."""

import sys
from pathlib import Path

import click

from loadfuzz import codec
from loadfuzz.campaign.batch import LOAD_TIMEOUT_S
from loadfuzz.corpus import manifest as manifests
from loadfuzz.corpus.distill import Merged, open_store
from loadfuzz.corpus.distill import distill as choose
from loadfuzz.corpus.distill import merge as collect
from loadfuzz.corpus.streams import streams_in
from loadfuzz.corpus.verify import Judge
from loadfuzz.corpus.verify import verify as check
from loadfuzz.exitcodes import ExitCode
from loadfuzz.plugins import load_target
from loadfuzz.storage import explain

_EVERY: int = 500


@click.group(name="corpus")
def command() -> None:
    """Look after a collection of streams."""


@command.command(short_help="Check a corpus against its manifest.")
@click.argument("folder", type=click.Path(path_type=Path), default=Path("corpus"), metavar="[DIR]")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")
def verify(folder: Path, as_json: bool) -> int:
    """Check every stream of the corpus in DIR (default: corpus) against its manifest.

    Each file must have the digest that its row names, and the loader must
    answer what the row expects: accepted, or refused with that errno at that
    place.  Missing, damaged and extra files are named.

    \b
    Exit codes:  0 all is well, 1 something is off, 2 no such corpus.
    Example:     loadfuzz corpus verify corpus
    """
    manifest = manifests.read(folder)
    faults = check(folder, manifest, Judge(load_target(manifest.target)))
    rows = len(manifest.rows)
    bad = len({fault.file for fault in faults} & {row.file for row in manifest.rows})
    if as_json:
        click.echo(
            codec.encode(
                {
                    "folder": str(folder),
                    "target": manifest.target,
                    "streams": rows,
                    "good": rows - bad,
                    "problems": faults,
                }
            )
        )
    else:
        for fault in faults:
            click.echo(f"{folder / fault.file}: {fault.message}")
        click.echo(
            f"{folder}: {rows} streams, {rows - bad} as they should be"
            + (f", {len(faults)} problems" if faults else "")
        )
    return ExitCode.FINDINGS if faults else ExitCode.CLEAN


_SOURCES = click.argument(
    "sources", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="SOURCE..."
)
_JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")


@command.command(short_help="Put the streams of many folders into one.")
@click.argument("store", type=click.Path(path_type=Path), metavar="STORE")
@_SOURCES
@_JSON
def merge(store: Path, sources: tuple[Path, ...], as_json: bool) -> int:
    """Put every stream of SOURCE... into the folder STORE, each content once.

    A SOURCE is a stream, a folder of streams, or a campaign's folder.  In STORE a stream is
    named by its SHA-256, as in a campaign's corpus, so shards can share one.

    \b
    Exit codes:  0 done, 2 nothing to merge, or STORE is no such folder.
    Example:     loadfuzz corpus merge all campaign-1 campaign-2
    """
    try:
        merged = collect(streams_in(sources), open_store(store))
    except OSError as error:
        raise explain(error, f"merging into {store}") from error
    _tell(store, merged, as_json=as_json)
    return ExitCode.CLEAN


@command.command(short_help="Keep the smallest stream of each behaviour.")
@click.argument("store", type=click.Path(path_type=Path), metavar="STORE")
@_SOURCES
@click.option("--target", default="reference", show_default=True, help="Whose loader is watched.")
@_JSON
def distill(store: Path, sources: tuple[Path, ...], target: str, as_json: bool) -> int:
    """Put into STORE the smallest stream for each thing that SOURCE... show together.

    Every stream is loaded, the shortest first; it is kept if it shows an event, an order of
    devices, a depth or a verdict that none before it did.  SOURCE is as for merge; nothing
    is changed there.  Streams that crash the loader are named and not kept.

    \b
    Exit codes:  0 done, 1 some crashed the loader, 2 nothing to distil, or STORE is no
                 such folder.
    Example:     loadfuzz corpus distill small campaign
    """

    def told(done: int, total: int) -> None:
        if done % _EVERY == 0 or done == total:
            click.echo(f"{done} of {total} loaded", err=True)

    try:
        paths = streams_in(sources)
        merged = choose(load_target(target), paths, open_store(store), LOAD_TIMEOUT_S, told)
    except OSError as error:
        raise explain(error, f"distilling into {store}") from error
    for path in merged.failed:
        again = f"loadfuzz replay {path} --target {target}"
        click.echo(f"{path} crashes the loader or does not end; {again}", err=True)
    _tell(store, merged, as_json=as_json)
    return ExitCode.FINDINGS if merged.failed else ExitCode.CLEAN


def _tell(store: Path, merged: Merged, *, as_json: bool) -> None:
    if as_json:
        sys.stdout.buffer.write(codec.encode({"store": str(store), "results": merged}) + b"\n")
        return
    click.echo(
        f"{store}: {merged.kept:,} of {merged.streams:,} streams are new there "
        f"({merged.bytes_kept:,} bytes); {merged.known:,} were known"
    )
