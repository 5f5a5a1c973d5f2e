"""Exit codes of every command: the contract with CI."""

from enum import IntEnum


class ExitCode(IntEnum):
    """What a command says when it ends."""

    CLEAN = 0
    """Nothing found; the command did what it was asked."""
    FINDINGS = 1
    """It worked, and there are findings (or problems, for ``inspect``)."""
    USAGE = 2
    """Wrong arguments or input files."""
    MACHINERY = 3
    """The harness or its surroundings failed; findings so far are kept."""
    INTERRUPTED = 130
    """Stopped by Ctrl-C with nothing found, as shells report it."""
