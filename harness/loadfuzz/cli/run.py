"""``loadfuzz run``: the main job."""

import asyncio
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from loadfuzz.campaign.batch import DEAR_SHARE, LOAD_TIMEOUT_S, Engine
from loadfuzz.campaign.settings import (
    SEED_BITS,
    TIME_DEFAULT_S,
    WORKERS_MAX,
    Settings,
    cores,
    random_seed,
)
from loadfuzz.cli.loaders import Wanted, given_last, loader_options, target_of
from loadfuzz.cli.params import ManyValues, duration_s, number_within
from loadfuzz.errors import UsageError
from loadfuzz.exitcodes import ExitCode

if TYPE_CHECKING:
    from collections.abc import Callable

    from loadfuzz.abc import Reporter
    from loadfuzz.campaign.crew import Course, Crew
    from loadfuzz.campaign.folder import CampaignFolder
    from loadfuzz.campaign.totals import Totals
    from loadfuzz.clock import Clock
    from loadfuzz.config import Config

TARGET_DEFAULT: Final = "reference"

CLUSTER_STALE_MIN_S: Final = 120.0
"""With a cluster, nothing can be said to be stale before: two batches of the longest kind."""

_HELP = """\
Fuzz TARGET (default: reference) until the budget is used up.

Streams are taken from the corpus, changed, and loaded; oracles judge what the
loader did. A finding is a folder with the stream, what was wrong, what was
changed, and the one command that replays it. The run goes on after a finding.
Ctrl-C stops it cleanly, twice at once.

\b
Examples:
  loadfuzz run                              the reference, 60 s, all cores
  loadfuzz run planted --time 30s           a target full of bugs
  loadfuzz run qemu:pc --time 15m           the QEMU on your PATH, as a pc
  loadfuzz run qemu:pc --qemu ./qemu-system-x86_64
                                            another one
  loadfuzz run --command './loader {input}' a program of yours
  loadfuzz run --execs 100k --workers 1 --engine native --seed 7
                                            the same event log every time
  loadfuzz run --seeds vm1.bin vm2.bin      start from these streams
  loadfuzz run --time 8h --out nightly      run again to go on with it
  loadfuzz status nightly                   how it goes, from another terminal
  loadfuzz run --shard 2/8 --out shared     one of eight jobs that share it
  loadfuzz run --cluster tcp://10.0.0.1:8786
                                            on all workers of a Dask scheduler
  loadfuzz run --json > result.json         for scripts; progress on stderr

Most options may stand in the environment (LOADFUZZ_TIME, LOADFUZZ_WORKERS, ...) and in
loadfuzz.toml, as may known findings to ignore and weights of operators.

\b
Exit codes:
  0  no finding            2  wrong arguments, or no usable seed
  1  findings              3  the harness failed; findings are kept
  130  interrupted, no finding
"""


def _configure(context: click.Context, _: click.Parameter, path: Path | None) -> "Config":
    """Read the file, and have its values stand behind those of the command line and the
    environment."""
    from loadfuzz.config import Config, find_config, read_config

    found = path or find_config(Path())
    config = Config() if found is None else read_config(found)
    for parameter in context.command.params:
        value = config.options.get(parameter.name or "")
        if isinstance(value, str):
            try:
                parameter.type.convert(value, parameter, context)
            except click.BadParameter as error:
                place = config.places[parameter.name or ""]
                raise UsageError(f"{place}: {error.message}") from error
    context.default_map = {**config.options}
    if config.path is not None:
        print(f"configured by {config.path}", file=sys.stderr)
    return config


