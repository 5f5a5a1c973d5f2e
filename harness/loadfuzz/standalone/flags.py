"""The part of libFuzzer's command line that we need to understand ourselves."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from loadfuzz.errors import UsageError


@dataclass(frozen=True, slots=True)
class Flags:
    """A command line of libFuzzer.

    Attributes:
        files: inputs to run once each.
        folders: corpora, the first of which takes new entries.
        passed: every flag as it was given, for libFuzzer.
        runs: executions at the most, ``None`` for no bound.
        seconds: of wall-clock time at the most, ``None`` for no bound.
        seed: of randomness, ``None`` to draw one.
        artifacts: prefix of the names of what is written.
    """

    files: tuple[Path, ...]
    folders: tuple[Path, ...]
    passed: tuple[str, ...]
    runs: int | None
    seconds: float | None
    seed: int | None
    artifacts: str


def parse(arguments: Sequence[str]) -> Flags:
    """Take a command line apart.

    Raises:
        UsageError: a number is none, or a path is not there.
    """
    passed = tuple(word for word in arguments if word.startswith("-") and word != "--")
    paths = [Path(word) for word in arguments if not word.startswith("-")]
    for path in paths:
        if not path.exists():
            raise UsageError(f"{path} does not exist; make the folder first, as libFuzzer wants it")
    values = dict(_pair(word) for word in passed)
    runs = _number(values, "-runs")
    seconds = _number(values, "-max_total_time")
    seed = _number(values, "-seed")
    return Flags(
        files=tuple(path for path in paths if not path.is_dir()),
        folders=tuple(path for path in paths if path.is_dir()),
        passed=passed,
        runs=None if runs is None or runs < 0 else runs,
        seconds=float(seconds) if seconds else None,
        seed=seed or None,
        artifacts=values.get("-artifact_prefix", ""),
    )


def _pair(word: str) -> tuple[str, str]:
    name, _, value = word.partition("=")
    return name, value


def _number(values: dict[str, str], name: str) -> int | None:
    text = values.get(name)
    if text is None:
        return None
    try:
        return int(text)
    except ValueError:
        raise UsageError(f"{name} wants a whole number, not {text!r}") from None
