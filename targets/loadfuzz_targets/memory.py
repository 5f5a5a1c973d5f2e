"""RAM as it was at one moment, to compare with and to go back to."""

from dataclasses import dataclass

from savevm.ram import RAMBlock, RAMState
from savevm.ram.incoming import Incoming
from savevm.ram.outgoing import Outgoing


@dataclass(frozen=True, slots=True)
class _BlockImage:
    block: RAMBlock
    used_length: int
    contents: bytes
    dirty: bytes


class MemoryImage:
    """Every block of RAM with its length, contents and dirty map.

    Args:
        ram: is remembered as it is now; must not be staged.
    """

    def __init__(self, ram: RAMState) -> None:
        self._ram = ram
        self._images = tuple(
            _BlockImage(
                block,
                block.used_length,
                block.memory.read(0, block.max_length),
                bytes(block.memory.dirty),
            )
            for block in ram.blocks
        )

    def contents_unchanged(self) -> bool:
        """Whether the blocks, their lengths and all bytes in use are as they
        were; the dirty map is bookkeeping and may differ."""
        return len(self._ram.blocks) == len(self._images) and all(
            now is image.block
            and now.used_length == image.used_length
            and now.memory.read(0, now.used_length) == image.contents[: image.used_length]
            for now, image in zip(self._ram.blocks, self._images, strict=True)
        )

    def restore(self) -> None:
        """Make everything as it was; loads and saves that broke off are forgotten."""
        ram = self._ram
        if ram.staged:
            ram.rollback()
        ram.incoming, ram.outgoing = Incoming(), Outgoing()
        ram.blocks[:] = [image.block for image in self._images]
        for image in self._images:
            memory = image.block.memory
            image.block.used_length = image.used_length
            memory.write(0, image.contents)
            memory.dirty[:] = image.dirty
