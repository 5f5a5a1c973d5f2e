"""What a campaign's folder knows that nobody has told in this run."""

from loadfuzz import events
from loadfuzz.campaign.folder import CampaignFolder
from loadfuzz.campaign.totals import Totals
from loadfuzz.errors import UsageError
from loadfuzz.events import FindingAnnounced
from loadfuzz.repro.folder import finding_folders, read_manifest


def know_findings(folder: CampaignFolder, totals: Totals) -> None:
    """Count the findings that are in the folder already; a damaged one is named."""
    for finding in _read(folder, totals):
        totals.know(finding)


def notice_unannounced(folder: CampaignFolder, totals: Totals) -> None:
    """Count what a worker wrote down and did not live to announce; when a run is over."""
    for finding in _read(folder, Totals()):
        totals.discover(finding)


def _read(folder: CampaignFolder, complaints: Totals) -> list[FindingAnnounced]:
    found: list[FindingAnnounced] = []
    for path in finding_folders(folder.findings):
        try:
            manifest = read_manifest(path)
        except UsageError as error:
            complaints.add(events.MachineryWarning(str(error)))
            continue
        found.append(
            FindingAnnounced(
                worker=manifest.worker,
                signature=manifest.signature,
                oracle=manifest.oracle,
                title=manifest.violation.title,
                path=manifest.violation.path,
                folder=str(path.relative_to(folder.path)),
                executions=manifest.executions,
                reliability=manifest.reliability,
            )
        )
    return found
