"""``loadfuzz corpus``: is a collection of streams what it says it is."""

from pathlib import Path

import click

from loadfuzz import codec
from loadfuzz.corpus import manifest as manifests
from loadfuzz.corpus.verify import Judge
from loadfuzz.corpus.verify import verify as check
from loadfuzz.exitcodes import ExitCode
from loadfuzz.plugins import load_target


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
