"""The ``globalstate`` section: the run state of the source, as QEMU 7.2 has it.

134 bytes with header and footer: u32 size, 100 bytes of text.  Source: QEMU
``migration/global_state.c``.  A load only remembers the run state; the machine's
own is the business of whoever asked for the load.
"""

from typing import Final

from savevm.devices.base import Fault, SimDevice, call_post_load, call_pre_save
from savevm.machine import Machine, RunState
from savevm.vmstate import fields
from savevm.vmstate.description import VMStateDescription

RUNSTATE_BYTES: Final = 100
RUNSTATES: Final = frozenset(
    {
        "debug", "inmigrate", "internal-error", "io-error", "paused", "postmigrate",
        "prelaunch", "finish-migrate", "restore-vm", "running", "save-vm", "shutdown",
        "suspended", "watchdog", "guest-panicked", "colo",
    }
)  # fmt: skip
"""``RunState`` of QEMU 7.2's ``qapi/run-state.json``: a source may be in more
states than the simulated machine has."""
_WHILE_SAVING: Final = frozenset({RunState.SAVE_VM, RunState.FINISH_MIGRATE})

vmstate_globalstate: Final = VMStateDescription(
    "globalstate",
    1,
    1,
    fields=(fields.uint32("size"), fields.buffer("runstate", RUNSTATE_BYTES)),
    post_load=call_post_load,
    pre_save=call_pre_save,
)


def text_of(runstate: bytearray) -> str:
    """What C sees in the buffer: bytes up to the first NUL, as Latin-1."""
    return bytes(runstate).split(b"\0", 1)[0].decode("latin-1")


class GlobalState(SimDevice):
    """``GlobalState``: what the stream says of the source's run state.

    Attributes:
        size: uint32, strlen + 1 of the text.  QEMU never checks what it
            loads here and never uses it (measured: 0 and 101 are accepted).
        runstate: the text, NUL padded to 100 bytes.
        loaded_runstate: text of the last load, ``""`` before the first.
    """

    name = "globalstate"
    vmsd = vmstate_globalstate
    not_migrated = frozenset({"size", "runstate", "loaded_runstate"})

    def create(self, machine: Machine) -> None:
        # QEMU calls global_state_store() where it is about to stop the guest.
        machine.stop_handlers.append(self.store)

    def reset(self) -> None:
        # A reset must not forget what a load said: machine.reset() comes
        # between loading and looking at it.
        if "loaded_runstate" not in self.__dict__:
            self.size = 0
            self.runstate = bytearray(RUNSTATE_BYTES)
            self.loaded_runstate = ""
            self.store()

    def store(self) -> None:
        """Remember the machine's run state for the next save
        (``global_state_store``); call it before the machine is stopped."""
        text = str(self.machine.board.runstate).encode("ascii")[: RUNSTATE_BYTES - 1]
        self.runstate = bytearray(text.ljust(RUNSTATE_BYTES, b"\0"))
        self.size = len(text) + 1

    def pre_save(self) -> int | None:
        # While saving the machine is stopped: what counts is the state before.
        if self.machine.board.runstate not in _WHILE_SAVING:
            self.store()
        self.size = len(text_of(self.runstate)) + 1
        return 0

    def check_runstate(self) -> Fault | None:
        """B33, B34 (QEMU a346af9c88): the text ends inside the buffer and is
        the name of a run state."""
        text = text_of(self.runstate)
        if text in RUNSTATES:
            return None
        return Fault(
            "runstate", f"invalid parameter value: {text}", "a run state of QEMU 7.2", text
        )

    def post_load(self, version_id: int) -> int | None:
        del version_id
        fault = self.check_runstate()
        if fault is not None:
            error = fault.error()
            error.qemu = fault.reason
            raise error
        self.loaded_runstate = text_of(self.runstate)
        return 0
