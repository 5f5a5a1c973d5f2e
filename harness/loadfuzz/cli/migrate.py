"""``loadfuzz migrate``: live migration between two real QEMUs while things go wrong."""

import asyncio
import sys
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from loadfuzz.cli.params import duration_s, number_within
from loadfuzz.errors import LoadfuzzError, UsageError
from loadfuzz.exitcodes import ExitCode

if TYPE_CHECKING:
    from loadfuzz.faults.plan import FaultPlan
    from loadfuzz.qemu.machine import MachineSpec
    from loadfuzz.qemu.migration_run import Row, Tally
    from loadfuzz.qemu.storage_run import StorageRow, StorageTally

TARGET_DEFAULT: Final = "qemu:pc"
COUNT_DEFAULT: Final = 100
COUNT_MAX: Final = 1_000_000
TELL_S: Final = 5.0
"""Seconds between two words on how far it is."""

_HELP = """\
Migrate a machine from one QEMU to another, again and again, while the connection between
them fails, the migration is cancelled, or one of the two is killed. TARGET is qemu:PROFILE
(default: qemu:pc), as for 'loadfuzz run'.

Afterwards both are asked what became of it, and one of them is told to run, as a manager
of virtual machines does: the guest must run on one side and never on both, and a source
whose migration failed must migrate again. What is known of plain migration and looks
wrong is counted by name. A finding is a folder with what went wrong.

With --storage nothing is migrated: the disk fails under loadvm, savevm and delvm, by
QEMU's own blkdebug.

\b
Examples:
  loadfuzz migrate qemu:microvm --count 500
  loadfuzz migrate qemu:pc --qemu ./qemu-system-x86_64 --time 10m --seed 7
  loadfuzz migrate qemu:pc --plan 'half-close@section:3' --count 5
  loadfuzz migrate qemu:pc --plan kill@step:7      even: the source's steps,
                                                   odd: the destination's
  loadfuzz migrate qemu:microvm --storage --only load/

\b
Exit codes:
  0  every promise kept    2  wrong arguments
  1  findings              3  the harness failed; findings are kept
  130  interrupted, no finding
"""


