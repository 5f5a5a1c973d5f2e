"""An async loader of migration streams with three bugs, for tests of the target ``callable``.

It reads header, configuration and sections up to the EOF byte, and knows the global state of
the reference's machine; other devices are passed over up to their footer.  What it refuses,
it refuses with :class:`BadStream`, or with the ``IncompleteReadError`` of a stream that ends.

The bugs, by what a stream must have:

1. a run state that is not in its table: ``enter_run_state`` raises ``KeyError``;
2. a command whose payload is no whole number of words: ``skip_payload`` reads nothing, for ever;
3. a part of a section that has not begun: ``load_part`` waits for its beginning for ever.
"""

import asyncio
from collections import defaultdict

MAGIC = 0x5145564D
VERSION = 3
EOF, START, PART, END, FULL = range(5)
CONFIGURATION, COMMAND, FOOTER = 0x07, 0x08, 0x7E
SUBSECTION = 0x05
RUNSTATE_SIZE = 100
DEVICE_SIZE_MAX = 1 << 22
WORD = 4
PAYLOAD_STEP = 64
RUN_STATES = {
    name: number
    for number, name in enumerate(("prelaunch", "running", "paused", "inmigrate", "postmigrate"))
}


class BadStream(Exception):
    """The stream is refused."""


class Loader:
    """Loads one stream."""

    def __init__(self, reader: asyncio.StreamReader) -> None:
        self._reader = reader
        self._begun: defaultdict[int, asyncio.Event] = defaultdict(asyncio.Event)
        self.run_state = 0

    async def load(self) -> None:
        """Everything up to the EOF byte."""
        if await self.be32() != MAGIC:
            raise BadStream("not a migration stream")
        if await self.be32() != VERSION:
            raise BadStream("another version of the format")
        kind = await self.byte()
        if kind == CONFIGURATION:
            kind = await self.load_configuration()
        while kind != EOF:
            if kind in (START, FULL):
                await self.load_section()
            elif kind in (PART, END):
                await self.load_part()
            elif kind == COMMAND:
                await self.load_command()
            else:
                raise BadStream(f"a section of unknown type {kind}")
            kind = await self.byte()

    async def load_configuration(self) -> int:
        """The machine type and what belongs to it; the byte behind that is returned."""
        await self.take(min(await self.be32(), DEVICE_SIZE_MAX))
        kind = await self.byte()
        while kind == SUBSECTION:
            await self.take(await self.byte())
            await self.take(4 + 16)
            kind = await self.byte()
        return kind

    async def load_section(self) -> None:
        """A device whose section begins here."""
        section_id = await self.be32()
        name = await self.take(await self.byte())
        await self.take(8)
        self._begun[section_id].set()
        if name == b"globalstate":
            await self.load_globalstate()
        await self.pass_footer(section_id)

    async def load_part(self) -> None:
        """More of a device."""
        section_id = await self.be32()
        await self._begun[section_id].wait()
        await self.pass_footer(section_id)

    async def load_command(self) -> None:
        """A command that is passed over."""
        await self.take(2)
        await self.skip_payload(int.from_bytes(await self.take(2), "big"))

    async def skip_payload(self, size: int) -> None:
        """The payload of a command, in whole words."""
        rest = size
        while rest:
            rest -= len(await self.take(min(rest, PAYLOAD_STEP) // WORD * WORD))

    async def load_globalstate(self) -> None:
        """What the machine was doing."""
        size = await self.be32()
        text = await self.take(RUNSTATE_SIZE)
        if not 0 < size <= RUNSTATE_SIZE:
            raise BadStream(f"a run state of {size} bytes")
        self.enter_run_state(text.partition(b"\0")[0].decode("latin-1"))

    def enter_run_state(self, name: str) -> None:
        """Go on with what the machine was doing."""
        self.run_state = RUN_STATES[name]

    async def pass_footer(self, section_id: int) -> None:
        """What is left of a device, and its footer."""
        footer = bytes([FOOTER]) + section_id.to_bytes(4, "big")
        window = bytearray()
        for _ in range(DEVICE_SIZE_MAX):
            window += await self.take(1)
            del window[: -len(footer)]
            if window == footer:
                return
        raise BadStream("a section has no footer")

    async def be32(self) -> int:
        """A number of four bytes."""
        return int.from_bytes(await self.take(4), "big")

    async def byte(self) -> int:
        """A byte."""
        return (await self.take(1))[0]

    async def take(self, size: int) -> bytes:
        """So many bytes."""
        return await self._reader.readexactly(size)


async def load(reader: asyncio.StreamReader) -> int:
    """Load a stream; the run state it ends in."""
    loader = Loader(reader)
    await loader.load()
    return loader.run_state
