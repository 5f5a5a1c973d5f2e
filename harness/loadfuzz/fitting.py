"""Targets that are fitted to the streams they are given.

A target may know how to turn into one that suits other streams than its own
(:class:`loadfuzz.abc.FitsSeeds`): the reference takes on the machine of a
captured stream.  Everywhere but in the process that did it, such a target is
known by a specification, ``NAME@FILE``: the target's name, and the file with
the stream it was fitted to.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from loadfuzz.abc import FitsSeeds, Target
from loadfuzz.errors import UsageError
from loadfuzz.inputs import STREAM_SIZE_MAX, Seed

SEPARATOR: Final = "@"


def split(spec: str) -> tuple[str, str]:
    """The name of a target, and the file it is fitted to or ``""``."""
    name, _, file = spec.partition(SEPARATOR)
    return name, file


def fit(target: Target, seeds: Sequence[Seed]) -> Target:
    """The target that suits ``seeds``: ``target`` itself, or one it turns into.

    Args:
        target: as its plug-in gives it.
        seeds: each with a file as its origin.
    """
    return target.for_seeds(seeds) if isinstance(target, FitsSeeds) else target


def refit(target: Target, spec: str) -> Target:
    """The target of a specification, from the one of its name.

    Raises:
        UsageError: the file is not there, or ``target`` does not fit it.
    """
    name, file = split(spec)
    if not file:
        return target
    try:
        with Path(file).open("rb") as stream:
            data = stream.read(STREAM_SIZE_MAX + 1)
    except OSError as error:
        raise UsageError(
            f"target {name!r} was fitted to the stream {file}, which cannot be read "
            f"({error.strerror}); bring it back, or name another target with --target"
        ) from error
    fitted = fit(target, [Seed(Path(file).name, data, file)])
    if fitted.name != spec:
        raise UsageError(
            f"target {name!r} cannot be fitted to {file}: that is not the stream it was, "
            "or the target has changed; name another one with --target"
        )
    return fitted
