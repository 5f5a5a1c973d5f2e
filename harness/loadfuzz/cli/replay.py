"""``loadfuzz replay``: does it happen again?"""

import asyncio
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from loadfuzz.cli.params import number_within
from loadfuzz.errors import UsageError
from loadfuzz.exitcodes import ExitCode

if TYPE_CHECKING:
    from loadfuzz.faults.plan import FaultPlan
    from loadfuzz.findings import Finding, Violation
    from loadfuzz.inputs import Input
    from loadfuzz.repro.again import Run
    from loadfuzz.repro.replay import Replayed

RUNS_DEFAULT = 5
RUNS_MAX = 1000
TARGET_DEFAULT = "reference"

_HELP = """\
Run the finding in FOLDER again, or any stream in a file, and say what happens.

Each run has a fresh loader, in a process that is not this one. A finding
reproduces when the same oracle says the same about the same place.

\b
Examples:
  loadfuzz replay loadfuzz-out/planted-001/findings/NAME
  loadfuzz replay FOLDER -n 50           how reliable is it?
  loadfuzz replay FOLDER --target mine   does my loader do it too?
  loadfuzz replay FOLDER --qemu OLD --qemu NEW
                                         in which of these binaries?
  loadfuzz replay vm.bin                 what do the oracles say of a stream?
  loadfuzz replay vm.bin --fault reset@section:2
                                         what if the connection breaks there?

\b
Exit codes:
  0  it did not happen   2  FOLDER is no finding; says why
  1  it happened         3  the target cannot be run
"""


@dataclass(frozen=True, slots=True)
class Subject:
    """What is to be run.

    Attributes:
        target: name of the target.
        item: the input.
        finding: it belongs to, ``None`` for a mere stream.
    """

    target: str
    item: "Input"
    finding: "Finding | None"


@click.command(name="replay", help=_HELP)
@click.argument("path", metavar="FOLDER|FILE", type=click.Path(path_type=Path))
@click.option("--target", metavar="NAME", help="Run it there (default: where it was found).")
@click.option(
    "-n",
    "--runs",
    type=number_within(1, RUNS_MAX),
    default=str(RUNS_DEFAULT),
    metavar="N",
    help=f"How often (default: {RUNS_DEFAULT}).",
)
@click.option(
    "--qemu",
    "binaries",
    multiple=True,
    metavar="PATH",
    help="Run it in this QEMU binary instead; with several, a table says on which it happens.",
)
@click.option(
    "--fault",
    "faults",
    multiple=True,
    metavar="FAULT",
    help="Let this go wrong meanwhile, such as reset@byte:4711; 'none' for nothing.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")
def command(
    path: Path,
    target: str | None,
    runs: int,
    binaries: tuple[str, ...],
    faults: tuple[str, ...],
    as_json: bool,
) -> int:
    """See the help text above."""
    # Late, so that --help waits for none of it.
    from loadfuzz.plugins import check_target_name

    subject = _read(path, target)
    if faults:
        subject = _with_faults(subject, faults)
    check_target_name(subject.target)
    if len(binaries) > 1:
        return _on_each(path, subject, binaries, runs, as_json=as_json)
    if binaries:
        subject = _with_binary(subject, binaries[0])
    replayed = _replay(path, subject, runs, as_json=as_json)
    if as_json:
        print(_to_json(_json_of(path, subject, replayed)))
    return ExitCode.FINDINGS if replayed.reproduced else ExitCode.CLEAN


def _with_faults(subject: Subject, texts: tuple[str, ...]) -> Subject:
    from loadfuzz.faults.plan import FaultPlan, fault_of

    plan = FaultPlan() if texts == ("none",) else FaultPlan(tuple(map(fault_of, texts)))
    plan.check()
    return replace(subject, item=replace(subject.item, faults=plan))


