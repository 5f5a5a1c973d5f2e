"""``loadfuzz bench qemu``: how fast streams get into a real QEMU."""

import sys

import click

from loadfuzz.cli.params import number_within

_HELP = """\
Loads per second of a real QEMU: the persistent executor against a bare loop and against
a fresh process for each stream, and the pool of -incoming processes.

\b
Examples:
  loadfuzz bench qemu
  loadfuzz bench qemu --profile microvm --qemu ./qemu-system-x86_64 --json
  loadfuzz bench qemu --sanity 4000        load good streams, watch memory

Exit codes:  0 done, 2 wrong arguments, 3 QEMU cannot be started
"""


@click.command(name="qemu", help=_HELP)
@click.option(
    "--profile",
    "names",
    multiple=True,
    metavar="NAME",
    help="Machine profile; may be repeated (default: none, microvm and pc).",
)
@click.option("--qemu", "binary", metavar="PATH", help="Another QEMU binary.")
@click.option(
    "--sanity",
    type=number_within(100, 10**7),
    metavar="N",
    help="Instead: load each profile's own stream N times; all must be accepted, and no memory "
    "grow.",
)
@click.option("--json", "as_json", is_flag=True, help="Print {results: [...]} on stdout.")
def command(names: tuple[str, ...], binary: str | None, sanity: int | None, as_json: bool) -> None:
    """See the help text above."""
    from dataclasses import replace

    from loadfuzz.bench import qemu
    from loadfuzz.bench.qemu_sanity import measure as measure_sanity
    from loadfuzz.bench.results import Figure
    from loadfuzz.cli.figures import show
    from loadfuzz.errors import UsageError
    from loadfuzz.qemu.profiles import profiles

    if sanity is not None:
        show(measure_sanity(sanity, binary), as_json=as_json)
        return
    known = profiles()
    figures: list[Figure] = []
    for name in names or ("none", "microvm", "pc"):
        if name not in known:
            raise UsageError(f"no profile {name!r}; there are {', '.join(known)}")
        spec = known[name].spec()
        print(f"measuring {name} ...", file=sys.stderr, flush=True)
        figures += qemu.measure(name, spec if binary is None else replace(spec, binary=binary))
    show(figures, as_json=as_json)
