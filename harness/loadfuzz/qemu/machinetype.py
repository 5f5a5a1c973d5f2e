"""The machine type that a finding's streams were saved by.

``-machine pc`` is another machine in each release, and a stream is refused by any but its own
(``configuration_post_load`` in migration/savevm.c).  The type with its version is in the stream,
and newer releases have it too: so a finding can be run in them as what it was found on.
"""

import re
from collections import Counter
from dataclasses import replace
from typing import Final

from loadfuzz.findings import Finding
from loadfuzz.qemu.machine import MachineSpec
from savevm.document import Document

_HEAD: Final = 4096
"""Bytes from a stream's beginning that are looked at: the type's name comes first."""
_NAME: Final = re.compile(rb"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
"""What is taken for one; nothing that an option of QEMU would read as something else."""


def type_in(stream: bytes) -> str:
    """The machine type that a stream names, "" if it names none."""
    try:
        value = Document.parse(stream[:_HEAD]).find("configuration/name").value
    except KeyError:
        return ""
    return value.decode() if isinstance(value, bytes) and _NAME.fullmatch(value) else ""


def type_of(finding: Finding) -> str:
    """The machine type of most of a finding's streams, "" if they name none.

    What an input was made from counts before the input, whose name may have been changed.
    """
    parents = [finding.parent_stream, *(step.parent_stream for step in finding.earlier)]
    streams = [*parents, finding.input.stream, *finding.input.before]
    names = Counter(name for name in map(type_in, streams) if name)
    return names.most_common(1)[0][0] if names else ""


def as_found(spec: MachineSpec, finding: Finding) -> MachineSpec:
    """``spec`` with the type that a finding's streams name, in place of an alias for it."""
    name = type_of(finding)
    if not name:
        return spec
    _, comma, options = spec.machine.partition(",")
    return replace(spec, machine=f"{name}{comma}{options}")