@click.command(name="run", cls=ManyValues, help=_HELP)
@click.option(
    "--config",
    type=click.Path(path_type=Path),
    metavar="FILE",
    is_eager=True,
    callback=_configure,
    help="Defaults of these options (default: loadfuzz.toml here, or [tool.loadfuzz] in "
    "pyproject.toml).",
)
@click.argument("target", required=False)
@loader_options
@click.option(
    "--time",
    "seconds",
    envvar="LOADFUZZ_TIME",
    type=duration_s,
    metavar="TIME",
    help="Stop after 90s, 10m, 1h30m, ... (default 60s, if there is no --execs).",
)
@click.option(
    "--execs",
    envvar="LOADFUZZ_EXECS",
    type=number_within(1, 10**15),
    metavar="N",
    help="Stop after N executions.",
)
@click.option(
    "--until-stale",
    envvar="LOADFUZZ_UNTIL_STALE",
    type=duration_s,
    metavar="TIME",
    help="Stop when for TIME nothing new was kept in the corpus and nothing found; then "
    "there is no other limit, if you set none.",
)
@click.option(
    "--first-finding/--no-first-finding",
    default=False,
    help="Stop at the first finding that is not known yet.",
)
@click.option(
    "--load-timeout",
    envvar="LOADFUZZ_LOAD_TIMEOUT",
    type=duration_s,
    default=f"{LOAD_TIMEOUT_S:.0f}s",
    metavar="TIME",
    help="CPU time after which one load counts as a hang (default: "
    f"{LOAD_TIMEOUT_S:.0f}s; 50ms to 10s). Raise it where good streams take long, "
    "lower it to find slow loads.",
)
@click.option(
    "--workers",
    envvar="LOADFUZZ_WORKERS",
    type=number_within(1, WORKERS_MAX),
    metavar="N",
    help="Worker processes (default: one per core).",
)
@click.option(
    "--seed",
    envvar="LOADFUZZ_SEED",
    type=number_within(0, (1 << SEED_BITS) - 1),
    metavar="N",
    help="Random seed of the campaign (default: a new one, which is shown).",
)
@click.option(
    "--engine",
    envvar="LOADFUZZ_ENGINE",
    type=click.Choice(["atheris", "native", "auto"]),
    default="auto",
    help="What drives it (default: Atheris where it is installed).",
)
@click.option(
    "--seeds",
    multiple=True,
    metavar="PATH...",
    type=click.Path(path_type=Path),
    help="Start from these files, or the files in these directories, instead of the "
    "target's own streams.",
)
@click.option(
    "--out",
    envvar="LOADFUZZ_OUT",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="The campaign's folder (default: loadfuzz-out/TARGET-NNN).",
)
@click.option(
    "--fresh",
    is_flag=True,
    help="Do not go on with the campaign in --out, but start anew beside it, in DIR-2, DIR-3, ...",
)
@click.option(
    "--shard",
    envvar="LOADFUZZ_SHARD",
    metavar="I/N",
    help="Be the I-th of N runs, on any machines, that share --out and share --execs out.",
)
@click.option(
    "--cluster",
    envvar="LOADFUZZ_CLUSTER",
    metavar="ADDRESS",
    help="Have a Dask cluster do the work: the address of its scheduler, such as "
    "tcp://10.0.0.1:8786, or 'local' for one on this machine with --workers workers "
    "(extra cluster).",
)
@click.option(
    "--json",
    "as_json",
    is_flag=True,
    help="Print one JSON object on stdout at the end, all else on stderr.",
)
@click.option("--live/--no-live", default=None, help="Live screen, or a line every few seconds.")
@click.option("--quiet", "-q", is_flag=True, help="Only the summary.")
def command(
    config: "Config",
    target: str | None,
    qemu: str | None,
    command_line: str | None,
    function: str | None,
    loader_options: tuple[str, ...],
    seconds: float | None,
    execs: int | None,
    until_stale: float | None,
    first_finding: bool,
    load_timeout: float,
    workers: int | None,
    seed: int | None,
    engine: str,
    seeds: tuple[Path, ...],
    out: Path | None,
    fresh: bool,
    shard: str | None,
    cluster: str | None,
    as_json: bool,
    live: bool | None,
    quiet: bool,
) -> int:  # fmt: skip
    """See the help text above."""
    # Late, so that --help waits for none of it.
    from loadfuzz.campaign.folder import beside, open_folder
    from loadfuzz.plugins import TARGETS, check_target_name, find

    wanted = Wanted(qemu, command_line, function, loader_options)
    target = target_of(*given_last(target, wanted), TARGET_DEFAULT)
    check_target_name(target)
    for path in seeds:
        # --seeds takes all that follows it, and would set a target aside as a missing file.
        if str(path) in find(TARGETS) and not path.exists():
            raise UsageError(
                f"--seeds took {str(path)!r} for a file; name the target before it: "
                f"loadfuzz run {path} --seeds ..."
            )
    if seconds is None and execs is None and until_stale is None:
        seconds = TIME_DEFAULT_S
    workers = cores() if workers is None else workers
    if execs is not None:
        workers = min(workers, execs)
    settings = Settings(
        target=target,
        engine=None if engine == "auto" else Engine(engine),
        seed=random_seed() if seed is None else seed,
        workers=workers,
        seconds=seconds,
        executions=execs,
        seeds=tuple(map(str, seeds)),
        load_timeout_s=load_timeout,
        stale_s=until_stale,
        first_finding=first_finding,
        dear_share=DEAR_SHARE if config.dear_share is None else config.dear_share,
        operators=None if config.operators is None else dict(config.operators),
        ignore=config.ignore,
    )
    _check_operators(config)
    crew = _crew(cluster, shard, until_stale)
    if shard is not None:
        settings, folder = _shard(shard, settings, out, fresh=fresh)
    else:
        folder = open_folder(beside(out) if out is not None and fresh else out, target)
    return _run(settings, folder, crew, as_json=as_json, live=live, quiet=quiet)


def _shard(
    text: str, settings: Settings, out: Path | None, *, fresh: bool
) -> "tuple[Settings, CampaignFolder]":
    """What one shard is to do, and where.

    Raises:
        UsageError: there is no such shard, or no folder that it could share.
    """
    from loadfuzz.campaign.shard import open_shard, parse_shard

    try:
        shard = parse_shard(text)
    except ValueError as error:
        raise UsageError(f"--shard: {error}") from error
    if out is None or fresh:
        raise UsageError(
            "--shard wants the folder that all shards share: give the same --out to each of them, "
            "and no --fresh"
        )
    return shard.settings(settings), open_shard(out, shard, settings.target)


