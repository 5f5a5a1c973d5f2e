"""What runs inside a worker of Dask: it has parcels done, each by a process of its own.

A load may hang, kill or fill its process; the Dask worker has to outlive that.  So it only
starts :mod:`loadfuzz.campaign.parcel_worker`, passes on what that says, and ends it when it
is time.  The process dies with its Dask worker.
"""

import os
import subprocess
import sys
import tempfile
import threading
from contextlib import suppress
from pathlib import Path
from signal import SIGKILL, SIGTERM
from typing import Final

from distributed import Worker, WorkerPlugin, get_worker

from loadfuzz import __version__, launch
from loadfuzz.campaign.parcel import MESSAGE_SIZE_MAX, Finished, encode_message
from loadfuzz.campaign.parcel_worker import PARCEL

PARCEL_MAX_S: Final = 900.0
"""Longest time of one parcel with all that belongs to it: a batch of a minute, and hangs that
are confirmed after it."""
_TAIL: Final = 2000
"""Bytes of what a process last said that go into a warning: the end of a traceback."""
_FINISHED: Final = b'{"message":"finished"'
_KEPT: Final = b'{"message":"kept"'


class ParcelPlugin(WorkerPlugin):
    """Does the parcels of one campaign on one Dask worker.

    Args:
        campaign: its identity; also the topic under which messages are sent.
    """

    def __init__(self, campaign: str) -> None:
        self.name = campaign
        self._running: set[subprocess.Popen[bytes]] = set()
        self._stopped = threading.Event()

    def __reduce__(self) -> tuple[type["ParcelPlugin"], tuple[str]]:
        return ParcelPlugin, (self.name,)

    def setup(self, worker: Worker) -> None:
        """Called by Dask on its worker."""
        self._worker = worker

    def teardown(self, worker: Worker) -> None:
        """Called by Dask when the worker, or the campaign, ends."""
        self.stop(kill=True)

    def stop(self, *, kill: bool) -> None:
        """End what runs, and begin nothing more."""
        self._stopped.set()
        for process in list(self._running):
            _signal(process, kill=kill)

    def work(self, number: int, parcel: bytes) -> bytes:
        """Do a parcel; returns what it kept and its last message, one a line.

        Args:
            number: of the parcel; goes with every message.
            parcel: encoded.
        """
        if self._stopped.is_set():
            return encode_message(Finished(False, ""))
        with (
            tempfile.TemporaryDirectory(
                prefix="loadfuzz-", dir=self._worker.local_directory, ignore_cleanup_errors=True
            ) as folder,
            (Path(folder) / "stderr").open("w+b") as stderr,
        ):
            (Path(folder) / PARCEL).write_bytes(parcel)
            process = subprocess.Popen(
                [
                    sys.executable, "-I", "-S", launch.__file__, str(os.getpid()),
                    sys.executable, "-m", "loadfuzz.campaign.parcel_worker", folder,
                ],
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=stderr,
                start_new_session=True,
            )  # fmt: skip
            self._running.add(process)
            timer = threading.Timer(PARCEL_MAX_S, _signal, [process], {"kill": True})
            timer.daemon = True
            timer.start()
            try:
                if self._stopped.is_set():  # while it was being started
                    _signal(process, kill=False)
                kept, last = self._listen(number, process)
            finally:
                timer.cancel()
                _signal(process, kill=True)
                status = process.wait()
                self._running.discard(process)
            if last:
                return b"".join([*kept, last])
            stderr.seek(0)
            said = stderr.read()[-_TAIL:].decode("utf-8", "replace").strip()
            problem = f"a batch ended early ({status}): {said or 'it said nothing'}"
            problem = "" if self._stopped.is_set() else problem
            return b"".join([*kept, encode_message(Finished(False, problem))])

    def _listen(self, number: int, process: subprocess.Popen[bytes]) -> tuple[list[bytes], bytes]:
        """Pass on what a process says; returns what it kept, and its last message."""
        kept: list[bytes] = []
        assert process.stdout is not None, "opened above"
        while line := process.stdout.readline(MESSAGE_SIZE_MAX):
            if line.startswith(_FINISHED):
                return kept, line
            if line.startswith(_KEPT):
                kept.append(line)
                continue
            self._worker.log_event(self.name, {"number": number, "line": line})
        return kept, b""


def _signal(process: subprocess.Popen[bytes], *, kill: bool) -> None:
    if process.returncode is not None:
        return  # its number may be somebody else's by now
    with suppress(ProcessLookupError, PermissionError):
        if kill:
            os.killpg(process.pid, SIGKILL)
        else:
            os.kill(process.pid, SIGTERM)


def do_parcel(campaign: str, version: str, number: int, parcel: bytes) -> bytes:
    """The task that Dask runs: see :meth:`ParcelPlugin.work`.

    Raises:
        RuntimeError: this machine, which came later, has another loadfuzz.
    """
    if version != __version__:
        raise RuntimeError(f"a worker has loadfuzz {__version__}, and not {version}")
    plugin = get_worker().plugins[campaign]
    assert isinstance(plugin, ParcelPlugin), "the campaign registered it"
    return plugin.work(number, parcel)


def stop_parcels(campaign: str, dask_worker: Worker) -> None:
    """Run by Dask on every worker when a campaign ends; ``dask_worker`` is set by Dask."""
    plugin = dask_worker.plugins.get(campaign)
    if isinstance(plugin, ParcelPlugin):
        plugin.stop(kill=False)


def version_there() -> str:
    """The loadfuzz that a Dask worker has."""
    return __version__
