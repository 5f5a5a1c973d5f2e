"""B23: RAM is kept as soon as it is complete, whatever comes behind it."""

from typing import Final

from loadfuzz.bench.truth import BugRow
from loadfuzz_targets.planted.bug import Parts, PlantedBug, Site
from loadfuzz_targets.planted.examples import document, section
from savevm.constants import QEMU_VM_SECTION_END
from savevm.load import Loader
from savevm.load_entry import LoadStateEntry
from savevm.machine import Machine
from savevm.qemufile import QEMUFileReader
from savevm.ram import RAMState
from savevm.recording import Role
from savevm.transaction import Transaction
from savevm.vmstate.description import Opaque


class EarlyTransaction(Transaction):
    """Can let go of one thing before the others.

    Attributes:
        settled: it did, and that changed something.
    """

    settled = False

    def settle(self, opaque: Opaque) -> None:
        """Commit ``opaque``: holding two copies of RAM until the end is dear."""
        before = opaque.digest() if isinstance(opaque, RAMState) else ""
        for staged in [staged for staged in self._staged if staged is opaque]:
            staged.commit()
            self._staged.remove(staged)
        if isinstance(opaque, RAMState) and opaque.digest() != before:
            self.settled = True


def _plant(site: Site) -> Parts:
    class LoaderThatKeepsRam(Loader):
        """Settles a live handler at its END section."""

        def __init__(self, f: QEMUFileReader, machine: Machine) -> None:
            super().__init__(f, machine)
            if self._transaction is not None:
                self._transaction = EarlyTransaction(machine)

        def load_body(self, le: LoadStateEntry, section_type: int) -> None:
            super().load_body(le, section_type)
            if section_type == QEMU_VM_SECTION_END and isinstance(
                self._transaction, EarlyTransaction
            ):
                site.canary.reached()
                self._transaction.settle(le.se.opaque)

        def load(self) -> None:
            try:
                super().load()
            except BaseException:
                transaction = self._transaction
                if isinstance(transaction, EarlyTransaction) and transaction.settled:
                    site.canary.triggered()
                raise

    return Parts(loader=LoaderThatKeepsRam)


def _example() -> bytes:
    tree = document("ram-ran")
    return tree.with_value(section(tree, "cpu").header(Role.VERSION_ID), 99)


RAM_COMMIT: Final = PlantedBug(
    BugRow(
        name="ram-committed-at-end",
        bug_class="B23",
        device="ram",
        field="all pages",
        trigger="a stream that is refused behind RAM's END section and brought other pages",
        oracle="atomic",
        evidence=r"^ram$",
        mirrors="qemu_loadvm_state has no rollback: guest memory is written in place",
    ),
    _plant,
    _example,
)
