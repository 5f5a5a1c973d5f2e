"""What a campaign's folder knows from earlier runs."""

from loadfuzz import events
from loadfuzz.campaign.folder import CampaignFolder
from loadfuzz.campaign.totals import Totals
from loadfuzz.errors import UsageError
from loadfuzz.repro.folder import read_manifest


def know_findings(folder: CampaignFolder, totals: Totals) -> None:
    """Count the findings that are in the folder already; a damaged one is named."""
    for path in sorted(folder.findings.iterdir()):
        if not path.is_dir():
            continue
        try:
            manifest = read_manifest(path)
        except UsageError as error:
            totals.add(events.MachineryWarning(str(error)))
            continue
        totals.know(
            events.FindingAnnounced(
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
