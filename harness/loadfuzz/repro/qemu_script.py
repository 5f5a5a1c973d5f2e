"""Files that let anyone who has a QEMU see a finding again, without loadfuzz.

::

    image.qcow2     snapshots s1, s2, ... are the streams, in the order in which they are loaded
    reproduce.sh    loads them into a QEMU that is started as ours was
    hexdump.txt     the streams, and what was changed in them

The script is ``reproduce-qemu.sh`` beside this file with a finding's settings put in.  It does
what :mod:`loadfuzz.qemu.loadvm` does, over HMP in place of QMP: after each command it waits for
the answer to ``info status``, so that a main loop that no longer turns shows.
"""

import math
import os
import re
import shlex
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Final

from loadfuzz.errors import InfraError
from loadfuzz.execution import Depth, Escape, Execution, ExitKind
from loadfuzz.findings import Finding
from loadfuzz.oracles import idempotent
from loadfuzz.qemu import closer, qcow2
from loadfuzz.qemu.instance import AGAIN, SAVED_TIMES, accelerator
from loadfuzz.qemu.machine import MachineSpec
from loadfuzz.qemu.machinetype import as_found
from loadfuzz.qemu.process import PRINTED_MAX
from loadfuzz.repro.folder import INPUT, SCRIPT, before_name
from loadfuzz.repro.hexdump_text import write_hexdump
from loadfuzz.wording import printable, shorten

IMAGE: Final = "image.qcow2"
HEXDUMP: Final = "hexdump.txt"

STREAMS_MAX: Final = qcow2.SLOTS_MAX
"""Streams in an image, the last of them where there are more: those are failures whose cause was
not found, and damage shows a few loads later, nearly always."""
TIMEOUT_S: Final = 30
"""Seconds after which a QEMU counts as one that hangs, its start included; it takes one."""
_TIMEOUT_FACTOR: Final = 3
"""Or so many times the CPU seconds that a load was given, if that is more."""
_GUEST_RUN_S: Final = 0.1
"""How long the guest runs where the failure came with that.  More than it had then: nobody waits
for the next load here, and another machine may be slower."""
VERSION_TIMEOUT_S: Final = 10.0
"""For a QEMU to tell its version."""
_FOUND_MAX: Final = 200
"""Characters that the script says of what was found."""

_LINE_MIN: Final = 8
"""Characters of a line that are enough to know it by: shorter ones stand in others too."""
_UNSTABLE: Final = re.compile(r"#|[^ -~]+")
"""What stands for a number in :func:`loadfuzz.qemu.verdicts.last_words`, or for bytes that are
no text: between these a line is as QEMU prints it."""
_SHELL_SIGNAL: Final = 128
"""What a shell adds to the number of a signal (POSIX, 2.8.2)."""
_BLOCK_SIZE: Final = 512
"""Bytes that ``ulimit -f`` counts in."""

_TEMPLATE: Final = "reproduce-qemu.sh"
_SETTINGS: Final = "@SETTINGS@"
_QMP_FD: Final = 3
_PLACE: Final = "IMAGE"
_CLOSER: Final = (
    ((closer.RUNNING, closer.STOPPING), ("ask cont", f"sleep {_GUEST_RUN_S}", "ask stop")),
    ((closer.SAVING,), (f"ask 'savevm {AGAIN}'",)),
    ((closer.LOADING,), (f"ask 'loadvm {AGAIN}'",)),
    ((closer.DELETING,), (f"ask 'delvm {AGAIN}'",)),
    ((closer.RESETTING,), ("ask system_reset",)),
)  # fmt: skip
"""What :func:`loadfuzz.qemu.closer.look_closer` does, by what it calls that."""


def qemu_files(spec: MachineSpec, finding: Finding) -> dict[str, bytes]:
    """What to put beside a finding's manifest, by file name.

    Args:
        spec: the machine that it was found on.
        finding: its streams and what became of them.

    Raises:
        UsageError: a stream is longer than a snapshot may be
            (:data:`loadfuzz.qemu.qcow2.CAPACITY_MAX`).
        InfraError: the image cannot be made in the folder for temporary files.
    """
    return {
        IMAGE: _image(_streams(finding)),
        SCRIPT: write_script(spec, finding, version_words(spec.binary)).encode(
            "utf-8", "surrogateescape"
        ),
        HEXDUMP: write_hexdump(finding).encode("utf-8", "backslashreplace"),
    }


