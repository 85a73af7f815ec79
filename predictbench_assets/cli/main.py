"""`predictbench`: the group of all commands, and how errors are told.

Commands import what they need when they run, so that `--help` answers at once.
"""

import io
import sys
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

import click

from predictbench_assets import __version__
from predictbench_assets.cli.backfill import backfill
from predictbench_assets.cli.completion import completion
from predictbench_assets.cli.contract import contract
from predictbench_assets.cli.daily import daily, partition, run_config
from predictbench_assets.cli.database import db
from predictbench_assets.cli.demo import demo
from predictbench_assets.cli.doctor import doctor
from predictbench_assets.cli.due import due
from predictbench_assets.cli.export import export
from predictbench_assets.cli.instance import stop, ui
from predictbench_assets.cli.leaderboard import leaderboard
from predictbench_assets.cli.notify import notify
from predictbench_assets.cli.output import FittedError
from predictbench_assets.cli.overview import config, experiments
from predictbench_assets.cli.prune import prune
from predictbench_assets.cli.release import release
from predictbench_assets.cli.report import report
from predictbench_assets.cli.resolve import resolve
from predictbench_assets.cli.sandbox import sandbox
from predictbench_assets.cli.score import score
from predictbench_assets.cli.verify import verify
from predictbench_assets.failures import PredictbenchError
from predictbench_assets.secrecy import Redact, redacted_error

EXAMPLES = """\
\b
Examples:
  predictbench demo             a whole run on this machine, nothing needed
  predictbench daily            today's run, markets that close in 7 days
  predictbench daily --window-days 1 --dry-run
  predictbench db sql "select * from predictbench.processing_runs"
"""

SECTIONS = {
    "Run": (demo, daily, backfill, resolve, score),
    "Look": (leaderboard, report, ui, verify, export, release),
    "Experiment": (experiments, sandbox, contract),
    "Operate": (doctor, config, db, prune, due, notify, stop, partition, run_config, completion),
}
"""All commands, by what a person wants to do."""


class Commands(click.Group):
    """A group with sections, whose expected errors are one readable message and exit code 1, and show no secret."""

    sections: Mapping[str, Sequence[click.Command]] = {}

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands by section, with their short helps under each other."""
        if not self.sections:
            super().format_commands(ctx, formatter)
        width = max(map(len, self.commands), default=0)
        for title, commands in self.sections.items():
            with formatter.section(title):
                formatter.write_dl([(f"{one.name:<{width}}", one.get_short_help_str(100)) for one in commands])

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Run the program; a character that the terminal does not have is written as its number."""
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="backslashreplace")
        return super().main(*args, **kwargs)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; with LOG_LEVEL=DEBUG an expected error keeps its traceback, as an unexpected one does."""
        try:
            return super().invoke(ctx)
        except click.ClickException as error:
            raise FittedError(error) from error
        except (click.exceptions.Exit, click.Abort):
            raise
        except Exception as error:
            redact, traceback_wanted = _redaction()
            text = str(error) if isinstance(error, PredictbenchError) else _explained(error)
            if text is not None and not traceback_wanted:
                raise FittedError(click.ClickException(redact(text))) from error
            shown = redacted_error(error, redact)
            if shown is error:
                raise
            raise shown from shown.__cause__ or shown.__context__


@click.group(
    cls=Commands,
    epilog=EXAMPLES,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110, "show_default": True},
)
@click.version_option(__version__, prog_name="predictbench")
def main() -> None:
    """A daily benchmark of forecasters on Polymarket's questions.

    Settings are read from the environment and from `.env`; `predictbench config` shows them all. `predictbench
    completion` makes the shell complete what is typed here.
    """


main.sections = SECTIONS
for command in chain.from_iterable(SECTIONS.values()):
    main.add_command(command)


def _redaction() -> tuple[Redact, bool]:
    """What takes the secrets out of a text, as far as the settings can be read; and whether LOG_LEVEL is DEBUG."""
    from predictbench_assets.settings import SettingsError, usable_settings, without_passwords

    try:
        settings = usable_settings()
    except (SettingsError, OSError):
        return without_passwords, False
    return settings.redact, settings.log_level == "DEBUG"


def _explained(error: Exception) -> str | None:
    """A sentence on a file or a folder that cannot be used; None for a fault of ours."""
    from predictbench_assets.cli.os_errors import explained

    return explained(error) if isinstance(error, OSError) else None


if __name__ == "__main__":
    main(prog_name="predictbench")
