"""Findings that come from elsewhere."""

import dataclasses
import tempfile
from collections.abc import Mapping
from pathlib import Path

from loadfuzz.campaign.folder import CampaignFolder
from loadfuzz.errors import UsageError
from loadfuzz.events import FindingAnnounced, FindingRepeated
from loadfuzz.fitting import split
from loadfuzz.repro.folder import (
    INPUT,
    MACHINE,
    MANIFEST,
    PARENT,
    REPORT,
    read_finding,
    write_finding,
)

_NAMES = frozenset({INPUT, MACHINE, MANIFEST, PARENT, REPORT})


def adopt_finding(
    folder: CampaignFolder, files: Mapping[str, bytes], worker: int, target: str
) -> FindingAnnounced | FindingRepeated:
    """Keep a finding that was made in another folder, complete and on the disk.

    Args:
        folder: of the campaign.
        files: of the finding's folder, by name.
        worker: on whose behalf.
        target: that it must be of.

    Returns:
        What is to be told of it: that it is new, or was there already.

    Raises:
        UsageError: the files are no finding; says precisely why.
        OSError: nothing was written.
    """
    strange = sorted(set(files) - _NAMES)
    if strange:
        raise UsageError(f"it has a file {strange[0]!r}")
    with tempfile.TemporaryDirectory(prefix=".tmp-", dir=folder.findings) as place:
        for name, data in files.items():
            (Path(place) / name).write_bytes(data)
        finding = dataclasses.replace(read_finding(Path(place)), worker=worker)
        if split(finding.target)[0] != split(target)[0]:
            raise UsageError(f"it is of target {finding.target!r}")
        if split(finding.target)[1] and MACHINE not in files:
            raise UsageError("its machine is missing")
        written = write_finding(folder.path, finding)
    violation = finding.violation
    if written is None:
        return FindingRepeated(worker, finding.signature, 1)
    return FindingAnnounced(
        worker, finding.signature, violation.oracle, violation.title, violation.path,
        written, finding.executions, finding.reliability,
    )  # fmt: skip
