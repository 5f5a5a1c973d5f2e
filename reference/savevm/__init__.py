"""What a migration stream is, and what a correct loader does with it.

A complete model of QEMU's ``migration/savevm.c`` as of commit c6bd8c70 and of
what every stream of a later QEMU has beside it.  Standard library only, plain
synchronous code.  One promise holds everywhere: **only** :class:`LoadError`
leaves a load; any other exception is a bug of this package.
"""

from savevm.errors import LoadError, SaveError, SavevmError, SnapshotError
from savevm.profile import SEED, STRICT, Profile

__all__ = [
    "SEED",
    "STRICT",
    "LoadError",
    "Profile",
    "SaveError",
    "SavevmError",
    "SnapshotError",
]
