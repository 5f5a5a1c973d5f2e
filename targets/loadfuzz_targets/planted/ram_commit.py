"""B23: RAM is kept as soon as it is complete, whatever comes behind it."""

from typing import Final

from loadfuzz_targets.planted.bug import PlantedBug
from savevm.constants import QEMU_VM_SECTION_END
from savevm.load import Loader
from savevm.load_entry import LoadStateEntry
from savevm.machine import Machine
from savevm.qemufile import QEMUFileReader
from savevm.transaction import Transaction
from savevm.vmstate.description import Opaque


class EarlyTransaction(Transaction):
    """Can let go of one thing before the others."""

    def settle(self, opaque: Opaque) -> None:
        """Commit ``opaque``: holding two copies of RAM until the end is dear."""
        for staged in [staged for staged in self._staged if staged is opaque]:
            staged.commit()
            self._staged.remove(staged)


class LoaderThatKeepsRam(Loader):
    """Settles a live handler at its END section."""

    def __init__(self, f: QEMUFileReader, machine: Machine) -> None:
        super().__init__(f, machine)
        if self._transaction is not None:
            self._transaction = EarlyTransaction(machine)

    def load_body(self, le: LoadStateEntry, section_type: int) -> None:
        super().load_body(le, section_type)
        if section_type == QEMU_VM_SECTION_END and isinstance(self._transaction, EarlyTransaction):
            self._transaction.settle(le.se.opaque)


RAM_COMMIT: Final = PlantedBug(
    name="ram-committed-at-end",
    bug_class="B23",
    device="ram",
    field="all pages",
    trigger="a stream that is refused behind RAM's END section and brought other pages",
    oracle="atomic",
    mirrors="qemu_loadvm_state has no rollback: guest memory is written in place",
    loader=LoaderThatKeepsRam,
)
