"""`predictbench config`: what is set, and where it comes from."""

import json
import sys

import click

from predictbench_assets.observability.console import print_item
from predictbench_assets.settings import Settings, SettingsError, load_settings
from predictbench_assets.settings_overview import describe_settings, env_example, unknown_in_env_file


@click.command(
    epilog="\b\nExamples:\n  predictbench config\n  predictbench config --json",
)
@click.option("--json", "as_json", is_flag=True, help="As one JSON object.")
@click.option("--example", is_flag=True, help="Print an .env file with every setting and its default.")
def config(as_json: bool, example: bool) -> None:
    """Show every setting, its value and where it comes from; secrets are masked. Exit code 1 if any is wrong."""
    if example:
        click.echo(env_example(), nl=False)
        return
    settings: Settings | None = None
    problems: list[str] = []
    try:
        settings = load_settings()
    except SettingsError as error:
        problems = error.problems
    lines = describe_settings(settings)
    warnings = list(settings.warnings) if settings else []
    warnings += [f"{name} in .env is not a setting of Predictbench: misspelt?" for name in unknown_in_env_file()]
    if as_json:
        values = {line.name: {"value": line.value, "source": line.source} for line in lines}
        click.echo(json.dumps({"settings": values, "problems": problems, "warnings": warnings}, indent=2))
    else:
        for line in lines:
            value = f"= {line.value}" if line.value else "is not set"
            print_item(f"{line.name} ", f"{value}  ({line.source})")
            print_item("    ", line.description)
    for warning in warnings:
        click.echo(f"warning: {warning}", err=True)
    for problem in problems:
        click.echo(f"problem: {problem}", err=True)
    sys.exit(1 if problems else 0)
