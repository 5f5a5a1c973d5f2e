"""B41: a run of changed bytes goes on behind the end of the page."""

from typing import Final

from loadfuzz.bench.truth import BugRow
from loadfuzz_targets.planted.bug import Parts, PlantedBug, Site
from loadfuzz_targets.planted.examples import document
from savevm.constants import TARGET_PAGE_SIZE
from savevm.qemufile import Buffer
from savevm.ram.load import RAMLoader
from savevm.ram.xbzrle import DECODE_ERROR, uleb128_decode_small, xbzrle_decode_buffer


def _beyond(data: Buffer) -> bytes:
    """The changed bytes that lie behind the page, if that is what is wrong."""
    at = done = 0
    while len(data) - at >= 2:
        taken, zrun = uleb128_decode_small(data, at)
        if taken < 0:
            break
        at, done = at + taken, done + zrun
        taken, nzrun = uleb128_decode_small(data, at)
        if taken < 0 or done > TARGET_PAGE_SIZE or at + taken + nzrun > len(data):
            break
        at, done = at + taken + nzrun, done + nzrun
        if done > TARGET_PAGE_SIZE:
            return bytes(data[at - (done - TARGET_PAGE_SIZE) : at])
    return b""


def _plant(site: Site) -> Parts:
    class RAMLoaderWithLongRuns(RAMLoader):
        """Compares the end of a run with the encoded bytes, not with the page."""

        def decode_xbzrle(self, data: Buffer, page: bytearray) -> int:
            done = xbzrle_decode_buffer(data, page)
            beyond = _beyond(data) if done == DECODE_ERROR else b""
            site.canary.check(beyond)
            if beyond:
                buffer = site.heap.alloc(TARGET_PAGE_SIZE, "ram/decoded_buf")
                buffer.write(TARGET_PAGE_SIZE, beyond)
                buffer.free()
            return done

    return Parts(ram=RAMLoaderWithLongRuns)


def _example() -> bytes:
    tree = document("ram-xbzrle")
    leaf = tree.find("ram/END/pc.ram/xbzrle 0x0/xbzrle data")
    data = tree.bytes_of(leaf)
    return tree.with_bytes(leaf, b"\xff\x1f" + bytes([len(data) - 3]) + bytes(len(data) - 3))


XBZRLE_OVERRUN: Final = PlantedBug(
    BugRow(
        name="ram-xbzrle-overrun",
        bug_class="B41",
        device="ram",
        field="encoded bytes of an XBZRLE page",
        trigger="a run of changed bytes that ends behind the page",
        oracle="no-leak",
        evidence=r"^redzone/ram/decoded_buf",
        mirrors="QEMU migration/xbzrle.c: the check d + count > dlen",
    ),
    _plant,
    _example,
)
