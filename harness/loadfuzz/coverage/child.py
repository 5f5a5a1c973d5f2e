"""Replays streams under coverage.py: ``python -m loadfuzz.coverage.child REQUEST.json``.

A process of its own, since what was imported before coverage.py begins is not measured.
Prints a line for every stream; writes coverage.py's own JSON report, and HTML if asked.
"""

import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from loadfuzz import codec
from loadfuzz.exitcodes import ExitCode

LOAD_TIMEOUT_S = 5.0
"""CPU seconds that a load may take; measuring makes it several times slower."""


@dataclass(frozen=True, slots=True)
class Request:
    """What is to be replayed.

    Attributes:
        target: name of the target.
        packages: top-level packages that are measured.
        streams: files, one stream each.
        report: where coverage.py's JSON goes.
        html: folder for HTML, "" for none.
    """

    target: str
    packages: tuple[str, ...]
    streams: tuple[str, ...]
    report: str
    html: str


def main(arguments: Sequence[str]) -> int:
    """Entry point: the file with the request."""
    import coverage

    request = codec.decode(Path(arguments[0]).read_bytes(), Request)
    measured = coverage.Coverage(
        data_file=None, branch=True, source_pkgs=list(request.packages), config_file=False
    )
    measured.start()
    _replay(request)
    measured.stop()
    with suppress(coverage.exceptions.NoDataError):
        measured.json_report(outfile=request.report)
        if request.html:
            measured.html_report(directory=request.html, title=f"loadfuzz: {request.target}")
    return ExitCode.CLEAN


def _replay(request: Request) -> None:
    from loadfuzz.executors.guard import guarded_load
    from loadfuzz.executors.watchdog import Watchdog
    from loadfuzz.inputs import Input
    from loadfuzz.plugins import load_target

    target = load_target(request.target)
    with Watchdog(LOAD_TIMEOUT_S) as watchdog:
        subject = target.open()
        for name in request.streams:
            guarded_load(subject, Input(Path(name).read_bytes()), None, watchdog)
            subject.reset()
            print("done", flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
