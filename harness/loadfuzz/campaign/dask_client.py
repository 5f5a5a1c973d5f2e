"""All that a campaign wants of a Dask scheduler, in types of ours.

Dask comes with the extra ``cluster``; nothing but this file and
:mod:`loadfuzz.campaign.dask_worker` imports it.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Final

import msgspec
from distributed import Client
from distributed.scheduler import KilledWorker

from loadfuzz import __version__
from loadfuzz.campaign.dask_worker import ParcelPlugin, do_parcel, stop_parcels, version_there
from loadfuzz.errors import InfraError, UsageError

CONNECT_S: Final = 15.0
"""Time that a scheduler has to answer, and a first worker to come."""
LEAVE_S: Final = 5.0
"""Time that taking leave of it may take."""

OnMessage = Callable[[int, bytes], None]
"""Called with the number of a parcel and a message of it."""


class _Declared(msgspec.Struct):
    """What we want of what the scheduler says of a worker."""

    resources: dict[str, float] = {}


class _Identity(msgspec.Struct):
    """And of itself."""

    workers: dict[str, _Declared]


class ParcelLostError(Exception):
    """No machine could finish a parcel; the text says why."""


class Scheduler:
    """A Dask scheduler that has parcels done; an async context manager for one use.

    Args:
        address: where it listens.
        campaign: name of the campaign, unlike any other's.
        hear: hears what parcels say while they are worked on.

    Attributes:
        slot: resource of which each parcel takes one
            (:attr:`loadfuzz.abc.NeedsSlots.slot`), "" for none.
        slotted: some worker has declared it; from then on parcels go nowhere else.
    """

    def __init__(self, address: str, campaign: str, hear: OnMessage) -> None:
        self._address = address
        self._campaign = campaign
        self._hear = hear
        self._client: Client | None = None
        self._declared: dict[str, int] = {}
        self.slot = ""
        self.slotted = False

    async def __aenter__(self) -> "Scheduler":
        """Connect, wait for a first worker, and see that it has the same loadfuzz.

        Raises:
            UsageError: nobody is there, or they have another loadfuzz.
            InfraError: there are no workers.
        """
        client = Client(  # type: ignore[no-untyped-call]
            self._address, asynchronous=True, timeout=CONNECT_S, set_as_default=False,
            name="loadfuzz",
        )  # fmt: skip
        try:
            await client
        except (OSError, TimeoutError, ValueError) as error:
            await _close(client)
            raise UsageError(
                f"no Dask scheduler answers at {self._address} ({error}); start one with "
                "'dask scheduler', or have one of your own with --cluster local"
            ) from error
        self._client = client
        try:
            await self._wait_for_workers(client)
            await self._check_versions(client)
            client.subscribe_topic(self._campaign, self._dispatch)  # type: ignore[no-untyped-call]
            await client.register_plugin(ParcelPlugin(self._campaign))
        except BaseException:
            await _close(client)
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End what runs there for us, and disconnect."""
        client = self._connected()
        with suppress(Exception):  # whatever ails it, we are leaving
            async with asyncio.timeout(LEAVE_S):
                await client.unregister_worker_plugin(  # type: ignore[no-untyped-call]
                    self._campaign
                )
        await _close(client)

    async def capacity(self) -> int:
        """Parcels that it can do at a time now: as many as there are threads, or slots for them
        where workers declare such.

        Raises:
            InfraError: it is gone.
        """
        try:
            found: dict[str, int] = await self._connected().nthreads()  # type: ignore[no-untyped-call]
            if self.slot and not found.keys() <= self._declared.keys():
                # Only when somebody came: with a thousand workers it is a megabyte.
                self._declared = await self._slots()
        except (OSError, TimeoutError) as error:
            raise InfraError(
                f"the Dask scheduler at {self._address} is gone ({error}); findings so far are kept"
            ) from error
        slots = {worker: self._declared.get(worker, 0) for worker in found}
        self.slotted = self.slotted or any(slots.values())
        if not self.slotted:
            return sum(found.values())
        return sum(min(threads, slots[worker]) for worker, threads in found.items())

    async def _slots(self) -> dict[str, int]:
        """How many slots each worker declares, as ``dask worker --resources`` has it."""
        scheduler = self._connected().scheduler
        assert scheduler is not None, "connected"
        answer: object = await scheduler.identity()
        try:
            identity = msgspec.convert(answer, _Identity)
        except msgspec.ValidationError as error:
            raise InfraError(
                f"the Dask scheduler at {self._address} does not say what its workers have "
                f"({error}); install the same 'distributed' everywhere"
            ) from error
        return {
            worker: int(there.resources.get(self.slot, 0))
            for worker, there in identity.workers.items()
        }

    async def do(self, number: int, parcel: bytes) -> bytes:
        """Have a parcel done, by another machine again when one is lost; returns what it
        kept and its last message, one a line.

        Raises:
            ParcelLostError: it cannot be done.
        """
        future = self._connected().submit(
            do_parcel, self._campaign, __version__, number, parcel,
            key=f"{self._campaign}-{number}", pure=False,
            resources={self.slot: 1} if self.slotted else None,
        )  # fmt: skip
        try:
            data: bytes = await future
        except KilledWorker as error:
            raise ParcelLostError(f"batch {number} was lost with every machine it had") from error
        except asyncio.CancelledError as error:
            if future.cancelled():  # type: ignore[no-untyped-call]  # the scheduler has gone away
                raise ParcelLostError(f"batch {number} was cancelled by the cluster") from error
            raise
        except Exception as error:
            raise ParcelLostError(
                f"batch {number} failed: {type(error).__name__}: {error}"
            ) from error
        return data

    async def stop_parcels(self) -> None:
        """Ask for the end of all that runs for us; leaving brings it about."""
        with suppress(Exception):  # workers may be gone
            async with asyncio.timeout(LEAVE_S):
                await self._connected().run(stop_parcels, self._campaign, on_error="ignore")

    def _connected(self) -> Client:
        assert self._client is not None, "entered before it is used"
        return self._client

    async def _wait_for_workers(self, client: Client) -> None:
        waiting: object = client.wait_for_workers(1, timeout=CONNECT_S)  # type: ignore[func-returns-value]
        assert asyncio.iscoroutine(waiting), "the client is asynchronous"
        try:
            await waiting
        except TimeoutError:
            raise InfraError(
                f"the scheduler at {self._address} has no workers; start some with "
                f"'dask worker {self._address} --nthreads 1'"
            ) from None

    async def _check_versions(self, client: Client) -> None:
        try:
            found: dict[str, str] = await client.run(version_there)
        except Exception as error:
            raise UsageError(
                f"a worker of {self._address} cannot import loadfuzz ({error}); install "
                f"loadfuzz[cluster] {__version__} there"
            ) from error
        for worker, version in found.items():
            if version != __version__:
                raise UsageError(
                    f"{worker} has loadfuzz {version}, and this is {__version__}; install the "
                    "same one everywhere"
                )

    def _dispatch(self, event: tuple[float, object]) -> None:
        match event[1]:
            case {"number": int(number), "line": bytes(line)}:
                self._hear(number, line)
            case _:
                pass


async def _close(client: Client) -> None:
    with suppress(Exception):
        async with asyncio.timeout(LEAVE_S):
            closing: object = client.close()  # type: ignore[no-untyped-call]
            if asyncio.iscoroutine(closing) or asyncio.isfuture(closing):
                await closing
