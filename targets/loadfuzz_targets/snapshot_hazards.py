"""What faults of disks do to snapshots, tried out: the tables of ``docs/snapshot-faults.md``.

``python -m loadfuzz_targets.snapshot_hazards`` prints them; a test holds the page to it.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from typing import Final

from loadfuzz.faults.kinds import FaultKind
from loadfuzz.faults.storage import Operation
from loadfuzz_targets.snapshot_scenario import COMMANDS, Scenario
from loadfuzz_targets.snapshot_sweep import KINDS, Harm, Sweep, Trial, Wreck
from savevm.profile import SEED, STRICT, Profile

DISKS: Final = (2, 3)
SHOWN_DISKS: Final = 2
"""Disks of the tables that show every step; a third one fares as the second does."""
_NOT_NOTICED: Final = "not noticed"
_REFUSED: Final = "refused"
_NO_SUCH: Final = "."
"""A kind that does not go with the operation."""


def tables() -> str:
    """All tables as Markdown."""
    return "\n".join(
        (
            *_titled("Every fault, counted", counts()),
            *_titled("The seed, step by step", seed_tables()),
            *_titled("Killed on the way", kill_tables()),
        )
    )


def _titled(title: str, lines: Iterable[str]) -> tuple[str, ...]:
    return (f"### {title}", "", *lines)


# -- counts ------------------------------------------------------------------------------


def counts() -> Iterator[str]:
    """How many faults there were, and what came of them."""
    yield "| profile | command | disks | steps | faults | refused, no harm | not noticed | harm |"
    yield "|---|---|---|---|---|---|---|---|"
    for profile in (STRICT, SEED):
        for disks in DISKS:
            scenario = Scenario(profile, disks)
            for command in COMMANDS:
                sweep = Sweep(scenario, command)
                trials = [trial for _, _, trial in sweep.single()]
                good = sum(bool(trial.seen.told) and not trial.harms for trial in trials)
                harmed = sum(bool(trial.harms) for trial in trials)
                yield (
                    f"| `{profile.name}` | `{command}` | {disks} | {len(sweep.operations)} | "
                    f"{len(trials)} | {good} | {len(trials) - good - harmed} | {harmed} |"
                )
    yield ""


# -- step by step --------------------------------------------------------------------------


def seed_tables() -> Iterator[str]:
    """What the seed does, a table for each command; steps that fare alike on one line."""
    scenario = Scenario(SEED, SHOWN_DISKS)
    met: set[Harm] = set()
    for command in COMMANDS:
        yield f"`{command}`:"
        yield ""
        yield f"| fault at | {' | '.join(f'`{kind}`' for kind in KINDS)} |"
        yield f"|{'---|' * (len(KINDS) + 1)}"
        rows: dict[tuple[str, ...], list[str]] = {}
        for place, trials in _steps(Sweep(scenario, command)):
            met.update(harm for trial in trials.values() for harm in trial.harms)
            row = (_cell(trials[kind]) if kind in trials else _NO_SUCH for kind in KINDS)
            rows.setdefault(tuple(row), []).append(f"`{place}`")
        for cells, places in rows.items():
            yield f"| {' '.join(places)} | {' | '.join(cells)} |"
        yield ""
    yield "where"
    yield ""
    yield f"- {_NOT_NOTICED}: success is told, and everything is as after a success;"
    yield f"- {_REFUSED}: an error is told, and everything is as before, or as after a success;"
    for harm in Harm:
        if harm in met:
            yield f"- {_word(harm)}: {harm};"
    yield f"- `{_NO_SUCH}`: the operation writes nothing that could be torn."
    yield ""


def _steps(sweep: Sweep) -> Iterator[tuple[Operation, dict[FaultKind, Trial]]]:
    for operation, tried in groupby(sweep.single(), key=lambda one: one[0]):
        yield operation, {kind: trial for _, kind, trial in tried}


def _cell(trial: Trial) -> str:
    if trial.harms:
        return ", ".join(map(_word, trial.harms))
    return _REFUSED if trial.seen.told else _NOT_NOTICED


def _word(harm: Harm) -> str:
    return harm.name.lower()


# -- killed --------------------------------------------------------------------------------


def kill_tables() -> Iterator[str]:
    """What the next process finds, for each command that changes lists."""
    for profile in (SEED, STRICT):
        scenario = Scenario(profile, SHOWN_DISKS)
        for command in COMMANDS:
            if not command.startswith("loadvm"):
                yield from _kill_table(profile, command, Sweep(scenario, command))


def _kill_table(profile: Profile, command: str, sweep: Sweep) -> Iterator[str]:
    name = command.split()[1]
    disks = " | ".join(f"`{name}` on hd{number}" for number in range(SHOWN_DISKS))
    yield f"`{command}`, `{profile.name}`:"
    yield ""
    yield f"| killed before | {disks} | `info snapshots` | `loadvm {name}` |"
    yield f"|{'---|' * (SHOWN_DISKS + 3)}"
    steps = [*map(str, sweep.operations), "the end"]
    for wreck, same in groupby(sweep.killed(), key=lambda one: one[1]):
        numbers = [number for number, _ in same]
        yield f"| {_span(steps, numbers)} | {' | '.join(wreck.parts)} | {_listed(wreck)} | " + (
            f"{wreck.loads or 'refused'} |"
        )
    yield ""


def _span(steps: Sequence[str], numbers: Sequence[int]) -> str:
    first, last = (steps[number] for number in (numbers[0], numbers[-1]))
    return f"`{first}`" if first == last else f"`{first}` ... `{last}`"


def _listed(wreck: Wreck) -> str:
    if wreck.hidden:
        return "**hidden**"
    if wreck.listed:
        return "shown"
    return "shown as partial" if any(part != "none" for part in wreck.parts) else "none"


if __name__ == "__main__":
    print(tables(), end="")
