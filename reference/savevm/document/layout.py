"""Where a Document knows the layout of devices from."""

from collections.abc import Callable

from savevm.constants import TARGET_PAGE_BITS
from savevm.document.store import Store
from savevm.foreign.build import machine_from_vmdesc
from savevm.foreign.locate import locate_vmdesc
from savevm.foreign.text import parse_vmdesc
from savevm.machine import Machine
from savevm.ram.state import RAMState


def machine_for(
    store: Store, factory: Callable[[], Machine] | None
) -> tuple[Machine, int | None, bool]:
    """The machine to load a stream into.

    Returns:
        The machine; the offset of the vmdesc's type byte if one was found; and
        whether the machine is thought to know every device in the stream.
    """
    vmdesc = locate_vmdesc(store)
    start = None if vmdesc is None else vmdesc.start
    if factory is not None:
        return factory(), start, True
    description = None if vmdesc is None else parse_vmdesc(vmdesc.text, store.size)
    if description is not None:
        return machine_from_vmdesc(description, store=False), start, True
    return bare_machine(), start, False


def bare_machine(page_bits: int = TARGET_PAGE_BITS) -> Machine:
    """A machine without devices: RAM can be told from its own items."""
    machine = Machine(target_page_bits=page_bits)
    machine.adopts = True
    RAMState(machine.page_size, adopt=True, store=False).register(machine)
    return machine
