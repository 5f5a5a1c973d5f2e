"""Collects the streams of a corpus and has them replayed under coverage.py."""

import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path

from loadfuzz import codec
from loadfuzz.corpus.streams import streams_in
from loadfuzz.coverage.branches import Reached, read
from loadfuzz.coverage.child import Request
from loadfuzz.errors import InfraError, UsageError
from loadfuzz.plugins import load_target


def measure(
    target: str, paths: Sequence[Path], html: Path | None, told: Callable[[int, int], None]
) -> Reached:
    """Replay streams and say which branches they reach.

    Args:
        target: name of the target.
        paths: files and folders; the target's own seeds for none.
        html: folder for coverage.py's HTML.
        told: hears how many streams are done, and of how many.

    Raises:
        UsageError: there is nothing to replay, or nothing to measure.
        InfraError: coverage.py is missing, or the replay failed.
    """
    if find_spec("coverage") is None:
        raise InfraError("coverage.py is not installed: pip install 'loadfuzz[coverage]'")
    found = load_target(target)
    packages = tuple(found.instrument)
    if not packages:
        raise UsageError(f"target {target!r} names no package of its loader to measure")
    with tempfile.TemporaryDirectory(prefix="loadfuzz-coverage-") as name:
        folder = Path(name)
        if paths:
            streams = streams_in(paths)
        else:
            streams = []
            for number, seed in enumerate(found.seeds()):
                path = folder / f"seed-{number}"
                path.write_bytes(seed.stream)
                streams.append(path)
        report = folder / "report.json"
        request = Request(
            target, packages, tuple(str(path.absolute()) for path in streams), str(report),
            "" if html is None else str(html.absolute()),
        )  # fmt: skip
        (folder / "request.json").write_bytes(codec.encode(request))
        _run(folder / "request.json", len(streams), told)
        try:
            return read(report.read_bytes())
        except OSError as error:
            raise InfraError(
                f"coverage.py has measured nothing of {', '.join(packages)}"
            ) from error


def _run(request: Path, total: int, told: Callable[[int, int], None]) -> None:
    command = [sys.executable, "-P", "-m", "loadfuzz.coverage.child", str(request)]
    with (
        tempfile.TemporaryFile() as errors,
        subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors, text=True
        ) as child,
    ):
        assert child.stdout is not None
        try:
            for done, _ in enumerate(child.stdout, 1):
                told(done, total)
            code = child.wait()
        except BaseException:
            child.kill()
            raise
        if code:
            errors.seek(0)
            said = errors.read().decode(errors="replace").strip()[-600:]
            raise InfraError(f"replaying under coverage.py failed (status {code}): {said}")
