"""Interruptions of a load as a subject reports them: refusals, since it did not happen."""

from collections.abc import Iterator
from contextlib import contextmanager
from errno import ECANCELED, EINTR

from loadfuzz.faults.steps import InjectedCancelError
from savevm.errors import LoadError


@contextmanager
def cancellations() -> Iterator[None]:
    """Report a cancellation by plan, once the loader has let it out.  One that is meant
    for us passes.

    Raises:
        LoadError: in place of :class:`InjectedCancelError` (``ECANCELED``).
    """
    try:
        yield
    except InjectedCancelError as error:
        raise LoadError("the load was cancelled", errno=ECANCELED) from error


def killed() -> LoadError:
    """What is said of a load whose process was killed by plan (``EINTR``)."""
    return LoadError("the process was killed", errno=EINTR)