def _streams(finding: Finding) -> list[tuple[str, bytes]]:
    """File name and content of each stream that is loaded, in order."""
    before = enumerate(finding.input.before, 1)
    every = [(before_name(number), stream) for number, stream in before]
    return [*every, (INPUT, finding.input.stream)][-STREAMS_MAX:]


def _snapshot(number: int) -> str:
    return f"s{number}"


def _image(streams: Sequence[tuple[str, bytes]]) -> bytes:
    slots = [
        # Behind its end a snapshot reads as zeros, so no room is needed there.
        (_snapshot(number), max(len(stream), 1))
        for number, (_, stream) in enumerate(streams, 1)
    ]
    try:
        with tempfile.TemporaryDirectory(prefix="loadfuzz-") as folder:
            path = Path(folder, IMAGE)
            with qcow2.Image.create(path, slots) as image:
                for (name, _), (_, stream) in zip(slots, streams, strict=True):
                    image.write(name, stream)
            return path.read_bytes()
    except OSError as error:
        raise InfraError(
            f"no image can be made in {tempfile.gettempdir()}: {error.strerror or error}; "
            "make room there, or set TMPDIR"
        ) from error


def version_words(binary: str) -> str:
    """What a QEMU says of its version and where it is, "" if it does not."""
    path = shutil.which(binary)
    if path is None:
        return ""
    try:
        done = subprocess.run(
            [path, "--version"], capture_output=True, timeout=VERSION_TIMEOUT_S, check=False,
            stdin=subprocess.DEVNULL,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return ""
    said = done.stdout.decode("utf-8", "replace").partition("\n")[0]
    return f"{printable(said)[:_FOUND_MAX]}, {printable(path)}" if said else ""


def write_script(spec: MachineSpec, finding: Finding, version: str = "") -> str:
    """The text of ``reproduce.sh``, for any POSIX shell.

    Args:
        spec: the machine that it was found on.
        finding: what it is to show.
        version: of the QEMU, for people.
    """
    text = files(__package__).joinpath(_TEMPLATE).read_text(encoding="utf-8")
    head, tail = text.split(f"{_SETTINGS}\n")
    known = f"# found with {version}\n" if version else ""
    return f"{head}{known}{_settings(spec, finding)}{tail}"


def _settings(spec: MachineSpec, finding: Finding) -> str:
    streams = _streams(finding)
    names = [_snapshot(number) for number in range(1, len(streams) + 1)]
    binary = os.path.abspath(spec.binary) if os.sep in spec.binary else spec.binary
    space_kb = "" if spec.address_space_mb is None else f"{spec.address_space_mb << 10}"
    seconds = max(TIMEOUT_S, math.ceil(finding.load_timeout_s * _TIMEOUT_FACTOR))
    found = shorten(finding.violation.actual or finding.violation.title, _FOUND_MAX)
    again, tries = finding.reliability
    if tries:
        found += f" (in {again} of {tries} runs)"
    refused = finding.violation.oracle == idempotent.NAME
    total = len(finding.input.before) + 1
    size = PRINTED_MAX + SAVED_TIMES * sum(len(stream) for _, stream in streams)
    size += len(streams) * qcow2.CLUSTER_SIZE + (spec.memory_mb << 20)
    lines = [f"# {printable(finding.signature)}"]
    if total > len(streams):
        lines.append(f"# The last {len(streams)} of {total} streams: an image has room for these.")
    lines += [
        f"# {name} is the file {file}, {len(stream)} bytes"
        for name, (file, stream) in zip(names, streams, strict=True)
    ]
    lines += [
        f"found={shlex.quote(found)}",
        f"found_with={shlex.quote(binary)}",
        f"kind={'refused' if refused else 'failed'}",
        f"last={names[-1]}",
        f"seconds={seconds}",
        f"address_space_kb={space_kb}",
        f"file_blocks={size // _BLOCK_SIZE}",
        *_expected(finding.execution, refused=refused),
        *_function("load_all", [f"load {' '.join(names)}"]),
        *_function("look_closer", _close_look(finding.execution)),
        *_function("with_environment", [" ".join([*_environment(spec), '"$@"'])]),
        *_function("start_machine", [_command_line(as_found(spec, finding))]),
        "",
    ]
    return "\n".join(lines)


def _expected(execution: Execution, *, refused: bool) -> list[str]:
    """What was found, for the script to tell it from another end."""
    kind = execution.kind.value if execution.kind.ends_process else "any"
    escape = execution.escape or Escape("", "", ())
    status, how, line = "", f"that it ends ({kind})", ""
    if refused:
        # A QEMU that dies does not refuse.
        kind, how = "refusal", "that it refuses"
    elif execution.kind is ExitKind.TIMED_OUT:
        how = "that it does not end"
    elif execution.kind.ends_process:
        status, how = _ending(escape.type_name)
        if execution.kind is ExitKind.OUT_OF_MEMORY:
            how += " for want of memory"
        else:
            line = stable_part(escape.message)
            how += f" after {line!r}" if line else ""
    return [
        f"expected={shlex.quote(shorten(how, _FOUND_MAX))}",
        f"expected_kind={kind}",
        f"expected_status={status}",
        f"expected_line={shlex.quote(line)}",
    ]


def _ending(name: str) -> tuple[str, str]:
    """The status that a shell has for an end, and the script's words for it.

    Args:
        name: as :attr:`loadfuzz.qemu.process.Ending.how` has it.
    """
    number = signal.Signals.__members__.get(name)
    if number is not None:
        short = name.removeprefix("SIG")
        return f"{_SHELL_SIGNAL + number}", f"killed by signal {number:d} (SIG{short})"
    if found := re.fullmatch(r"(signal|exit status) (\d+)", name):
        if found[1] == "signal":
            return f"{_SHELL_SIGNAL + int(found[2])}", f"killed by signal {found[2]}"
        return found[2], f"ended with exit status {found[2]}"
    return "", name


def stable_part(message: str) -> str:
    """The longest part of what an escape says that QEMU prints each time, "" for none that it
    can be known by.

    >>> stable_part("saving again: my_load: Assertion `n < #' failed.")
    'my_load: Assertion `n < '
    """
    for names, _ in _CLOSER:
        for name in names:
            if message == name:
                return ""
            message = message.removeprefix(f"{name}: ")
    longest = max(_UNSTABLE.split(message), key=len)
    return longest if len(longest.strip()) >= _LINE_MIN else ""


def _function(name: str, commands: Sequence[str]) -> list[str]:
    return [f"{name}() {{", f"    {' && '.join(commands)}", "}"]


def _environment(spec: MachineSpec) -> list[str]:
    if not spec.environment:
        return []
    return ["env", *(shlex.quote(f"{name}={value}") for name, value in spec.environment)]


def _close_look(execution: Execution) -> list[str]:
    """What has to be done after the last load, up to what failed."""
    if not execution.kind.ends_process or execution.depth is not Depth.ACCEPTED:
        return [":"]
    said = execution.escape.message if execution.escape is not None else ""
    commands: list[str] = []
    still = closer.NOT_RUN in execution.events
    for names, steps in _CLOSER:
        if not (still and closer.RUNNING in names):
            commands += steps
        if said.startswith(names):
            break
    return commands


def _command_line(spec: MachineSpec) -> str:
    """How the script starts QEMU; ``$qemu`` and ``$image_option`` are put in there."""
    words = [shlex.quote(word) for word in machine_arguments(spec)]
    option, value = qcow2.blockdev(_PLACE)
    before, behind = value.rsplit(_PLACE, 1)
    place = f'{shlex.quote(before)}"$image_option"{shlex.quote(behind) if behind else ""}'
    return " \\\n        ".join(['launch "$qemu"', *_by_option([*words, option, place])])


def machine_arguments(spec: MachineSpec) -> list[str]:
    """All arguments of a QEMU that was started to be fuzzed, but with a monitor on its
    standard input in place of QMP, and without the image."""
    argv = spec.argv(_QMP_FD)[1:]
    for option, value in (("-chardev", "socket,id=qmp,"), ("-mon", "chardev=qmp,")):
        at = next(
            at for at, word in enumerate(argv)
            if word.startswith(value) and argv[at - 1] == option
        )  # fmt: skip
        del argv[at - 1 : at + 1]
    return [*argv, *accelerator(spec), "-no-shutdown", "-monitor", "stdio"]


def _by_option(words: Sequence[str]) -> list[str]:
    """Words of a command line, each option together with what belongs to it."""
    lines: list[str] = []
    for word in words:
        if lines and not word.startswith("-"):
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines
