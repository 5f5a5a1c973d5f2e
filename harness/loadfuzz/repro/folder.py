"""A finding's folder: everything that is needed to see it again.

::

    input            the stream, byte for byte
    parent           the stream it was made from, when there was one
    before-1, ...    the streams that have to be loaded first, in order, when there are any
    before-1-parent  what each was made from
    machine          the stream that the target was fitted to, when it was
    finding.json     the manifest: what, where, how, in a versioned format
    report.txt       the same for people, and the command that replays it
    any others       what the target adds, such as a script that does without us

It is written whole or not at all, and never changed afterwards.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final

from loadfuzz import __version__, codec
from loadfuzz.campaign.batch import LOAD_TIMEOUT_S
from loadfuzz.errors import UsageError
from loadfuzz.execution import Execution
from loadfuzz.faults.plan import NO_FAULTS, FaultPlan
from loadfuzz.findings import Earlier, Finding, Violation, folder_name
from loadfuzz.fitting import SEPARATOR, split
from loadfuzz.inputs import Delivery, Input, digest_of
from loadfuzz.mutation import Mutation
from loadfuzz.repro.report import write_report
from loadfuzz.storage import write_folder_once

FORMAT_VERSION: Final = 3
"""Version of the folder's layout and of its manifest: that of a finding with faults."""

FORMAT_OF_SEQUENCE: Final = 2
"""Version that is written for a finding that takes several streams and no fault."""

FORMAT_OF_ONE: Final = 1
"""Version that is written for a finding of one stream: there nothing has changed since."""

EARLIER_MAX: Final = 1024
"""Streams that may have to be loaded first."""

INPUT: Final = "input"
PARENT: Final = "parent"
MACHINE: Final = "machine"
MANIFEST: Final = "finding.json"
REPORT: Final = "report.txt"
SCRIPT: Final = "reproduce.sh"
"""What a target that brings a script calls it; the report then names it."""
FILE_SIZE_MAX: Final = 1 << 26
"""Largest file of a finding that is read, in bytes; streams are at most 2 MiB."""


_OURS: Final = re.compile(
    "|".join(map(re.escape, (INPUT, PARENT, MACHINE, MANIFEST, REPORT))) + r"|before-\d+(-parent)?"
)
_PLAIN: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
"""Names that files of others may have: they mean the same to every system and shell."""


@dataclass(frozen=True, slots=True)
class EarlierStream:
    """A stream that has to be loaded first.

    Attributes:
        input, parent: digests of the files; ``parent`` is "" when there is none.
        mutations: what was changed in the parent, in order.
    """

    input: str
    parent: str
    mutations: tuple[Mutation, ...]


@dataclass(frozen=True, slots=True)
class Manifest:
    """Content of ``finding.json``.

    Attributes:
        format_version: :data:`FORMAT_VERSION`.
        loadfuzz: version that wrote it.
        target: name of the target.
        signature: what findings are told apart by.
        oracle: whose promise was broken.
        violation: what the oracle said.
        execution: what the loader did.
        input: digest of the file ``input``.
        size: of the file ``input``, in bytes.
        delivery: the pieces in which the loader got it.
        parent: digest of the file ``parent``, "" when there is none.
        mutations: what was changed in the parent, in order.
        seed: of the campaign.
        worker: that found it.
        executions: of that worker when it did.
        reliability: (did it again, tries) in a fresh loader.
        load_timeout_s: CPU seconds after which a load counted as a hang.
        earlier: of the files ``before-1`` and so on.
        faults: what went wrong meanwhile.
        fault_words: the same for people.
        again: the command that shows it where ``loadfuzz replay`` cannot.
    """

    format_version: int
    loadfuzz: str
    target: str
    signature: str
    oracle: str
    violation: Violation
    execution: Execution
    input: str
    size: int
    delivery: Delivery
    parent: str
    mutations: tuple[Mutation, ...]
    seed: int
    worker: int
    executions: int
    reliability: tuple[int, int]
    load_timeout_s: float = LOAD_TIMEOUT_S
    earlier: tuple[EarlierStream, ...] = ()
    faults: FaultPlan = NO_FAULTS
    fault_words: tuple[str, ...] = ()
    again: str = ""


@dataclass(frozen=True, slots=True)
class _Version:
    format_version: int


def finding_folders(folder: Path) -> list[Path]:
    """The findings in the folder of a campaign's findings, sorted; not what is being written.

    Raises:
        OSError: it cannot be read.
    """
    return sorted(
        path for path in folder.iterdir() if not path.name.startswith(".") and path.is_dir()
    )