def _crew(
    cluster: str | None, shard: str | None, stale_s: float | None
) -> "Callable[[Course], Crew]":
    """Who is to do the work.

    Raises:
        UsageError: what a cluster needs is not installed.
    """
    from loadfuzz.campaign.local import LocalCrew

    if cluster is None:
        return LocalCrew
    try:
        from loadfuzz.campaign.cluster import ClusterCrew
    except ImportError as error:
        raise UsageError(
            f"--cluster needs Dask, which cannot be imported ({error}); install it with "
            "\"pip install 'loadfuzz[cluster]'\" (from a clone: \"pip install '.[cluster]'\"), or "
            "leave --cluster away"
        ) from error
    if shard is not None:
        raise UsageError("--shard and --cluster are two ways to share the work; choose one")
    if stale_s is not None and stale_s < CLUSTER_STALE_MIN_S:
        raise UsageError(
            f"--until-stale must be {CLUSTER_STALE_MIN_S:.0f} s or more with --cluster: news comes "
            "with the end of a batch"
        )
    print(f"the cluster {cluster} does the work", file=sys.stderr)
    return partial(ClusterCrew, address=cluster)


def _check_operators(config: "Config") -> None:
    """See that each name stands for an operator.

    Raises:
        UsageError: one does not.
    """
    from loadfuzz.mutators import ALL, sweep
    from loadfuzz.mutators.stack import chosen, factor_of

    if config.operators is None:
        return
    names = [*(operator.name for operator in ALL), sweep.OPERATOR, sweep.CUT_OPERATOR]
    for pattern in config.operators:
        if not any(factor_of(name, {pattern: 1}) for name in names):
            raise UsageError(
                f"{config.path}: operators: no operator is called {pattern!r}; "
                f"there are {', '.join(names)}"
            )
    if not chosen(ALL, config.operators):
        raise UsageError(
            f"{config.path}: operators: the sweeps alone come to an end; choose others, too"
        )


def _run(
    settings: Settings,
    folder: "CampaignFolder",
    crew: "Callable[[Course], Crew]",
    *,
    as_json: bool,
    live: bool | None,
    quiet: bool,
) -> int:
    from loadfuzz.campaign.resume import know_findings, notice_unannounced
    from loadfuzz.campaign.supervisor import Supervisor
    from loadfuzz.campaign.totals import Totals
    from loadfuzz.clock import SystemClock
    from loadfuzz.errors import LoadfuzzError
    from loadfuzz.reporters.jsonout import result, to_line
    from loadfuzz.reporters.ndjson import EventLog
    from loadfuzz.reporters.stats import StatsFiles
    from loadfuzz.reporters.summary import summary
    from loadfuzz.wording import count

    totals, clock = Totals(settings.ignore), SystemClock()
    screen = [] if quiet else [_screen(totals, clock, as_json=as_json, live=live)]
    supervisor = Supervisor(
        settings,
        folder,
        [*screen, EventLog(folder.events), StatsFiles(folder.path, totals, clock)],
        totals,
        crew=crew,
        clock=clock,
    )
    failure: LoadfuzzError | None = None
    with folder.locked(settings):
        know_findings(folder, totals)
        if folder.resumed and not quiet:
            print(
                f"going on with the campaign in {folder.shown}, which has "
                f"{count(len(totals.findings), 'finding')}",
                file=sys.stderr,
            )
        try:
            asyncio.run(supervisor.run())
        except LoadfuzzError as error:
            failure = error
        notice_unannounced(folder, totals)
        if totals.started is None:
            folder.discard()
            if failure is not None:
                raise failure
            print("interrupted before the first execution", file=sys.stderr)
            return ExitCode.INTERRUPTED
    people = sys.stderr if as_json else sys.stdout
    print(summary(totals, folder.shown), end="", file=people, flush=True)
    if as_json:
        value = result(totals, folder.shown, str(failure or ""))
        if value is not None:
            print(to_line(value), end="", flush=True)
    if failure is not None:
        raise failure
    if totals.findings:
        return ExitCode.FINDINGS
    return ExitCode.INTERRUPTED if supervisor.interrupted else ExitCode.CLEAN


def _screen(totals: "Totals", clock: "Clock", *, as_json: bool, live: bool | None) -> "Reporter":
    from rich.console import Console

    from loadfuzz.reporters.lines import Lines
    from loadfuzz.reporters.live import LiveScreen

    stream = sys.stderr if as_json else sys.stdout
    console = Console(file=stream, highlight=False)
    # A dumb terminal cannot move its cursor, whatever was asked for.
    able = console.is_terminal and not console.is_dumb_terminal
    if able and live is not False:
        return LiveScreen(console, totals, clock)
    return Lines(stream, totals, clock)