def _with_binary(subject: Subject, binary: str) -> Subject:
    from loadfuzz.cli.loaders import with_machine, with_qemu
    from loadfuzz.qemu.machinetype import type_of

    target = with_qemu(subject.target, binary)
    if subject.finding is not None:
        # An alias is another machine in another release, which refuses the stream.
        target = with_machine(target, type_of(subject.finding))
    return replace(subject, target=target)


def _on_each(
    path: Path, subject: Subject, binaries: tuple[str, ...], runs: int, *, as_json: bool
) -> int:
    """Run it in each binary, and say on which it happens.  One that cannot be run says so
    in its row; the others are run all the same."""
    from loadfuzz.errors import LoadfuzzError

    rows: list[tuple[str, str]] = []
    results: list[dict[str, object]] = []
    reproduced = failed = False
    for binary in binaries:
        one = _with_binary(subject, binary)
        try:
            replayed = _replay(path, one, runs, as_json=as_json)
        except LoadfuzzError as error:
            failed = True
            rows.append((binary, f"cannot be run: {error}"))
            results.append({"qemu": binary, "target": one.target, "error": str(error)})
            continue
        reproduced = reproduced or bool(replayed.reproduced)
        rows.append((binary, _cell(replayed)))
        results.append({"qemu": binary, **_json_of(path, one, replayed)})
        if not as_json:
            print()
    if as_json:
        print(_to_json({"path": str(path), "binaries": results}))
    else:
        width = max(len(binary) for binary, _ in rows)
        for binary, words in rows:
            print(f"{binary:<{width}}  {words}")
    if failed and not reproduced:
        return ExitCode.MACHINERY
    return ExitCode.FINDINGS if reproduced else ExitCode.CLEAN


def _cell(replayed: "Replayed") -> str:
    """How often it happened in one binary, and what else did."""
    from loadfuzz.wording import shorten

    done, runs = replayed.reproduced, len(replayed.runs)
    rest = [run for run in replayed.runs if not _shown_by(run, replayed)]
    if not rest:
        return f"{done}/{runs}"
    other = [run for run in rest if run.violations]
    if other:
        what = shorten(other[0].violations[0].title, 50)
        return f"{done}/{runs}, but fails otherwise {len(other)}/{runs}: {what}"
    return f"{done}/{runs}, {rest[0].kind}: {shorten(rest[0].text, 50)}".rstrip(": ")


def _shown_by(run: "Run", replayed: "Replayed") -> bool:
    from loadfuzz.repro.replay import shows

    return shows(run, replayed.wanted)


def _replay(path: Path, subject: Subject, runs: int, *, as_json: bool) -> "Replayed":
    """Run it, and print each run as it is done unless that is for a script."""
    from loadfuzz.campaign.batch import LOAD_TIMEOUT_S
    from loadfuzz.repro.replay import replay

    found = subject.finding
    wanted = found.violation if found is not None else None
    if not as_json:
        _print_head(path, subject)
    printer = _Printer(wanted, subject.item.faults)
    replayed = asyncio.run(
        replay(
            subject.target,
            subject.item,
            runs,
            wanted=wanted,
            tell=(lambda run: None) if as_json else printer,
            load_timeout_s=LOAD_TIMEOUT_S if found is None else found.load_timeout_s,
        )
    )
    if not as_json:
        what = "reproduced" if wanted is not None else "an oracle objected"
        print(f"\n{what} {replayed.reproduced}/{len(replayed.runs)}")
    return replayed


def _read(path: Path, target: str | None) -> Subject:
    from loadfuzz.inputs import Input
    from loadfuzz.repro.folder import INPUT, MANIFEST, read_finding

    if path.is_file() and path.name == MANIFEST:
        path = path.parent
    elif path.is_file() and path.name == INPUT and (path.parent / MANIFEST).is_file():
        path = path.parent  # a finding's input, which inspect takes
    if path.is_dir():
        if (path / "campaign.json").is_file():
            raise UsageError(f"{path} is a campaign; replay one of its findings: {_some(path)}")
        finding = read_finding(path)
        if finding.again and target is None:
            raise UsageError(
                f"{path} takes more than loading a stream; this shows it again: {finding.again}"
            )
        return Subject(target or finding.target, finding.input, finding)
    return Subject(target or TARGET_DEFAULT, Input(_read_stream(path)), None)


