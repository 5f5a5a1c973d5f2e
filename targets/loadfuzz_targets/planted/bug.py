"""What a planted bug is: a row of the manifest and the parts it replaces.

A bug lives in subclasses of the reference's own classes, never in the
reference.  Two bugs may replace the same device, loader or reader: their
classes are then combined, so each calls ``super()`` for what it leaves alone.
"""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import TypeVar

from savevm.devices.base import SimDevice
from savevm.load import Loader
from savevm.qemufile import QEMUFileReader

Kind = TypeVar("Kind")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PlantedBug:
    """One bug.

    Attributes:
        name: unique; on the command line as ``planted:NAME``.
        bug_class: its class among the bugs that loaders really had, B01 to B46.
        device: section it is in, ``*`` for all.
        field: what of it is not checked or goes wrong.
        trigger: the streams that show it, in a phrase.
        oracle: name of the oracle that fires.
        mirrors: the CVE or QEMU commit that it is modelled on.
        devices: subclasses of the devices it replaces, by name on the board.
        loader: subclass of the loader, if it replaces that.
        reader: subclass of the reader, if it replaces that.
    """

    name: str
    bug_class: str
    device: str
    field: str
    trigger: str
    oracle: str
    mirrors: str
    devices: Mapping[str, type[SimDevice]] = dataclasses.field(default_factory=dict)
    loader: type[Loader] | None = None
    reader: type[QEMUFileReader] | None = None


def combined(base: type[Kind], parts: Iterable[type[Kind] | None]) -> type[Kind]:
    """One class with the changes of all ``parts``; ``base`` if there are none."""
    chosen = tuple(part for part in parts if part is not None)
    if not chosen:
        return base
    if len(chosen) == 1:
        return chosen[0]
    return type(f"Planted{base.__name__}", chosen, {})
