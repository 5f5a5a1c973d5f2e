"""``loadfuzz inspect``: what is in a stream, also a damaged one."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import click

from loadfuzz import codec
from loadfuzz.cli.stream_file import check_file, parse_stream_file, taken_for_stream, unreadable
from loadfuzz.cli.stream_view import Options, View, printable, summary, title, wanted
from loadfuzz.errors import UsageError
from loadfuzz.exitcodes import ExitCode
from savevm.document import Document
from savevm.document.inspection import Inspection, as_json, describe


@click.command(name="inspect")
@click.argument(
    "files", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="FILE..."
)
@click.option("--json", "json_lines", is_flag=True, help="Print a JSON object a file, a line each.")
@click.option(
    "--fields/--no-fields",
    default=True,
    show_default=True,
    help="Show the fields of each section, or only the sections.",
)
@click.option("--section", metavar="NAME", help="Show only the sections of this name.")
@click.option("--hex", "hexdump", is_flag=True, help="Show the bytes of each field as well.")
def command(
    files: tuple[Path, ...], json_lines: bool, fields: bool, section: str | None, hexdump: bool
) -> int:  # fmt: skip
    """Show what is in a stream: sections, fields, RAM and vmdesc.

    Each line begins with an offset, that of a section also with the number that
    faults know it by (reset@section:3).  What a loader would refuse, or not
    look at, is marked with "!" where it is in the stream, and the rest is shown
    all the same.  The layout of the devices is taken from the stream's own
    vmdesc.

    \b
    Exit codes:  0 no problems, 1 problems, 2 a file cannot be inspected.
    Example:     loadfuzz inspect --section timer vm.stream
    """
    options = Options(fields, hexdump, section)
    problems = unusable = False
    found = section is None
    for number, path in enumerate(files):
        try:
            stream = open_stream(path)
        except UsageError as error:
            click.echo(f"loadfuzz: {error}", err=True)
            unusable = True
            continue
        if json_lines:
            click.echo(codec.encode(_json(stream, options)))
        else:
            if number:
                click.echo()
            for line in _text(stream, options):
                click.echo(line)
        problems = problems or bool(stream.inspection.problems)
        found = found or any(wanted(report, section) for report in stream.inspection.sections)
    if unusable:
        return ExitCode.USAGE
    if not found:
        raise UsageError(
            f"no section is called {section!r}; `loadfuzz inspect --no-fields` shows their names"
        )
    return ExitCode.FINDINGS if problems else ExitCode.CLEAN


@dataclass(frozen=True, slots=True)
class InspectedStream:
    """A file, its tree, and what there is to say about it."""

    path: Path
    document: Document
    inspection: Inspection


def open_stream(path: Path) -> InspectedStream:
    """Read and describe the stream in ``path``.

    Raises:
        UsageError: it cannot be inspected; says what to do.
    """
    check_file(path)
    try:
        document = parse_stream_file(path)
        return InspectedStream(path, document, describe(document))
    except OSError as error:
        raise unreadable(path, error) from error


def _text(stream: InspectedStream, options: Options) -> Iterator[str]:
    document, inspection = stream.document, stream.inspection
    yield title(str(stream.path), inspection)
    known = taken_for_stream(document)
    if known is not None:
        yield f"This is no stream but {known}."
    yield from View(inspection, document.problems, document.read, options).lines()
    yield summary(inspection)


def _json(stream: InspectedStream, options: Options) -> dict[str, object]:
    inspection = stream.inspection
    sections = (s for s in inspection.sections if wanted(s, options.section))
    if not options.fields:
        sections = (replace(section, fields=()) for section in sections)
    shape: dict[str, object] = {"file": printable(str(stream.path))}
    shape.update(as_json(replace(inspection, sections=tuple(sections))))
    return shape
