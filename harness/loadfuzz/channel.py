"""How a child process talks to the supervisor: whole lines on its first stdout.

What else writes to stdout in that process (the target, a library, a stray
``print``) would tear the lines; so the channel takes the descriptor away and
leaves stderr in its place.
"""

import os
import sys


class Channel:
    """The stdout we were started with, for lines only.

    Made once per process, before anything that may print.
    """

    __slots__ = ("_descriptor",)

    def __init__(self) -> None:
        sys.stdout.flush()
        self._descriptor = os.dup(1)
        os.dup2(2, 1)

    def send(self, line: bytes) -> None:
        """Write ``line``, which ends with a newline.

        Raises:
            BrokenPipeError: nobody listens any more; time to end.
        """
        rest = memoryview(line)
        while rest:
            rest = rest[os.write(self._descriptor, rest) :]
