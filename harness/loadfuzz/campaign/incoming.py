"""Findings that come from elsewhere."""

import dataclasses
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from loadfuzz.campaign.folder import CampaignFolder
from loadfuzz.errors import UsageError
from loadfuzz.events import FindingAnnounced, FindingRepeated
from loadfuzz.fitting import split
from loadfuzz.repro.folder import (
    FILE_SIZE_MAX,
    INPUT,
    MACHINE,
    MANIFEST,
    PARENT,
    REPORT,
    read_finding,
    write_finding,
)

EXTRA_FILES_MAX: Final = 16
"""Files that a target adds to a finding: a script, what it needs, and some to read."""

_OWN: Final = re.compile(
    "|".join(map(re.escape, (INPUT, MACHINE, MANIFEST, PARENT, REPORT)))
    + rf"|before-[1-9]\d{{0,3}}(-{PARENT})?"
)


def is_own(name: str) -> bool:
    """Whether a file of a finding is loadfuzz's own; all others are its target's."""
    return _OWN.fullmatch(name) is not None


def adopt_finding(
    folder: CampaignFolder, files: Mapping[str, bytes], worker: int, target: str
) -> FindingAnnounced | FindingRepeated:
    """Keep a finding that was made in another folder, complete and on the disk.

    Args:
        folder: of the campaign.
        files: of the finding's folder, by name.  What the target added is kept as it is, the
            report is written anew: it names the folder.
        worker: on whose behalf.
        target: that it must be of.

    Returns:
        What is to be told of it: that it is new, or was there already.

    Raises:
        UsageError: the files are no finding; says precisely why.
        OSError: nothing was written.
    """
    extra = {name: data for name, data in files.items() if not is_own(name)}
    if len(extra) > EXTRA_FILES_MAX:
        raise UsageError(f"it has {len(extra)} files beside its own, more than {EXTRA_FILES_MAX}")
    size = sum(map(len, files.values()))
    if size > FILE_SIZE_MAX:
        raise UsageError(f"it has {size:,} bytes, more than {FILE_SIZE_MAX:,}")
    with tempfile.TemporaryDirectory(prefix=".tmp-", dir=folder.findings) as place:
        for name, data in files.items():
            if name not in extra:  # whatever else it is called, nothing is written by that name
                (Path(place) / name).write_bytes(data)
        finding = dataclasses.replace(read_finding(Path(place)), worker=worker)
        if split(finding.target)[0] != split(target)[0]:
            raise UsageError(f"it is of target {finding.target!r}")
        if split(finding.target)[1] and MACHINE not in files:
            raise UsageError("its machine is missing")
        written = write_finding(folder.path, finding, extra)
    violation = finding.violation
    if written is None:
        return FindingRepeated(worker, finding.signature, 1)
    return FindingAnnounced(
        worker, finding.signature, violation.oracle, violation.title, violation.path,
        written, finding.executions, finding.reliability,
    )  # fmt: skip
