"""Errors by whose fault they are.

::

    LoadfuzzError
    ├── UsageError    the user asked for something that cannot be done (exit 2)
    └── InfraError    our own machinery or its surroundings failed (exit 3)

A stream that is bad is a :class:`savevm.LoadError`; a target that died is an
:class:`~loadfuzz.execution.ExitKind`.  Neither is an error of the harness, and
an error of the harness is never a finding.
"""


class LoadfuzzError(Exception):
    """Root.  Its text says what to do next."""


class UsageError(LoadfuzzError):
    """The request makes no sense as it stands."""


class InfraError(LoadfuzzError):
    """A worker, a file system or a tool let us down."""
