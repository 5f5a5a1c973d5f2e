"""Saving a machine without its RAM to a file, as Xen's toolstack asks for.

Source: ``qmp_xen_save_devices_state`` of QEMU ``migration/savevm.c``; the RAM
is saved by Xen itself.
"""

import os
from errno import EINVAL, EIO

from savevm.errors import SaveError
from savevm.machine import Machine, RunState
from savevm.qemufile import FileSink, QEMUFileWriter
from savevm.save import qemu_save_device_state
from savevm.stopped import stopped
from savevm.trace import Trace


def xen_save_devices_state(
    machine: Machine,
    filename: str | os.PathLike[str],
    *,
    trace: Trace | None = None,
) -> None:
    """Save every device's state, but no RAM, to a file.

    The guest is stopped meanwhile and runs again afterwards if it ran.  A save
    that fails leaves behind a file that was cut off, as QEMU's does.

    Args:
        machine: what is saved.
        filename: made anew or overwritten.
        trace: hears the save.

    Raises:
        SaveError: the file cannot be opened ("Could not open …") or written
            ("An IO error has occurred").
    """
    with stopped(machine, RunState.SAVE_VM):
        try:
            file = open(filename, "wb")  # noqa: SIM115 -- the QEMUFile closes it
        except OSError as error:
            code = error.errno or EIO
            raise _could_not_open(filename, code) from error
        except ValueError as error:
            # A NUL ends a path in C; Python refuses such a path.
            raise _could_not_open(filename, EINVAL) from error
        f = QEMUFileWriter(FileSink(file), trace=trace)
        try:
            qemu_save_device_state(f, machine)
        except SaveError as error:
            raise SaveError("An IO error has occurred", errno=error.errno) from error
        finally:
            failure = f.close()
        if failure and not machine.profile.close_errors_ignored:
            raise SaveError("An IO error has occurred", errno=-failure)


def _could_not_open(filename: str | os.PathLike[str], code: int) -> SaveError:
    return SaveError(f"Could not open '{os.fspath(filename)}': {os.strerror(code)}", errno=code)
