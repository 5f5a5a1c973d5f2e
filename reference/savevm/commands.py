"""VM_COMMANDs: what a source tells a destination between sections.

Parsed and checked as QEMU does, with the postcopy states that order them; the
model itself does not do postcopy.  Source: QEMU ``migration/savevm.c``,
``loadvm_process_command`` and ``mig_cmd_args``.
"""

from dataclasses import dataclass
from enum import IntEnum
from errno import ERANGE
from typing import Final

from savevm.errors import LoadError
from savevm.qemufile import QEMUFileReader
from savevm.recording import Role

MAX_VM_CMD_PACKAGED_SIZE: Final = 1 << 24
"""QEMU's own bound for PACKAGED (``MAX_VM_CMD_PACKAGED_SIZE`` was 1 << 24)."""
PACKAGED_DEPTH_MAX: Final = 1
"""A package inside a package has no use; QEMU would recurse on its stack."""
_ANY: Final = -1


class Command(IntEnum):
    """``enum qemu_vm_cmd``."""

    INVALID = 0
    OPEN_RETURN_PATH = 1
    PING = 2
    POSTCOPY_ADVISE = 3
    POSTCOPY_LISTEN = 4
    POSTCOPY_RUN = 5
    POSTCOPY_RAM_DISCARD = 6
    PACKAGED = 7
    ENABLE_COLO = 8
    POSTCOPY_RESUME = 9
    RECV_BITMAP = 10
    SWITCHOVER_START = 11


LENGTHS: Final[dict[Command, int]] = {
    Command.OPEN_RETURN_PATH: 0,
    Command.PING: 4,
    Command.POSTCOPY_ADVISE: _ANY,
    Command.POSTCOPY_LISTEN: 0,
    Command.POSTCOPY_RUN: 0,
    Command.POSTCOPY_RAM_DISCARD: _ANY,
    Command.PACKAGED: 4,
    Command.ENABLE_COLO: 0,
    Command.POSTCOPY_RESUME: 0,
    Command.RECV_BITMAP: _ANY,
    Command.SWITCHOVER_START: 0,
}


class PostcopyState(IntEnum):
    """How far postcopy has come (``PostcopyState``)."""

    NONE = 0
    ADVISE = 1
    DISCARD = 2
    LISTENING = 3
    RUNNING = 4


@dataclass(frozen=True, slots=True)
class ReceivedCommand:
    """One command of a stream.

    Attributes:
        offset: of its type byte.
        command: which one.
        payload: its bytes; for PACKAGED the four of the package's length.
    """

    offset: int
    command: Command
    payload: bytes


def read_command(f: QEMUFileReader, offset: int) -> ReceivedCommand:
    """Read one command behind its type byte.

    Raises:
        LoadError: unknown (EINVAL), of a wrong length (ERANGE), or cut off.
    """
    number = f.get_be16(Role.COMMAND)
    length = f.get_be16(Role.COMMAND_LENGTH)
    if f.trace is not None:
        f.trace("loadvm_process_command", number, length)
    payload = f.get_buffer(length, Role.COMMAND_DATA)
    known = number in LENGTHS
    if not known:
        f.complain(
            LoadError(
                f"unknown command {number:#x} with {length} bytes",
                offset=offset + 1,
                actual=number,
                qemu=f"MIG_CMD 0x{number:x} unknown (len 0x{length:x})",
            )
        )
        return ReceivedCommand(offset, Command.INVALID, payload)
    command = Command(number)
    expected = LENGTHS[command]
    if expected not in (_ANY, length):
        raise LoadError(
            f"{command.name} has {expected} bytes, {length} announced",
            errno=ERANGE,
            offset=offset + 3,
            expected=expected,
            actual=length,
            qemu=f"{command.name} received with bad length - expecting {expected}, got {length}",
        )
    return ReceivedCommand(offset, command, payload)


def next_postcopy_state(state: PostcopyState, received: ReceivedCommand) -> PostcopyState:
    """The postcopy state after a command.

    Raises:
        LoadError: the command has no place in this state, or its payload is
            malformed.
    """
    command, payload, offset = received.command, received.payload, received.offset
    if command is Command.POSTCOPY_ADVISE:
        _require(state is PostcopyState.NONE, command, state, offset)
        if len(payload) not in (0, 16):
            raise LoadError(
                f"POSTCOPY_ADVISE has 0 or 16 bytes, {len(payload)} announced",
                offset=offset + 3,
                expected=16,
                actual=len(payload),
            )
        return PostcopyState.ADVISE
    if command is Command.POSTCOPY_RAM_DISCARD:
        _require(state in (PostcopyState.ADVISE, PostcopyState.DISCARD), command, state, offset)
        _check_discard(payload, offset)
        return PostcopyState.DISCARD
    if command is Command.POSTCOPY_LISTEN:
        _require(state in (PostcopyState.ADVISE, PostcopyState.DISCARD), command, state, offset)
        return PostcopyState.LISTENING
    if command is Command.POSTCOPY_RUN:
        _require(state is PostcopyState.LISTENING, command, state, offset)
        return PostcopyState.RUNNING
    if command is Command.RECV_BITMAP and (not payload or payload[0] != len(payload) - 1):
        raise LoadError("the block name's length and the command's disagree", offset=offset + 5)
    return state


def _require(allowed: bool, command: Command, state: PostcopyState, offset: int) -> None:
    if not allowed:
        raise LoadError(
            f"{command.name} while postcopy is {state.name}",
            offset=offset + 1,
            actual=state.name,
            qemu=f"CMD_{command.name} in wrong postcopy state ({int(state)})",
        )


def _check_discard(payload: bytes, offset: int) -> None:
    """u8 version 0, u8 length, name, u8 0, then at least one pair of be64."""
    name_length = payload[1] if len(payload) > 1 else 0
    pairs = payload[2 + name_length + 1 :]
    if payload[:1] != b"\0" or not name_length or len(payload) < 3 + name_length + 16:
        raise LoadError("malformed RAM discard", offset=offset + 5, actual=payload[:2].hex())
    if payload[2 + name_length] or len(pairs) % 16:
        raise LoadError(
            "the ranges of a RAM discard do not fit its length",
            offset=offset + 5,
            actual=len(pairs),
        )
