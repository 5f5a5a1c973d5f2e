"""Inspecting a large stream: rate on RAM pages and memory at its peak.

The stream is written to a temporary file and inspected in a process of its
own, whose peak is compared with that of one that inspects a tiny stream.
"""

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

from loadfuzz.bench.ram import PAGE
from loadfuzz.bench.results import Figure
from loadfuzz.errors import InfraError

RATE_GOAL_MB_S: Final = 300.0
MEMORY_GOAL_MIB: Final = 150.0
_DEADLINE_S: Final = 300.0
_NAME: Final = b"pc.ram"
_CHILD: Final = """
import sys, time
from savevm.document import Document
from savevm.document.inspection import describe
start = time.process_time()
described = describe(Document.parse_file(sys.argv[1]))
seconds = time.process_time() - start
assert not described.problems, described.problems[:1]
# Not ru_maxrss: that begins with what the parent had when it started us.
status = open("/proc/self/status").read()
print(seconds, status.partition("VmHWM:")[2].split()[0])
"""


def write_stream(path: Path, size_mib: int) -> None:
    """A stream of ``size_mib`` MiB of full pages in one PART section."""
    pages = (size_mib << 20) // PAGE
    name = bytes([len(_NAME)]) + _NAME
    footer = b"\x7e" + (2).to_bytes(4, "big")
    eos = (0x10).to_bytes(8, "big")
    total = pages * PAGE
    start = b"\x01" + (2).to_bytes(4, "big") + b"\x03ram" + bytes(4) + (4).to_bytes(4, "big")
    block_list = (total | 0x04).to_bytes(8, "big")
    if pages:
        block_list += name + total.to_bytes(8, "big")
    body = bytes(range(1, 256)) * 17
    page = body[:PAGE]
    with path.open("wb") as file:
        file.write(b"QEVM" + (3).to_bytes(4, "big"))
        file.write(start + block_list + eos + footer)
        file.write(b"\x02" + (2).to_bytes(4, "big"))
        if pages:
            file.write((0x08).to_bytes(8, "big") + name + page)
        for number in range(1, pages):
            file.write((number * PAGE | 0x28).to_bytes(8, "big") + page)
        file.write(eos + footer + b"\x03" + (2).to_bytes(4, "big") + eos + footer + b"\0")


def measure(size_mib: int) -> list[Figure]:
    """Rate in MB/s of CPU time, and MiB at the peak beyond a tiny stream's."""
    with tempfile.TemporaryDirectory(prefix="loadfuzz-") as name:
        large, tiny = Path(name) / "large", Path(name) / "tiny"
        write_stream(large, size_mib)
        write_stream(tiny, 0)
        seconds, peak_kib = _inspect(large)
        _, base_kib = _inspect(tiny)
        size_mb = large.stat().st_size / 1e6
    rate, memory = size_mb / seconds, (peak_kib - base_kib) / 1024
    return [
        Figure(
            "inspect-rate", rate, "MB/s", RATE_GOAL_MB_S, rate / RATE_GOAL_MB_S, 1.0,
            f"goal of {RATE_GOAL_MB_S:.0f} MB/s on {size_mib} MiB of RAM pages",
        ),
        Figure(
            "inspect-memory", memory, "MiB", MEMORY_GOAL_MIB,
            MEMORY_GOAL_MIB / max(memory, 0.1), 1.0,
            f"goal of {MEMORY_GOAL_MIB:.0f} MiB beyond the interpreter's peak",
        ),
    ]  # fmt: skip


def _inspect(path: Path) -> tuple[float, int]:
    done = subprocess.run(
        [sys.executable, "-c", _CHILD, str(path)],
        capture_output=True, text=True, timeout=_DEADLINE_S, check=False,
    )  # fmt: skip
    if done.returncode:
        raise InfraError(f"inspecting the benchmark's stream failed: {done.stderr[-500:]}")
    seconds, peak = done.stdout.split()
    return float(seconds), int(peak)
