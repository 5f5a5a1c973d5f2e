"""``loadfuzz report``: what a campaign found, and what it tried."""

from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from loadfuzz.exitcodes import ExitCode

if TYPE_CHECKING:
    from loadfuzz.reporters.matrix import DeviceRow, FieldRow
    from loadfuzz.reporters.status import Status

UNTRIED_SHOWN: Final = 8
"""Untried fields named per device; --json has all."""

_HELP = """\
Say what the campaign in FOLDER found, and which device and field it changed how
often, with what verdicts. What was never tried is named, too.

The matrix is kept for loaders in processes of their own (targets qemu and
command); for others there is 'loadfuzz coverage'.

\b
Examples:
  loadfuzz report nightly
  loadfuzz report nightly --device i8042     all fields of one device
  loadfuzz report nightly --json | jq '.devices[] | {device, untried}'

\b
Exit codes:  0 no findings, 1 findings, 2 FOLDER is no campaign's
"""


@click.command(name="report", help=_HELP)
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--device", metavar="NAME", help="Every field of this device.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")
def command(folder: Path, device: str | None, as_json: bool) -> int:
    """See the help text above."""
    from loadfuzz import codec
    from loadfuzz.errors import UsageError
    from loadfuzz.plugins import load_any_target
    from loadfuzz.reporters.matrix import fields_of_seeds, read_counts, rows
    from loadfuzz.reporters.status import status_of

    status = status_of(folder)
    known = fields_of_seeds(folder, load_any_target(status.target))
    devices = rows(read_counts(folder), known)
    if device is not None:
        devices = [row for row in devices if row.device == device]
        if not devices:
            raise UsageError(f"{folder} knows no device {device!r}; leave --device away for a list")
    if as_json:
        value = {"target": status.target, "findings": status.findings, "devices": devices}
        print(codec.encode(value).decode())
    elif device is not None:
        _print_fields(devices[0])
    else:
        _print(status, devices)
    return ExitCode.FINDINGS if status.findings else ExitCode.CLEAN


def _print(status: "Status", devices: "list[DeviceRow]") -> None:
    from loadfuzz.wording import count, printable, shorten

    print(f"{printable(status.target)}: {count(status.executions, 'execution')}")
    print(f"{count(len(status.findings), 'finding')}")
    for line in status.findings:
        print(f"  {shorten(line.error or line.title, 76)}")
        print(f"    {printable(line.folder)}")
    print()
    print(f"{'device':24} {'fields tried':>12} {'loads':>9} {'accepted':>9} {'refused':>8} "
          f"{'died':>5} {'hung':>5}")  # fmt: skip
    for row in devices:
        tried = len(row.fields)
        numbers = _numbers(row)
        print(f"{shorten(row.device, 24):24} {f'{tried}/{tried + len(row.untried)}':>12} {numbers}")
    untried = [path for row in devices for path in row.untried]
    print()
    if not untried:
        print("every field of the seeds was changed at least once")
        return
    print(f"never changed: {count(len(untried), 'field')}")
    for row in devices:
        for path in row.untried[:UNTRIED_SHOWN]:
            print(f"  {shorten(path, 76)}")
        if len(row.untried) > UNTRIED_SHOWN:
            print(f"  and {len(row.untried) - UNTRIED_SHOWN} more of {shorten(row.device, 40)}")


def _print_fields(row: "DeviceRow") -> None:
    from loadfuzz.wording import shorten

    print(f"{'field':36} {'loads':>9} {'accepted':>9} {'refused':>8} {'died':>5} {'hung':>5}")
    for field in row.fields:
        print(f"{shorten(field.path.partition('/')[2] or field.path, 36):36} {_numbers(field)}")
    for path in row.untried:
        print(f"{shorten(path.partition('/')[2] or path, 36):36} {'never changed':>9}")


def _numbers(row: "DeviceRow | FieldRow") -> str:
    verdicts = row.verdicts
    died = verdicts.get("crashed", 0) + verdicts.get("out-of-memory", 0)
    return (
        f"{row.loads:>9,} {verdicts.get('accepted', 0):>9,} {verdicts.get('rejected', 0):>8,} "
        f"{died:>5,} {verdicts.get('timed-out', 0):>5,}"
    )
