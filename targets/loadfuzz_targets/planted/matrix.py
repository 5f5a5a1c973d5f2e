"""Which oracles ring for which planted bug, tried out: the tables of ``docs/oracles.md``.

``python -m loadfuzz_targets.planted.matrix`` prints them; a test holds the page to it.
"""

from typing import Final

from loadfuzz.executors.guard import SubjectError
from loadfuzz.executors.inprocess import InProcessExecutor
from loadfuzz.executors.watchdog import Watchdog
from loadfuzz.inputs import Input
from loadfuzz.oracles import ALL, PROMISES
from loadfuzz_targets.planted.bug import PlantedBug
from loadfuzz_targets.planted.manifest import BUGS
from loadfuzz_targets.planted.target import PlantedTarget

_TRIED: Final = tuple(oracle for oracle in ALL if oracle is not PROMISES)
"""Loaders promise nothing beyond a load; the target ``migration`` has bugs of its own for that."""

LOAD_TIMEOUT_S: Final = 0.3
"""CPU seconds after which a load counts as a hang: the examples of hangs never end."""


def ringing(bug: PlantedBug, watchdog: Watchdog) -> tuple[str, ...]:
    """Names of the oracles that ring for the bug's example while it is planted alone."""
    target = PlantedTarget((bug,), f"planted:{bug.name}")
    trial = InProcessExecutor(target, watchdog).execute(Input(bug.example()))
    rang: list[str] = []
    for oracle in _TRIED:
        try:
            violation = oracle.judge(trial)
        except SubjectError:
            rang.append(oracle.name)
        else:
            if violation is not None:
                rang.append(oracle.name)
    return tuple(rang)


def tables() -> str:
    """Both tables as Markdown: oracles with the bugs that each alone detects, and bugs."""
    with Watchdog(LOAD_TIMEOUT_S) as watchdog:
        rang = {bug.name: ringing(bug, watchdog) for bug in BUGS}
    lines = ["| oracle | promise | asked of | detects alone |", "|---|---|---|---|"]
    for oracle in _TRIED:
        alone = [f"`{name}`" for name, names in rang.items() if names == (oracle.name,)]
        lines.append(f"| `{oracle.name}` | {oracle.promise} | {oracle.cost} | {', '.join(alone)} |")
    lines += [
        "",
        "| class | planted bug | device: field | rings when | oracle | also ring | mirrors |",
        "|---|---|---|---|---|---|---|",
    ]
    for bug in BUGS:
        row = bug.row
        others = ", ".join(f"`{name}`" for name in rang[bug.name] if name != row.oracle)
        lines.append(
            f"| {row.bug_class} | `{row.name}` | {row.device}: {row.field} | {row.trigger} | "
            f"`{row.oracle}` | {others} | {row.mirrors} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(tables(), end="")
