"""The board: what a save and a load need of a machine, and its run state.

Devices register themselves on it (:mod:`savevm.devices`), a guest runs on it
(:mod:`savevm.guest`).  A machine holds everything that C keeps in globals, so
that many can live side by side in one process.
"""

from collections.abc import Callable
from enum import StrEnum
from typing import TYPE_CHECKING, Final, Protocol

from savevm.constants import TARGET_PAGE_BITS
from savevm.profile import STRICT, Profile
from savevm.registry import SaveState
from savevm.state import State, digest
from savevm.timers import TimerList, VirtualClock

if TYPE_CHECKING:
    from savevm.announce import NICState
    from savevm.block import BlockDevice
    from savevm.ram import RAMState


class RunState(StrEnum):
    """QEMU's run states (``qapi/run-state.json``), those the model can reach."""

    PRELAUNCH = "prelaunch"
    RUNNING = "running"
    PAUSED = "paused"
    SAVE_VM = "save-vm"
    RESTORE_VM = "restore-vm"
    INMIGRATE = "inmigrate"
    FINISH_MIGRATE = "finish-migrate"
    POSTMIGRATE = "postmigrate"
    SUSPENDED = "suspended"
    SHUTDOWN = "shutdown"


class Device(Protocol):
    """What the board asks of a device.  Its migratable state is its own: a
    device is a :class:`~savevm.state.State`."""

    def dev_path(self) -> str | None:
        """Path on its bus, or ``None``."""

    def reset(self) -> None:
        """Back to the state after power-on."""

    def check_invariants(self) -> list[str]:
        """What is impossible about the present state; empty when all is well."""

    def step(self) -> None:
        """One guest step's worth of work."""


class BoardState(State):
    """What of the board itself changes while it runs."""

    def __init__(self) -> None:
        super().__init__()
        self.runstate: str = RunState.PRELAUNCH
        self.steps = 0


class Machine:
    """A machine whose state can be saved and loaded.

    Args:
        machine_type: name in the configuration section and in the dump.
        profile: the manners of its loader.
        target_page_bits: 12 unless a machine is rebuilt from another's stream.

    Attributes:
        savevm: the registry of handlers.
        clock, timers: virtual time and the timers on it.
        devices: by name, in registration order.
        ram: RAM blocks and their handler; ``None`` on a machine without.
        nics: NICs that announce themselves.
        block_devices: disks, in the order of ``bdrv_next``.
        stop_handlers: called before the guest is stopped, while the run state
            is still what it was.
        migration_is_running: an outgoing migration is under way.  Devices whose
            state travels before it ends must leave that state alone.
        synchronized_states, synchronized_post_init: how often CPU state was
            fetched for a save and handed over after a load.
        suppress_vmdesc: no vmdesc is sent (machine types of 2.2 and older).
        skip_section_footers: no footers, neither sent nor expected (2.3 and
            older).
        send_configuration: a configuration section follows the header.
        adopts: the machine was made to take in another's stream: it takes over
            names and section ids that a loader would otherwise compare.
        uuid: sent in the configuration if given, 16 bytes.
        capabilities: names sent in the configuration's capabilities.
    """

    def __init__(
        self,
        machine_type: str = "loadfuzz-reference",
        *,
        profile: Profile = STRICT,
        target_page_bits: int = TARGET_PAGE_BITS,
    ) -> None:
        self.machine_type = machine_type
        self.profile = profile
        self.target_page_bits = target_page_bits
        self.savevm = SaveState()
        self.board = BoardState()
        self.clock = VirtualClock()
        self.timers = TimerList(self.clock)
        self.devices: dict[str, Device] = {}
        self.ram: RAMState | None = None
        self.nics: list[NICState] = []
        self.block_devices: list[BlockDevice] = []
        self.stop_handlers: list[Callable[[], None]] = []
        self.migration_is_running = False
        self.synchronized_states = 0
        self.synchronized_post_init = 0
        self.suppress_vmdesc = False
        self.skip_section_footers = False
        self.send_configuration = True
        self.adopts = False
        self.uuid: bytes | None = None
        self.capabilities: tuple[str, ...] = ()

    @property
    def page_size(self) -> int:
        """Bytes of a target page."""
        return 1 << self.target_page_bits

    # -- run state -----------------------------------------------------------------

    @property
    def runstate(self) -> RunState:
        """The run state now."""
        return RunState(self.board.runstate)

    def is_running(self) -> bool:
        """``runstate_is_running``."""
        return self.board.runstate == RunState.RUNNING

    def vm_stop(self, state: RunState) -> None:
        """Stop the guest and enter ``state`` (``vm_stop``)."""
        for handler in self.stop_handlers:
            handler()
        self.board.runstate = state

    def vm_start(self) -> None:
        """Let the guest run (``vm_start``)."""
        self.board.runstate = RunState.RUNNING

    def reset(self) -> None:
        """``qemu_system_reset``: every device back to power-on; RAM stays."""
        for device in self.devices.values():
            device.reset()

    def cpu_synchronize_all_states(self) -> None:
        """Fetch CPU state from the accelerator before saving.  The simulated
        CPU has none; the call is counted, since its place in a save matters."""
        self.synchronized_states += 1

    def cpu_synchronize_all_post_init(self) -> None:
        """Hand loaded CPU state to the accelerator; counted likewise."""
        self.synchronized_post_init += 1

    # -- the guest -------------------------------------------------------------------

    STEP_NS: Final = 10_000
    """Virtual time that one guest step takes."""

    def step(self, count: int = 1) -> None:
        """Run ``count`` steps of the guest, whatever the run state says.

        Each step moves the clock, fires due timers, and lets every device do
        its work in registration order: deterministic, bounded, no wall clock.
        """
        for _ in range(count):
            self.clock.now_ns += self.STEP_NS
            self.board.steps += 1
            self.timers.run_expired()
            for device in self.devices.values():
                device.step()

    def check_invariants(self) -> list[str]:
        """Every impossible thing about the machine's state, by device."""
        return [
            f"{name}: {fault}"
            for name, device in self.devices.items()
            for fault in device.check_invariants()
        ]

    # -- state as a whole --------------------------------------------------------------

    def roots(self) -> list[object]:
        """Everything that is state, RAM aside."""
        return [self.board, self.clock, *self.timers.timers, *self.devices.values()]

    def digest(self) -> str:
        """Hex digest of the whole state, RAM included."""
        ram = self.ram.digest() if self.ram is not None else ""
        return digest(*self.roots(), ram)
