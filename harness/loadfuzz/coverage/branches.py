"""Branches that no stream reached, and the field that guards each.

Which ones were not reached, coverage.py says; what guards them is read off the source:
the names in the condition, where it is about fields, roles or switches, and the class and
function around it.  It is a hint for people, and "-" where the source tells nothing.
"""

import ast
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

_BORING: Final = frozenset({"self", "cls", "f", "error", "errno", "append", "get", "items"})
"""Names that say nothing about which field decides."""
_NAMES_MAX: Final = 4


@dataclass(frozen=True, slots=True)
class Branch:
    """One way on from a line that nothing took.

    Attributes:
        file: as coverage.py names it.
        line: of the condition.
        to: line that was not gone to; below 0 for the function's end.
        condition: the source of the line.
        place: class and function around it, "" at module level.
        guard: fields and switches in the condition, "-" for none.
    """

    file: str
    line: int
    to: int
    condition: str
    place: str
    guard: str


@dataclass(frozen=True, slots=True)
class FileSummary:
    """One file.

    Attributes:
        file: as coverage.py names it.
        branches, reached: ways on from its conditions, and those that were taken.
    """

    file: str
    branches: int
    reached: int


class _Counts(msgspec.Struct):
    num_branches: int = 0
    covered_branches: int = 0


class _File(msgspec.Struct):
    summary: _Counts
    missing_branches: list[tuple[int, int]] = []


class _Report(msgspec.Struct):
    files: dict[str, _File]
    totals: _Counts


@dataclass(frozen=True, slots=True)
class Reached:
    """What a corpus reached.

    Attributes:
        files: each file that has branches.
        branches: those that were not reached, by file and line.
        covered, total: branches.
    """

    files: tuple[FileSummary, ...]
    branches: tuple[Branch, ...]
    covered: int
    total: int


def read(report: bytes) -> Reached:
    """What coverage.py's JSON report says, with guards.

    Raises:
        msgspec.DecodeError: it is no such report.
    """
    found = msgspec.json.decode(report, type=_Report)
    branches: list[Branch] = []
    for name, file in sorted(found.files.items()):
        if file.missing_branches:
            branches += _branches(name, Path(name).read_text(), file.missing_branches)
    return Reached(
        tuple(
            FileSummary(name, file.summary.num_branches, file.summary.covered_branches)
            for name, file in sorted(found.files.items())
            if file.summary.num_branches
        ),
        tuple(branches),
        found.totals.covered_branches,
        found.totals.num_branches,
    )


def _branches(name: str, source: str, missing: Sequence[tuple[int, int]]) -> Iterator[Branch]:
    lines = source.splitlines()
    tree = ast.parse(source)
    conditions, places = _conditions(tree), _places(tree)
    for line, to in sorted(missing):
        yield Branch(
            name, line, to, lines[line - 1].strip(), places.get(line, ""),
            guard_of(conditions.get(line)),
        )  # fmt: skip


def guard_of(condition: ast.expr | None) -> str:
    """Names in a condition that may be fields, roles or switches.

    >>> guard_of(ast.parse("s.num_timers > len(s.timers)", mode="eval").body)
    'num_timers, timers'
    """
    if condition is None:
        return "-"
    names: dict[str, None] = {}
    for node in ast.walk(condition):
        if isinstance(node, ast.Attribute):
            names.setdefault(node.attr)
    if not names:
        for node in ast.walk(condition):
            if isinstance(node, ast.Name):
                names.setdefault(node.id)
    kept = [name for name in names if name not in _BORING and not name.startswith("__")]
    return ", ".join(kept[:_NAMES_MAX]) or "-"


def _conditions(tree: ast.Module) -> Mapping[int, ast.expr]:
    """The condition or iterable that begins on each line."""
    found: dict[int, ast.expr] = {}
    for node in ast.walk(tree):
        if isinstance(node, (ast.If, ast.While, ast.IfExp)):
            found.setdefault(node.lineno, node.test)
        elif isinstance(node, (ast.For, ast.AsyncFor)):
            found.setdefault(node.lineno, node.iter)
        elif isinstance(node, ast.match_case):
            found.setdefault(node.pattern.lineno, node.guard or ast.Constant(None))
    return found


def _places(tree: ast.Module) -> Mapping[int, str]:
    """``Class.function`` around each line."""
    found: dict[int, str] = {}

    def visit(node: ast.AST, path: str) -> None:
        for child in ast.iter_child_nodes(node):
            inner = path
            if isinstance(child, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
                inner = f"{path}.{child.name}" if path else child.name
                for line in range(child.lineno, (child.end_lineno or child.lineno) + 1):
                    found[line] = inner
            visit(child, inner)

    visit(tree, "")
    return found
