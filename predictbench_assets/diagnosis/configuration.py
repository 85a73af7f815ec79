"""Checks of the settings, and of the address of notices."""

from collections.abc import Iterator, Sequence

from predictbench_assets.diagnosis.checks import Finding
from predictbench_assets.settings import Settings, all_variables
from predictbench_assets.settings_overview import describe_settings, unknown_in_env_file


def settings_findings(settings: Settings, problems: Sequence[str]) -> Iterator[Finding]:
    """Every problem of the settings, what is set without effect, and names in `.env` that are none of ours."""
    for problem in problems:
        name = problem.partition(":")[0]
        known = name in all_variables()
        fix = f"correct {name}; `predictbench config` shows where it comes from" if known else ""
        yield Finding("fail", "settings", problem, fix)
    for warning in settings.warnings:
        yield Finding("warn", "settings", warning)
    for name in unknown_in_env_file():
        yield Finding(
            "warn",
            "settings",
            f"{name} in .env is no setting of Predictbench",
            "correct its spelling, or remove the line; `predictbench config` lists all settings",
        )
    if not problems:
        given = sum(line.source != "default" for line in describe_settings(settings))
        yield Finding("ok", "settings", f"ENVIRONMENT={settings.environment}, {given} set")


def notification_findings(settings: Settings) -> Iterator[Finding]:
    """Check that failures are sent to somebody; neither address is called."""
    places = {
        "webhook": (settings.notify_webhook_url, "NOTIFY_WEBHOOK_URL", "nobody is told when a run fails"),
        "dead man's switch": (settings.dead_man_url, "DEAD_MAN_URL", "nobody notices when runs no longer begin at all"),
    }
    for name, (address, variable, without) in places.items():
        if address is not None:
            yield Finding("ok", name, f"{variable} is set")
        elif settings.deployed:
            yield Finding("warn", name, f"{variable} is unset: {without}", f"set {variable}")
        else:
            yield Finding("skip", name, f"{variable} is unset")
