"""How a benchmark's figures are shown."""

import sys
from collections.abc import Sequence

import msgspec
from rich.console import Console
from rich.table import Table

from loadfuzz.bench.results import Figure


def show(figures: Sequence[Figure], *, as_json: bool) -> None:
    """Print figures as a table, or as one JSON object ``{results: [...]}``."""
    if as_json:
        sys.stdout.buffer.write(msgspec.json.encode({"results": figures}) + b"\n")
        return
    table = Table("name", "value", "baseline", "ratio", "goal", box=None)
    for item in figures:
        unit = item.unit
        table.add_row(
            item.name,
            f"{item.value:,.1f} {unit}",
            f"{item.baseline:,.1f} {unit}",
            f"{item.ratio:.2f}",
            "" if item.goal is None else f">= {item.goal:g}",
        )
    console = Console()
    console.print(table)
    console.print("\nA ratio is better the higher it is; one below its goal misses it.")
    for item in figures:
        if item.note:
            console.print(f"{item.name}: compared with {item.note}", highlight=False)
