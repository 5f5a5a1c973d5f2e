"""The examinations of ``loadfuzz doctor``."""

import asyncio
import errno
import os
import platform
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from enum import StrEnum
from importlib.metadata import PackageNotFoundError, version
from typing import Final

from loadfuzz import __version__
from loadfuzz.campaign.settings import cores
from loadfuzz.plugins import TARGETS, find
from loadfuzz.qemu.ptrace import TraceError
from loadfuzz.qemu.template import Template

PROBE_TIMEOUT_S: Final = 20.0
"""Time for a program to tell its version, or for a package to be imported."""
COPY_TIMEOUT_S: Final = 5.0
COPY_LOOKS: Final = 500
"""For an interpreter that has nothing to do."""
SPACE_MIN_BYTES: Final = 1 << 30
"""Room a night's campaign takes at most, by experience."""
PYTHON_MIN: Final = (3, 11)
QEMU_PREFIX: Final = "qemu-system-"
QEMU_MAX: Final = 40
"""QEMU binaries asked for their version; Debian has some thirty."""


class State(StrEnum):
    """How something is."""

    OK = "ok"
    MISSING = "missing"
    BROKEN = "broken"


_LIBRARIES: Final = (
    ("distributed", "Dask, for 'loadfuzz run --cluster'", "pip install 'loadfuzz[cluster]'"),
    ("matplotlib", "pictures of 'bench bugs'", "pip install 'loadfuzz[report]'"),
    ("coverage", "'loadfuzz coverage'", "pip install 'loadfuzz[coverage]'"),
    ("hypothesis", "strategies for property tests, and a rival in 'bench bugs'",
     "pip install hypothesis"),
)  # fmt: skip
"""Libraries that parts of loadfuzz need: name, what is missed without, how to get it."""

_PROGRAMS: Final = (
    ("zzuf", "a rival in 'bench bugs'", "apt install zzuf, or your system's way"),
    ("gdb", "where a QEMU hangs; without it hangs are named by their field alone",
     "apt install gdb, or your system's way"),
)  # fmt: skip
"""Programs, in the same way."""

SHARED_MEMORY: Final = "/dev/shm"
SHARED_MIN_BYTES: Final = 1 << 26
"""Two workers have some processes each, with an image of some MiB."""


@dataclass(frozen=True, slots=True)
class Check:
    """One examination.

    Attributes:
        found: what is there.
        costs: what cannot be done for want of it, "" when it is there.
        get: how to get it.
    """

    name: str
    state: State
    found: str
    costs: str = ""
    get: str = ""


def examine() -> list[Check]:
    """All examinations; takes a second or two."""
    return [
        Check("loadfuzz", State.OK, __version__),
        _python(),
        _targets(),
        _cores(),
        _atheris(),
        *(_library(*wanted) for wanted in _LIBRARIES),
        *(_program(*row) for row in _PROGRAMS),
        *_qemus(),
        _kvm(),
        _copies(),
        _space("temporary space", tempfile.gettempdir()),
        _shared_memory(),
        _space("space here", os.curdir),
    ]


def _python() -> Check:
    found = f"{platform.python_implementation()} {platform.python_version()} ({sys.executable})"
    if sys.version_info < PYTHON_MIN:
        return Check("Python", State.BROKEN, found, "everything", "install Python 3.11 or newer")
    return Check("Python", State.OK, found)


def _targets() -> Check:
    plugins = find(TARGETS)
    rivals = [plugin.name for plugin in plugins.values() if plugin.rivals]
    if not plugins:
        return Check("targets", State.BROKEN, "none", "there is nothing to fuzz",
                     "install loadfuzz as a package: pip install loadfuzz")  # fmt: skip
    if rivals:
        return Check("targets", State.BROKEN, f"offered twice: {', '.join(rivals)}",
                     "these cannot be fuzzed", "uninstall one of the packages; see "
                     "'loadfuzz targets --json'")  # fmt: skip
    return Check("targets", State.OK, ", ".join(plugins))


def _cores() -> Check:
    usable, there = cores(), os.cpu_count() or 1
    found = f"{usable}" if usable == there else f"{usable} of {there} may be used"
    return Check("cores", State.OK, found)


def _atheris() -> Check:
    # In a process of its own: it loads a runtime that is not to be unloaded.
    code = "import atheris, importlib.metadata as m; print(m.version('atheris'))"
    status, text = _ask([sys.executable, "-c", code])
    if status == 0:
        return Check("Atheris", State.OK, text)
    reason = text.splitlines()[-1] if text else "cannot be imported"
    return Check(
        "Atheris", State.MISSING, reason,
        "coverage of the loader's code; 'run' uses the native engine, which sees trace events",
        "pip install 'loadfuzz[atheris]' (Linux on x86-64, CPython 3.11 to 3.14)",
    )  # fmt: skip


