"""The program that libFuzzer believes it is.

libFuzzer's ``-fork``, ``-jobs``, ``-merge`` and ``-minimize_crash`` start
``argv[0]`` again through a shell.  With ``python worker.py`` as a command line
that is a script without an interpreter: it fails at once and is counted as a
crash, thousands of times.  So ``argv[0]`` is an executable file that starts
this very worker with the same batch.
"""

import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from loadfuzz.errors import InfraError

NAME: Final = "run"


def write_wrapper(folder: Path, arguments: Sequence[str]) -> Path:
    """Make the wrapper of a worker.

    Args:
        folder: of the worker; it exists.
        arguments: of :mod:`loadfuzz.engines.worker`; what the wrapper itself is
            called with follows them.

    Raises:
        InfraError: it cannot be made, or not be executed there.
    """
    path = folder.absolute() / NAME
    # -P: the current folder is the user's and has no business among our modules.
    command = [sys.executable, "-P", "-m", "loadfuzz.engines.worker", *arguments]
    text = (
        "#!/bin/sh\n"
        "# Starts this worker again; libFuzzer calls it with its own flags.\n"
        f'exec {shlex.join(command)} "$@"\n'
    )
    try:
        path.write_text(text)
        path.chmod(0o755)
    except OSError as error:
        raise InfraError(
            f"writing {path} failed: {error.strerror}; choose another folder with --out"
        ) from error
    if not os.access(path, os.X_OK):
        raise InfraError(
            f"{path} cannot be executed: the file system is mounted noexec; "
            "choose another folder with --out"
        )
    return path