def write_finding(
    out: Path, finding: Finding, extra: Mapping[str, bytes] = MappingProxyType({})
) -> str | None:
    """Keep a finding in the campaign's folder, complete and on the disk.

    Args:
        out: the campaign's folder.
        finding: what to keep.
        extra: further files by name; one whose name ends in ``.sh`` can be run.

    Returns:
        Its folder relative to ``out``; ``None`` when there is one of the same
        signature, by whomever.

    Raises:
        UsageError: a further file has a name that it may not have; nothing was written.
        OSError: nothing was written.
    """
    _check_names(extra)
    place = Path("findings", folder_name(finding.signature))
    name, fitted_to = split(finding.target)
    manifest = Manifest(
        format_version=_version_for(finding),
        loadfuzz=__version__,
        # The folder must be good anywhere: it has its own copy of that stream.
        target=f"{name}{SEPARATOR}{MACHINE}" if fitted_to else name,
        signature=finding.signature,
        oracle=finding.violation.oracle,
        violation=finding.violation,
        execution=finding.execution,
        input=finding.input.digest,
        size=len(finding.input.stream),
        delivery=finding.input.delivery,
        parent=finding.parent,
        mutations=finding.mutations,
        seed=finding.seed,
        worker=finding.worker,
        executions=finding.executions,
        reliability=finding.reliability,
        load_timeout_s=finding.load_timeout_s,
        earlier=tuple(
            EarlierStream(
                digest_of(stream),
                digest_of(origin.parent_stream) if origin.parent_stream else "",
                origin.mutations,
            )
            for stream, origin in _earlier(finding)
        ),
        faults=finding.input.faults,
        fault_words=finding.fault_words,
        again=finding.again,
    )
    report = write_report(finding, str(out / place), SCRIPT if SCRIPT in extra else "")
    files = {
        INPUT: finding.input.stream,
        MANIFEST: codec.encode_pretty(manifest),
        REPORT: report.encode("utf-8", "backslashreplace"),
        **extra,
    }
    if finding.parent_stream:
        files[PARENT] = finding.parent_stream
    for number, (stream, origin) in enumerate(_earlier(finding), 1):
        files[before_name(number)] = stream
        if origin.parent_stream:
            files[f"{before_name(number)}-{PARENT}"] = origin.parent_stream
    if fitted_to:
        files[MACHINE] = Path(fitted_to).read_bytes()
    (out / "findings").mkdir(exist_ok=True)
    scripts = [name for name in extra if name.endswith(".sh")]
    return str(place) if write_folder_once(out / place, files, executable=scripts) else None


def _version_for(finding: Finding) -> int:
    """The oldest version of this tool's format that can say all of it."""
    if finding.input.faults or finding.again:
        return FORMAT_VERSION
    return FORMAT_OF_SEQUENCE if finding.input.before else FORMAT_OF_ONE


def _check_names(names: Iterable[str]) -> None:
    for name in names:
        if _OURS.fullmatch(name) or not _PLAIN.fullmatch(name):
            raise UsageError(
                f"{name!r} cannot name a further file of a finding; use letters, digits, '.', '_' "
                "and '-', a letter or digit first, and no name that findings have anyway"
            )


def before_name(number: int) -> str:
    """File of the stream that is loaded as the ``number``-th, from 1."""
    return f"before-{number}"


def _earlier(finding: Finding) -> list[tuple[bytes, Earlier]]:
    return list(zip(finding.input.before, finding.earlier, strict=True))


def read_finding(folder: Path) -> Finding:
    """The finding in a folder.

    Raises:
        UsageError: the folder holds none; says precisely why.
    """
    manifest = read_manifest(folder)
    stream = _read(folder, INPUT)
    if digest_of(stream) != manifest.input:
        raise UsageError(
            f"{folder / INPUT} is not the input that was found: it was changed or torn "
            f"({len(stream)} bytes, {manifest.size} expected)"
        )
    before, earlier = _read_earlier(folder, manifest)
    try:
        manifest.faults.check()
    except UsageError as error:
        raise UsageError(f"{folder / MANIFEST} is damaged: {error}") from error
    parent = _read(folder, PARENT) if (folder / PARENT).exists() else b""
    name, fitted_to = split(manifest.target)
    return Finding(
        target=f"{name}{SEPARATOR}{folder / MACHINE}" if fitted_to else name,
        input=Input(stream, manifest.delivery, before, manifest.faults),
        violation=manifest.violation,
        execution=manifest.execution,
        parent=manifest.parent,
        parent_stream=parent,
        mutations=manifest.mutations,
        seed=manifest.seed,
        worker=manifest.worker,
        executions=manifest.executions,
        reliability=manifest.reliability,
        load_timeout_s=manifest.load_timeout_s,
        earlier=earlier,
        fault_words=manifest.fault_words,
        again=manifest.again,
    )


def _read_earlier(
    folder: Path, manifest: Manifest
) -> tuple[tuple[bytes, ...], tuple[Earlier, ...]]:
    """The streams to be loaded first, and where they came from."""
    if len(manifest.earlier) > EARLIER_MAX:
        raise UsageError(f"{folder / MANIFEST} has more than {EARLIER_MAX} streams to load first")
    streams: list[bytes] = []
    origins: list[Earlier] = []
    for number, item in enumerate(manifest.earlier, 1):
        name = before_name(number)
        stream = _read(folder, name)
        if digest_of(stream) != item.input:
            raise UsageError(f"{folder / name} is not what was found: it was changed or torn")
        parent = _read(folder, f"{name}-{PARENT}") if item.parent else b""
        streams.append(stream)
        origins.append(Earlier(parent, item.mutations))
    return tuple(streams), tuple(origins)


def read_manifest(folder: Path) -> Manifest:
    """The manifest in a finding's folder.

    Raises:
        UsageError: there is none that can be understood; says precisely why.
    """
    data = _read(folder, MANIFEST)
    path = folder / MANIFEST
    try:
        version = codec.decode(data, _Version).format_version
        if version > FORMAT_VERSION:
            raise UsageError(
                f"{path} has format {version}, which is newer than this loadfuzz knows "
                f"({FORMAT_VERSION}); update loadfuzz"
            )
        return codec.decode(data, Manifest)
    except codec.DamagedError as error:
        raise UsageError(f"{path} is damaged: {error}") from error


def _read(folder: Path, name: str) -> bytes:
    path = folder / name
    try:
        with path.open("rb") as file:
            data = file.read(FILE_SIZE_MAX + 1)
    except FileNotFoundError:
        raise UsageError(f"{folder} is no finding: it has no file {name!r}") from None
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error
    if len(data) > FILE_SIZE_MAX:
        raise UsageError(f"{path} is larger than any finding's ({FILE_SIZE_MAX} bytes)")
    return data