def _library(name: str, costs: str, get: str) -> Check:
    try:
        return Check(name, State.OK, version(name))
    except PackageNotFoundError:
        return Check(name, State.MISSING, "is not installed", costs, get)


def _program(name: str, costs: str, get: str) -> Check:
    path = shutil.which(name)
    if path is None:
        return Check(name, State.MISSING, "is not installed", costs, get)
    return Check(name, State.OK, path)


def _qemus() -> list[Check]:
    found: dict[str, str] = {}
    for folder in os.get_exec_path():
        try:
            names = sorted(os.listdir(folder))
        except OSError:
            continue
        for name in names:
            path = shutil.which(name, path=folder) if name.startswith(QEMU_PREFIX) else None
            if path is not None and name not in found and len(found) < QEMU_MAX:
                found[name] = path
    if not found:
        return [Check(
            "QEMU", State.MISSING, "no qemu-system-* on the path",
            "streams of real machines, and the tests against a real QEMU",
            "apt install qemu-system-x86, dnf install qemu-system-x86, or your system's way",
        )]  # fmt: skip
    checks: list[Check] = []
    for name, path in found.items():
        status, text = _ask([path, "--version"])
        first = text.splitlines()[0] if text else "says nothing"
        if status == 0:
            checks.append(Check(name, State.OK, f"{first.removeprefix('QEMU emulator ')} ({path})"))
        else:
            checks.append(Check(name, State.MISSING, f"{path} does not run: {first}",
                                "this binary cannot be used", "reinstall it"))  # fmt: skip
    return checks


def _kvm() -> Check:
    if os.access("/dev/kvm", os.R_OK | os.W_OK):
        return Check("KVM", State.OK, "/dev/kvm")
    found = "no access to /dev/kvm" if os.path.exists("/dev/kvm") else "no /dev/kvm"
    return Check(
        "KVM", State.MISSING, found, "speed of guests in a real QEMU; nothing else",
        "run on a machine with KVM, as a member of group kvm",
    )  # fmt: skip


def _copies() -> Check:
    costs = "half of what starting a QEMU takes"
    try:
        code = asyncio.run(_copied())
    except TraceError as error:
        get = "an x86-64 Linux with glibc"
        if os.strerror(errno.EPERM) in str(error):
            get = "allow ptrace: --cap-add=SYS_PTRACE, or kernel.yama.ptrace_scope at most 1"
        return Check("copies", State.MISSING, str(error), costs, get)
    if code != 0:
        return Check("copies", State.BROKEN, f"a copy ended with {code}", costs, "report it")
    return Check("copies", State.OK, "QEMUs are copied from one that is linked (ptrace)")


async def _copied() -> int | None:
    """How a copied process ends; ``None`` when it does not."""
    program = [sys.executable, "-I", "-S", "-c", ""]
    template = await Template.start(lambda _: program, 0, dict(os.environ))
    try:
        ours, theirs = socket.socketpair()
        with ours, theirs, open(os.devnull, "wb") as output:
            copy = template.copy(theirs.fileno(), output.fileno(), [])
            pause_s = COPY_TIMEOUT_S / COPY_LOOKS
            for _ in range(COPY_LOOKS):
                if (code := copy.poll()) is not None:
                    return code
                await asyncio.sleep(pause_s)
            os.kill(copy.pid, signal.SIGKILL)
            return None
    finally:
        template.end()


def _space(name: str, path: str) -> Check:
    try:
        free = shutil.disk_usage(path).free
    except OSError as error:
        return Check(name, State.BROKEN, f"{path}: {error.strerror}", "campaigns have no folder",
                     "set TMPDIR, or give --out")  # fmt: skip
    found = f"{free / (1 << 30):.1f} GiB free in {os.path.abspath(path)}"
    if free < SPACE_MIN_BYTES:
        return Check(name, State.MISSING, found, "a long campaign may run out of disk",
                     "make room, set TMPDIR, or give --out")  # fmt: skip
    return Check(name, State.OK, found)


def _shared_memory() -> Check:
    try:
        free = shutil.disk_usage(SHARED_MEMORY).free
    except OSError:
        free = 0
    found = f"{free >> 20:,} MiB free in {SHARED_MEMORY}"
    if free < SHARED_MIN_BYTES:
        return Check("shared memory", State.MISSING, found,
                     "images of a QEMU that is fuzzed are on disk, which is slower",
                     "in a container: --shm-size=1g")  # fmt: skip
    return Check("shared memory", State.OK, found)


def _ask(argv: list[str]) -> tuple[int, str]:
    try:
        done = subprocess.run(
            argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace",
            timeout=PROBE_TIMEOUT_S, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return -1, f"no answer within {PROBE_TIMEOUT_S:.0f} s"
    except OSError as error:
        return -1, error.strerror or str(error)
    return done.returncode, (done.stdout or done.stderr).strip()