@click.command(name="migrate", help=_HELP)
@click.argument("target", required=False)
@click.option("--qemu", metavar="PATH", help="Another QEMU binary.")
@click.option(
    "--count",
    type=number_within(1, COUNT_MAX),
    metavar="N",
    help=f"Migrations (default: {COUNT_DEFAULT}, with --time as many as that takes; with "
    "--storage all faults).",
)
@click.option("--time", "seconds", type=duration_s, metavar="TIME", help="Stop after that.")
@click.option(
    "--seed",
    type=number_within(0, 1 << 32),
    default="1",
    metavar="N",
    help="Random seed of the faults (default: 1).",
)
@click.option(
    "--plan",
    "plan_text",
    metavar="FAULTS",
    help="These faults each time, such as 'reset@byte:4711 cancel@step:3', instead of random ones.",
)
@click.option(
    "--autostart",
    is_flag=True,
    help="Destinations run as soon as they have the guest, as without -S.",
)
@click.option("--storage", is_flag=True, help="Failing disks instead of failing migrations.")
@click.option(
    "--only",
    metavar="TEXT",
    default="",
    help="With --storage: faults that have TEXT in their name.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Keep findings there (default: a new folder, if there are any).",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")
def command(
    target: str | None,
    qemu: str | None,
    count: int | None,
    seconds: float | None,
    seed: int,
    plan_text: str | None,
    autostart: bool,
    storage: bool,
    only: str,
    out: Path | None,
    as_json: bool,
) -> int:
    """See the help text above."""
    from loadfuzz.cli.loaders import Wanted, target_of

    wanted = target_of(target, Wanted(qemu=qemu), TARGET_DEFAULT)
    if out is not None and out.exists() and not out.is_dir():
        raise UsageError(f"--out {out} is no folder; name one, or a place for one")
    if storage:
        if plan_text is not None or autostart:
            raise UsageError("--plan and --autostart are for migrations; leave --storage out")
        return _storage(wanted, count, seconds, only, out, as_json=as_json)
    if only:
        raise UsageError("--only chooses among the faults of --storage; use --plan")
    plan = None if plan_text is None else _plan_of(plan_text)
    if count is None:
        count = COUNT_DEFAULT if seconds is None else COUNT_MAX
    return _migrate(wanted, count, seconds, seed, plan, out, autostart=autostart, as_json=as_json)


def _migrate(
    target: str,
    count: int,
    seconds: float | None,
    seed: int,
    plan: "FaultPlan | None",
    out: Path | None,
    *,
    autostart: bool,
    as_json: bool,
) -> int:
    from loadfuzz.cli.migrate_told import json_of, summary
    from loadfuzz.qemu.migration_run import Settings, Tally, run

    target, spec = _machine(target)
    tally = Tally(tell=_Progress(count if seconds is None else None))
    settings = Settings(target, spec, count, seconds, seed, autostart, plan, _folder(out, target))

    def tell() -> None:
        if as_json:
            print(json_of(target, tally, seed=seed, autostart=autostart))
        else:
            print("\n".join(summary(tally)))

    interrupted = _run(lambda folder: run(settings, folder, tally), tally, tell)
    if plan and tally.rows and not tally.struck:
        print(
            f"warning: [{plan}] never struck: the migration was over before, or never came to "
            "that place; use an earlier one",
            file=sys.stderr,
            flush=True,
        )
    return _code(tally.findings, interrupted=interrupted)


def _storage(
    target: str,
    count: int | None,
    seconds: float | None,
    only: str,
    out: Path | None,
    *,
    as_json: bool,
) -> int:
    from loadfuzz.cli.migrate_told import storage_json_of, storage_summary
    from loadfuzz.qemu.storage_run import StorageSettings, StorageTally, run

    target, spec = _machine(target)
    settings = StorageSettings(target, spec, count, seconds, only, _folder(out, target))
    total = len(settings.faults())
    if not total:
        raise UsageError(f"no fault of storage has {only!r} in its name; try load/ or vmstate_load")
    tally = StorageTally(tell=_Progress(total if seconds is None else None))

    def tell() -> None:
        if as_json:
            print(storage_json_of(target, tally))
        else:
            print("\n".join(storage_summary(tally)))

    interrupted = _run(lambda folder: run(settings, folder, tally), tally, tell)
    return _code(tally.findings, interrupted=interrupted)


def _folder(out: Path | None, target: str) -> Callable[[], Path]:
    """Where findings go: asked for when there is one, and the same each time."""
    from functools import cache

    from loadfuzz.campaign.folder import new_folder

    return cache(lambda: new_folder(f"migrate-{target}") if out is None else out)


def _run(
    start: Callable[[Path], Coroutine[None, None, None]],
    tally: "Tally | StorageTally",
    tell: Callable[[], None],
) -> bool:
    """Run to the end, and tell what there is, however that came; whether it was interrupted.

    Raises:
        LoadfuzzError: it could not go on; what was run until then is told.
    """
    import tempfile

    interrupted = False
    try:
        with tempfile.TemporaryDirectory(prefix="loadfuzz-") as folder:
            asyncio.run(start(Path(folder)))
    except KeyboardInterrupt:
        print(f"interrupted after {len(tally.rows)}; until then:", file=sys.stderr, flush=True)
        interrupted = True
    except LoadfuzzError:
        if tally.rows:
            tell()
        raise
    tell()
    return interrupted


def _code(findings: Mapping[str, object], *, interrupted: bool) -> int:
    if findings:
        return ExitCode.FINDINGS
    return ExitCode.INTERRUPTED if interrupted else ExitCode.CLEAN


def _machine(target: str) -> "tuple[str, MachineSpec]":
    """The target's full name and its machine.

    Raises:
        UsageError: it is no QEMU.
    """
    from loadfuzz.plugins import load_any_target
    from loadfuzz.qemu.machine import MachineSpec

    if target == "qemu":
        target = TARGET_DEFAULT
    found: object = load_any_target(target)
    spec: object = getattr(found, "spec", None)
    if not isinstance(spec, MachineSpec):
        raise UsageError(f"{target} is no QEMU machine; name one, such as {TARGET_DEFAULT}")
    return target, spec


def _plan_of(text: str) -> "FaultPlan":
    from loadfuzz.faults.kinds import FaultKind, Layer, PlaceKind
    from loadfuzz.faults.plan import FaultPlan, fault_of

    plan = FaultPlan(tuple(fault_of(word) for word in text.split()))
    plan.check()
    for fault in plan.faults:
        process = fault.kind in (FaultKind.KILL, FaultKind.CANCEL)
        if fault.layer is not Layer.TRANSPORT and not process:
            raise UsageError(f"{fault} cannot be done to a QEMU; use faults of the connection")
        if fault.place.kind in (PlaceKind.FIELD, PlaceKind.WRITE):
            raise UsageError(
                f"{fault}: what a running machine will send is not known; use byte, section or read"
            )
    return plan


class _Progress:
    """A word on stderr every few seconds, and for everything that broke a promise."""

    def __init__(self, total: int | None) -> None:
        import time

        self._clock = time.monotonic
        self._total = "" if total is None else f" of {total}"
        self._told_s = self._clock()
        self._done = 0
        self._bad = 0

    def __call__(self, row: "Row | StorageRow") -> None:
        self._done += 1
        if row.violations:
            self._bad += 1
            what = getattr(row, "plan", None) or getattr(row, "fault", "")
            print(f"{what}: {', '.join(row.violations)}", file=sys.stderr, flush=True)
        if self._clock() - self._told_s >= TELL_S:
            self._told_s = self._clock()
            bad = f", {self._bad} broke a promise" if self._bad else ""
            print(f"{self._done}{self._total}{bad}", file=sys.stderr, flush=True)
