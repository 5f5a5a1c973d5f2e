"""zzuf as a fuzzer: a process for every input, which flips bits of a seed."""

import shutil
import subprocess
from pathlib import Path
from typing import Final

from loadfuzz.bench.bugs.session import BugSession
from loadfuzz.bench.bugs.trial import TrialRequest
from loadfuzz.engines.lineage import NO_LINEAGE
from loadfuzz.errors import InfraError
from loadfuzz.inputs import STREAM_SIZE_MAX
from loadfuzz.storage import Corpus

PROGRAM: Final = "zzuf"
RATIOS: Final = ("0.0004", "0.001", "0.004", "0.01")
"""Shares of bits that are flipped, in turn: zzuf's default, 0.004, and around it."""
_DEADLINE_S: Final = 10.0


def run_zzuf(session: BugSession, request: TrialRequest) -> None:
    """Run the seeds, then what zzuf makes of them, until the trial ends.

    Raises:
        InfraError: zzuf is missing or fails.
    """
    program = shutil.which(PROGRAM)
    if program is None:
        raise InfraError("zzuf is not installed; apt-get install zzuf, or leave it out")
    corpus = Corpus(Path(request.out) / "corpus")
    seeds = [corpus.read(digest) for digest in sorted(corpus.digests())]
    turn = 0
    reason = ""
    for stream in seeds:
        session.run(stream, NO_LINEAGE)
        reason = reason or session.ended()
    while not reason:
        command = [
            program, f"-s{(request.seed + turn) % (1 << 31)}",
            f"-r{RATIOS[turn // len(seeds) % len(RATIOS)]}",
        ]  # fmt: skip
        try:
            done = subprocess.run(
                command, input=seeds[turn % len(seeds)], capture_output=True,
                timeout=_DEADLINE_S, check=True,
            )  # fmt: skip
        except (OSError, subprocess.SubprocessError) as error:
            raise InfraError(f"zzuf failed: {error}") from error
        session.run(done.stdout[:STREAM_SIZE_MAX], NO_LINEAGE)
        reason = session.ended()
        turn += 1