def _some(campaign: Path) -> str:
    try:
        names = sorted(os.listdir(campaign / "findings"))
    except OSError:
        names = []
    if not names:
        return "it has none"
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(str(campaign / "findings" / name) for name in names[:3]) + more


def _read_stream(path: Path) -> bytes:
    from loadfuzz.campaign.seeding import BadSeed, read_regular
    from loadfuzz.inputs import STREAM_SIZE_MAX

    found = read_regular(path, STREAM_SIZE_MAX)
    if isinstance(found, BadSeed):
        raise UsageError(f"{found.name} {found.reason}")
    stream, size = found
    if size > STREAM_SIZE_MAX:
        raise UsageError(f"{path} has {size:,} bytes; inputs have at most {STREAM_SIZE_MAX:,}")
    return stream


def _print_head(path: Path, subject: Subject) -> None:
    from loadfuzz.wording import printable

    print(f"{path}: {len(subject.item.stream)} bytes, on target {subject.target}")
    if subject.finding is not None:
        violation = subject.finding.violation
        place = f" at {violation.path}" if violation.path else ""
        print(f"looking for: {printable(f'{violation.oracle}{place}: {violation.title}')}")
    print()


class _Printer:
    """Prints each run; equal ones in a row only as a number."""

    def __init__(self, wanted: "Violation | None", plan: "FaultPlan") -> None:
        self._wanted = wanted
        self._plan = plan
        self._last: list[str] = []

    def __call__(self, run: "Run") -> None:
        from loadfuzz.repro.replay import shows

        lines = _lines_of(run)
        if self._plan:
            told = ", ".join(run.struck) or "nothing: none of the faults came to its place"
            lines.append(f"struck: {told}")
        mark = "again" if shows(run, self._wanted) else "not"
        if self._wanted is None:
            mark = "objection" if run.violations else "fine"
        if lines == self._last:
            print(f"run {run.number + 1}: {mark}: the same", flush=True)
            return
        self._last = lines
        print(f"run {run.number + 1}: {mark}: {lines[0]}")
        for line in lines[1:]:
            print(f"  {line}")
        print(end="", flush=True)


def _lines_of(run: "Run") -> list[str]:
    from loadfuzz.wording import printable

    depth = run.depth.name.lower().replace("_", " ")
    text = f": {run.text}" if run.text else ""
    lines = [f"{run.kind} (as far as: {depth}){text}"]
    for violation in run.violations:
        place = f" at {violation.path}" if violation.path else ""
        lines += [
            f"{violation.oracle}{place}: {violation.title}",
            f"  expected {violation.expected}",
            f"  actual   {violation.actual}",
        ]
    lines += [f"warning: {failure}" for failure in run.failures]
    return [printable(line) for line in lines]


def _to_json(value: object) -> str:
    from loadfuzz import codec

    return codec.encode(value).decode()


def _json_of(path: Path, subject: Subject, replayed: "Replayed") -> dict[str, object]:
    finding = subject.finding
    return {
        "path": str(path),
        "target": subject.target,
        "input": subject.item.digest,
        "size": len(subject.item.stream),
        "signature": finding.signature if finding is not None else None,
        "runs": len(replayed.runs),
        "reproduced": replayed.reproduced,
        "results": [
            {
                "kind": run.kind.value,
                "depth": run.depth.name.lower(),
                "text": run.text,
                "violations": [
                    {
                        "oracle": violation.oracle,
                        "signature": violation.signature,
                        "title": violation.title,
                        "expected": violation.expected,
                        "actual": violation.actual,
                        "path": violation.path,
                    }
                    for violation in run.violations
                ],
                "failures": list(run.failures),
                "struck": list(run.struck),
            }
            for run in replayed.runs
        ],
    }
