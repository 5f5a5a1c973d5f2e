"""``loadfuzz doctor``: what is here, what is missing, what that costs, how to get it."""

import click

from loadfuzz import codec
from loadfuzz.exitcodes import ExitCode
from loadfuzz.wording import printable


@click.command(name="doctor")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")
def command(as_json: bool) -> int:
    """Say what is installed, what each missing piece costs, and how to get it.

    \b
    Exit codes:  0 the main job can run (pieces may be missing), 3 it cannot.
    """
    from loadfuzz.cli.checkup import State, examine

    checks = examine()
    if as_json:
        print(codec.encode({"checks": checks}).decode())
    else:
        width = max(len(check.name) for check in checks)
        for check in checks:
            print(f"{check.state:<8}{check.name:<{width}}  {printable(check.found)}")
            if check.costs:
                print(f"{'':<{8 + width}}  costs: {check.costs}")
            if check.get:
                print(f"{'':<{8 + width}}  get it: {check.get}")
    broken = any(check.state is State.BROKEN for check in checks)
    return ExitCode.MACHINERY if broken else ExitCode.CLEAN
