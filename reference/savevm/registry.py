"""The list of handlers that take part in a save and a load.

Theory of operation.  Entries are kept in registration order, which is the
order of FULL sections on the wire; ``section_id`` counts registrations and is
never reused.  An entry is known by ``(idstr, instance_id)``; one whose device
has a path is also known by its *compat* entry, the name it had before devices
had paths.  Source: the registration half of QEMU ``migration/savevm.c``.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from savevm.constants import IDSTR_MAX, UINT32_MAX
from savevm.profile import Profile
from savevm.qemufile import QEMUFileReader, QEMUFileWriter
from savevm.vmstate.description import Opaque, Vmdesc, VMStateDescription

ANY_INSTANCE = -1
"""``instance_id`` of a registrant that leaves the numbering to the registry."""
NO_ALIAS = -1


class HasDevicePath(Protocol):
    """A device that may sit on a bus (``qdev_get_dev_path``)."""

    def dev_path(self) -> str | None:
        """Path of the device, such as ``0000:00:03.0``; ``None`` off any bus."""


@dataclass(frozen=True, slots=True)
class MigrationParams:
    """What the operator asked of a migration (``MigrationParams``).

    Attributes:
        blk: migrate disks too.
        shared: disks have a shared base image.
    """

    blk: bool = False
    shared: bool = False


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SaveVMHandlers:
    """Callbacks of an old-style or live handler (``SaveVMHandlers``).

    Those that return ``int`` follow C: negative errno for failure; iterate
    returns 0 for "not finished", positive for "this stage is complete".
    ``is_active_iterate`` came later than the seed: a handler
    that it says no for sends no PART section.
    """

    set_params: Callable[[MigrationParams, Opaque], None] | None = None
    save_state: Callable[[QEMUFileWriter, Opaque], None] | None = None
    cancel: Callable[[Opaque], None] | None = None
    save_live_setup: Callable[[QEMUFileWriter, Opaque], int] | None = None
    save_live_iterate: Callable[[QEMUFileWriter, Opaque], int] | None = None
    save_live_complete: Callable[[QEMUFileWriter, Opaque], int] | None = None
    save_live_pending: Callable[[QEMUFileWriter, Opaque, int], int] | None = None
    is_active: Callable[[Opaque], bool] | None = None
    is_active_iterate: Callable[[Opaque], bool] | None = None
    load_state: Callable[[QEMUFileReader, Opaque, int], int | None] | None = None


@dataclass(frozen=True, slots=True)
class CompatEntry:
    """The name an entry had before its device had a path."""

    idstr: str
    instance_id: int


@dataclass(slots=True, eq=False)
class SaveStateEntry:
    """One registered handler (``SaveStateEntry``)."""

    idstr: str
    instance_id: int
    version_id: int
    section_id: int
    opaque: Any
    alias_id: int = NO_ALIAS
    ops: SaveVMHandlers | None = None
    vmsd: VMStateDescription | None = None
    compat: CompatEntry | None = None
    is_ram: bool = False
    early: bool = False
    """Saved before RAM (``early_setup`` of its description)."""

    @property
    def live(self) -> bool:
        """Whether the entry is saved in START, PART and END sections."""
        return self.ops is not None and self.ops.save_live_setup is not None

    @property
    def ends(self) -> bool:
        """Whether a save that began the entry also sends an END section for it."""
        return self.live and self.ops is not None and self.ops.save_live_complete is not None

    @property
    def full(self) -> bool:
        """Whether the entry is saved in a FULL section."""
        return self.vmsd is not None or (self.ops is not None and self.ops.save_state is not None)


class SaveState:
    """All handlers of one machine (``savevm_state``).

    Attributes:
        handlers: in registration order.
        global_section_id: the next registration's section id.
        described: vmdesc of the early sections of the save under way, which
            its end puts before those of the others.
    """

    def __init__(self) -> None:
        self.handlers: list[SaveStateEntry] = []
        self.global_section_id = 0
        self.described: list[Vmdesc] = []

    # -- registering -----------------------------------------------------------

    def register_savevm_live(
        self,
        dev: HasDevicePath | None,
        idstr: str,
        instance_id: int,
        version_id: int,
        ops: SaveVMHandlers,
        opaque: Opaque,
    ) -> SaveStateEntry:
        """Register live or old-style handlers.

        Args:
            dev: the device they belong to; its path prefixes ``idstr``.
            idstr: name of the section.
            instance_id: number among handlers of one name, or
                :data:`ANY_INSTANCE`.
            version_id: version that is written and the newest that is read.
            ops: the callbacks; with ``save_live_setup`` the entry is RAM-like
                and left out of a device-only save.
            opaque: handed to every callback.

        Raises:
            ValueError: the name is empty or does not fit its length byte, or
                another handler has the same name and instance id.
        """
        entry = self._entry(dev, idstr, instance_id, version_id, opaque)
        entry.ops = ops
        entry.is_ram = ops.save_live_setup is not None
        # C zeroes the struct: see the profile switch live_alias_is_zero.
        return self._append(entry)

    def register_savevm(
        self,
        dev: HasDevicePath | None,
        idstr: str,
        instance_id: int,
        version_id: int,
        save_state: Callable[[QEMUFileWriter, Opaque], None],
        load_state: Callable[[QEMUFileReader, Opaque, int], int | None],
        opaque: Opaque,
    ) -> SaveStateEntry:
        """Register an old-style device: one function to save, one to load."""
        ops = SaveVMHandlers(save_state=save_state, load_state=load_state)
        return self.register_savevm_live(dev, idstr, instance_id, version_id, ops, opaque)

    def vmstate_register_with_alias_id(
        self,
        dev: HasDevicePath | None,
        instance_id: int,
        vmsd: VMStateDescription,
        opaque: Opaque,
        alias_id: int = NO_ALIAS,
        required_for_version: int = 0,
    ) -> SaveStateEntry:
        """Register a described device.

        Args:
            alias_id: a second instance id that streams of older versions use.
            required_for_version: newest version of the description that still
                needs the alias.

        Raises:
            ValueError: the alias is no longer needed by any version that can
                be read, or the name does not fit.
        """
        if alias_id != NO_ALIAS and required_for_version < vmsd.minimum_version_id:
            raise ValueError(
                f"{vmsd.name}: the alias is for version {required_for_version}, but versions "
                f"below {vmsd.minimum_version_id} are no longer read: drop it"
            )
        entry = self._entry(dev, vmsd.name, instance_id, vmsd.version_id, opaque)
        entry.vmsd = vmsd
        entry.alias_id = alias_id
        entry.early = vmsd.early_setup
        return self._append(entry)

    def vmstate_register(
        self,
        dev: HasDevicePath | None,
        instance_id: int,
        vmsd: VMStateDescription,
        opaque: Opaque,
    ) -> SaveStateEntry:
        """Register a described device that has no alias."""
        return self.vmstate_register_with_alias_id(dev, instance_id, vmsd, opaque)

    def _entry(
        self,
        dev: HasDevicePath | None,
        idstr: str,
        instance_id: int,
        version_id: int,
        opaque: Opaque,
    ) -> SaveStateEntry:
        name, compat = idstr, None
        path = dev.dev_path() if dev is not None else None
        if path is not None:
            compat_instance = instance_id
            if instance_id == ANY_INSTANCE:
                compat_instance = self.calculate_compat_instance_id(idstr)
            compat = CompatEntry(idstr, compat_instance)
            name, instance_id = f"{path}/{idstr}", ANY_INSTANCE
        # QEMU 581f08bac2: a longer name would be cut by its length byte.
        if not 0 < len(name.encode("latin-1")) <= IDSTR_MAX:
            raise ValueError(f"idstr must have 1 to {IDSTR_MAX} bytes: {name[:40]!r}…")
        if instance_id == ANY_INSTANCE:
            instance_id = self.calculate_new_instance_id(name)
        if compat is not None and instance_id != 0:
            raise ValueError(f"two devices share the path and name {name!r}")
        # QEMU caa91b3c44: the second of two such entries could never be loaded.
        if any(se.idstr == name and se.instance_id == instance_id for se in self.handlers):
            raise ValueError(f"{name!r} instance {instance_id} is registered twice")
        return SaveStateEntry(name, instance_id, version_id, -1, opaque, compat=compat)

    def _append(self, entry: SaveStateEntry) -> SaveStateEntry:
        entry.section_id = self.global_section_id
        self.global_section_id += 1
        self.handlers.append(entry)
        return entry

    def skip_section_ids(self, count: int) -> None:
        """Use up ``count`` section ids, as handlers do that have gone again or
        that another build of a machine has."""
        self.global_section_id += count

    def calculate_new_instance_id(self, idstr: str) -> int:
        """One more than the greatest instance id of that name, from 0."""
        taken = [se.instance_id for se in self.handlers if se.idstr == idstr]
        return max([-1, *taken]) + 1

    def calculate_compat_instance_id(self, idstr: str) -> int:
        """The same among compat entries."""
        taken = [
            se.compat.instance_id
            for se in self.handlers
            if se.compat is not None and se.compat.idstr == idstr
        ]
        return max([-1, *taken]) + 1

    # -- unregistering -----------------------------------------------------------

    def unregister_savevm(self, dev: HasDevicePath | None, idstr: str, opaque: Opaque) -> None:
        """Forget the handlers of that name and opaque; none is no error."""
        path = dev.dev_path() if dev is not None else None
        name = idstr if path is None else f"{path}/{idstr}"
        self.handlers = [
            se for se in self.handlers if not (se.idstr == name and se.opaque is opaque)
        ]

    def vmstate_unregister(
        self, dev: HasDevicePath | None, vmsd: VMStateDescription, opaque: Opaque
    ) -> None:
        """Forget the handlers of that description and opaque; none is no error."""
        del dev  # as in C, the path does not matter here
        self.handlers = [
            se for se in self.handlers if not (se.vmsd is vmsd and se.opaque is opaque)
        ]

    def begin_load(self) -> None:
        """A load begins.  Handlers of a machine have nothing to forget; those
        that :mod:`savevm.foreign` makes have, since some share a name."""

    # -- finding -------------------------------------------------------------------

    def find_se(self, idstr: str, instance_id: int, profile: Profile) -> SaveStateEntry | None:
        """The entry a section is for, by name, alias or compat name.

        Args:
            idstr: name as read from the stream.
            instance_id: as read, unsigned 32 bit.
            profile: how loosely aliases and compat names match.
        """
        # The wire carries uint32_t, the registry int: -1 arrives as 2^32-1.
        wanted = instance_id & UINT32_MAX
        for se in self.handlers:
            alias = None if se.alias_id == NO_ALIAS else se.alias_id
            if profile.live_alias_is_zero:
                # register_savevm_live leaves the field zero; "no alias" is -1,
                # which a stream can name as 0xffffffff.
                alias = 0 if se.vmsd is None else se.alias_id
            if se.idstr == idstr and wanted in _on_wire(se.instance_id, alias):
                return se
            compat = se.compat
            if compat is None or compat.idstr != idstr:
                continue
            if profile.compat_is_substring:
                named = idstr in se.idstr
            else:
                named = se.idstr.endswith("/" + idstr)
            if named and wanted in _on_wire(compat.instance_id, alias):
                return se
        return None


def _on_wire(*instance_ids: int | None) -> list[int]:
    return [number & UINT32_MAX for number in instance_ids if number is not None]
