"""A real QEMU whose storage fails as it is told to, by QEMU's own blkdebug.

A block node that fails (:mod:`.storage_faults`) is added to a live QEMU over QMP for each fault
and taken away again, so one process goes through hundreds of them; the image is written
afresh each time.  What is left in it is then looked at through a node that does not fail.
"""

import shutil
from pathlib import Path
from typing import Final

from loadfuzz.errors import InfraError, UsageError
from loadfuzz.execution import ExitKind
from loadfuzz.qemu import qcow2
from loadfuzz.qemu.asking import FailedError, judge_failure
from loadfuzz.qemu.closer import status_of
from loadfuzz.qemu.monitor import Reply, encode, encode_hmp
from loadfuzz.qemu.peers import Peer, Peers, Role
from loadfuzz.qemu.qcow2_reader import snapshots
from loadfuzz.qemu.storage_faults import FRESH, NODE, OTHER, VICTIM, Operation, StorageFault
from loadfuzz.qemu.storage_oracle import StorageAttempt, judge

_COMMANDS: Final = {
    Operation.LOAD: f"loadvm {VICTIM}",
    Operation.SAVE: f"savevm {FRESH}",
    Operation.OVERWRITE: f"savevm {VICTIM}",
    Operation.DELETE: f"delvm {VICTIM}",
}
_STATUS: Final = encode("query-status")
_CONT: Final = encode("cont")


class FailingStorage:
    """A machine with an image that fails as it is told to.

    Args:
        crew: gives it its processes, and ends them.
        folder: for its images, best in memory; it exists, and is nobody else's.
        stream: a state that the machine loads.

    Raises:
        UsageError: the stream is too long for a slot.
        InfraError: no room for the image.
    """

    def __init__(self, crew: Peers, folder: Path, stream: bytes) -> None:
        self._crew = crew
        self._peer: Peer | None = None
        self._pristine = folder / "pristine.qcow2"
        self._used = folder / "used.qcow2"
        size = len(stream)
        with qcow2.Image.create(self._pristine, [(VICTIM, size), (OTHER, size)]) as image:
            image.write(VICTIM, stream)
            image.write(OTHER, stream)

    async def attempt(self, fault: StorageFault) -> StorageAttempt:
        """Do something while storage fails, and see what is left.

        Cancellation leaves the process to the crew.

        Raises:
            UsageError: QEMU cannot be started so, or has no blkdebug.
            InfraError: it cannot be spoken to, or there is no room on the disk or in memory.
        """
        try:
            shutil.copyfile(self._pristine, self._used)
        except OSError as error:
            raise InfraError(
                f"no image can be made in {self._used.parent}: {error.strerror}; make room there"
            ) from error
        if self._peer is None:
            self._peer = await self._crew.take(Role.SOURCE)
            self._crew.refill()
        peer = self._peer
        cpu_before_s = peer.clock.now_s()
        try:
            attempt = await self._tried(peer, fault)
        except FailedError as failed:
            execution = await judge_failure(peer, failed, cpu_before_s)
            if execution.kind is ExitKind.OUT_OF_MEMORY:
                raise InfraError(
                    "QEMU ended for want of memory; make room, or use a machine with less"
                ) from failed
            attempt = StorageAttempt(fault, execution=execution)
        if attempt.held or judge(attempt):
            await self.renew()
        return attempt

    async def renew(self) -> None:
        """A fresh process for the next one."""
        if self._peer is not None:
            peer, self._peer = self._peer, None
            await self._crew.give_back(peer)

    async def _tried(self, peer: Peer, fault: StorageFault) -> StorageAttempt:
        added = (await peer.ask(self._add({"driver": "blkdebug", **fault.rules()})))[0]
        if added.error:
            if "blkdebug" in added.error:
                raise UsageError(f"this QEMU has no blkdebug ({added.error}); use another binary")
            return StorageAttempt(fault, opened=False, answer=added.error)
        started = (await peer.ask(_CONT))[0]
        if started.error:
            raise InfraError(f"the guest does not run: {started.error}; use another machine")
        said, status = await peer.ask(encode_hmp(_COMMANDS[fault.operation]), _STATUS)
        answer, state = _error_in(said), status_of(status)
        removed = (await peer.ask(encode("blockdev-del", node_name=NODE)))[0]
        names = self._names()
        if removed.error:
            # Whatever else is loaded in this process would be loaded from both.
            return StorageAttempt(fault, True, answer, state, names, held=True)
        other, saved = await self._look(peer, fault, answer, names)
        return StorageAttempt(fault, True, answer, state, names, other, saved)

    async def _look(
        self, peer: Peer, fault: StorageFault, answer: str, names: frozenset[str] | None
    ) -> tuple[str, str]:
        """Load what should be there, from storage that is well."""
        added = (await peer.ask(self._add(None)))[0]
        if added.error:
            return added.error, ""
        other = _error_in((await peer.ask(encode_hmp(f"loadvm {OTHER}")))[0])
        saved = ""
        made = {Operation.SAVE: FRESH, Operation.OVERWRITE: VICTIM}.get(fault.operation)
        if made is not None and not answer:
            saved = _error_in((await peer.ask(encode_hmp(f"loadvm {made}")))[0])
        removed = (await peer.ask(encode("blockdev-del", node_name=NODE)))[0]
        if removed.error:
            raise InfraError(f"QEMU keeps an image that was in order: {removed.error}")
        return other, saved

    def _names(self) -> frozenset[str] | None:
        try:
            return frozenset(snapshot.name for snapshot in snapshots(self._used))
        except UsageError:
            return None

    def _add(self, between: dict[str, object] | None) -> bytes:
        """The command that opens the image, through a driver in between or not."""
        file: dict[str, object] = {
            "driver": "file", "filename": str(self._used), "locking": "off",
        }  # fmt: skip
        if between is not None:
            file = {**between, "image": file}
        return encode("blockdev-add", driver="qcow2", node_name=NODE, file=file)


def _error_in(reply: Reply) -> str:
    """Why the monitor refused, "" if it did not: it only prints."""
    if reply.error:
        return reply.error
    lines = [line.strip() for line in reply.text.splitlines() if line.strip()]
    return " / ".join(lines) if any(line.startswith("Error") for line in lines) else ""
