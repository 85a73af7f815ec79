"""All checks of a deployment, in the order in which a person would look."""

from collections.abc import Sequence

from predictbench_assets.clock import Clock
from predictbench_assets.diagnosis.checks import Check
from predictbench_assets.diagnosis.configuration import notification_findings, settings_findings
from predictbench_assets.diagnosis.database import database_findings
from predictbench_assets.diagnosis.exchange import exchange_findings
from predictbench_assets.diagnosis.experiments import experiment_findings
from predictbench_assets.diagnosis.remote import rest_api_findings, schedule_findings
from predictbench_assets.diagnosis.storage import archive_findings, dagster_findings, staging_findings
from predictbench_assets.settings import Settings


def all_checks(settings: Settings, problems: Sequence[str], clock: Clock) -> list[Check]:
    """All checks of a deployment.

    Args:
        settings: as far as they are usable.
        problems: their problems.
        clock: the real one; that of the settings may stand still.
    """
    return [
        Check("settings", lambda: settings_findings(settings, problems)),
        Check("experiments", lambda: experiment_findings(settings)),
        Check("database", lambda: database_findings(settings, clock)),
        Check("Dagster's storage", lambda: dagster_findings(settings)),
        Check("staging", lambda: staging_findings(settings), leaves_traces=True),
        Check("archive", lambda: archive_findings(settings)),
        Check("exchange", lambda: exchange_findings(settings, clock)),
        Check("schedule", lambda: schedule_findings(settings)),
        Check("REST API", lambda: rest_api_findings(settings)),
        Check("notifications", lambda: notification_findings(settings)),
    ]
