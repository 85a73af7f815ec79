"""`predictbench`: the group of all commands, and how their errors are printed.

A command's module is loaded when the command is called, so that `--help` and the completion of names answer at once.
"""

import importlib
import io
import sys
from collections.abc import Mapping
from typing import IO, Any

import click
from click.shell_completion import CompletionItem

from predictbench_assets import __version__
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

Sections = Mapping[str, Mapping[str, tuple[str, str]]]

COMMANDS: Sections = {
    "Run": {
        "demo": ("demo:demo", "A whole run against the sandbox exchange."),
        "daily": ("daily:daily", "One run, and what came of it."),
        "backfill": ("backfill:backfill", "Run stored days again."),
        "resolve": ("resolve:resolve", "How stored markets settled."),
        "score": ("score:score", "Score settled forecasts."),
    },
    "Look": {
        "leaderboard": ("leaderboard:leaderboard", "Who beats the market, and how sure that is."),
        "coverage": ("coverage:coverage", "Which days are stored, and which are not."),
        "cost": ("cost:cost", "What forecasts cost, by experiment and day."),
        "report": ("report:report", "The benchmark as a page."),
        "ui": ("ui:ui", "The Dagster UI."),
        "verify": ("verify:verify", "Whether forecasts are what their digests say."),
        "export": ("export:export", "Markets, forecasts and failures as files."),
        "release": ("release:release", "A frozen, versioned data set."),
    },
    "Experiment": {
        "experiments": ("experiments:experiments", "The registered experiments; a new one; a try."),
        "submit": ("submit:submit", "Hand in forecasts as a file."),
        "sandbox": ("sandbox:sandbox", "A simulated exchange."),
        "contract": ("contract:contract", "The exchange's behaviour against what the client relies on."),
    },
    "Operate": {
        "doctor": ("doctor:doctor", "Is everything set up?"),
        "config": ("overview:config", "Every setting and its source."),
        "db": ("database:db", "The embedded server, migrations, the tables."),
        "prune": ("prune:prune", "Archive and remove what is old."),
        "due": ("due:due", "Which runs are due."),
        "notify": ("notify:notify", "Tell a webhook how a run went."),
        "stop": ("ui:stop", "Stop what was left running."),
        "partition": ("daily:partition", "The tags of one partition."),
        "run-config": ("daily:run_config", "The configuration of a run."),
        "completion": ("completion:completion", "Completion for bash, zsh and fish."),
    },
}
"""Commands by section and name: the module and attribute of each, and its line in the help of the program."""


class FittedError(click.ClickException):
    """Another error of the command line, whose words are not broken at the edge of a terminal."""

    def __init__(self, error: click.ClickException) -> None:
        super().__init__(error.format_message())
        self.exit_code = error.exit_code  # type: ignore[misc]  # usage errors have another one than the rest
        self._error = error

    def show(self, file: IO[Any] | None = None) -> None:
        """Print what the other error prints, to stderr unless a file is given."""
        from predictbench_assets.observability.console import print_item  # loads rich

        shown = io.StringIO()
        self._error.show(shown)
        for line in shown.getvalue().splitlines():
            print_item("", line, file or sys.stderr)


class Commands(click.Group):
    """A group with sections of commands that are loaded when called.

    Expected errors are one readable message and exit code 1, and no error shows a secret.
    """

    def __init__(self, *args: Any, sections: Sections | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._sections = sections or {}
        self._table = {name: entry for section in self._sections.values() for name, entry in section.items()}

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names of all commands."""
        return sorted({*self._table, *super().list_commands(ctx)})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Load a command."""
        if cmd_name in self._table and cmd_name not in self.commands:
            module, _, attribute = self._table[cmd_name][0].partition(":")
            loaded = importlib.import_module(f"predictbench_assets.cli.{module}")
            self.add_command(getattr(loaded, attribute), cmd_name)
        return super().get_command(ctx, cmd_name)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command that is called; an unknown one gets names that are near."""
        try:
            return super().resolve_command(ctx, args)
        except click.exceptions.NoSuchCommand as error:
            # click searches near names among the commands that are loaded.
            raise click.exceptions.NoSuchCommand(
                error.command_name, possibilities=self.list_commands(ctx), ctx=ctx
            ) from error

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Complete names and options without loading a command."""
        named = [CompletionItem(name, help=line) for name, (_, line) in sorted(self._table.items())]
        options = click.Command.shell_complete(self, ctx, incomplete)
        return [*(item for item in named if item.value.startswith(incomplete)), *options]

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands by section, with their lines under each other."""
        if not self._sections:
            super().format_commands(ctx, formatter)
        width = max(map(len, self._table), default=0)
        for title, commands in self._sections.items():
            with formatter.section(title):
                formatter.write_dl([(f"{name:<{width}}", line) for name, (_, line) in commands.items()])

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
    sections=COMMANDS,
    epilog=EXAMPLES,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110, "show_default": True},
)
@click.version_option(__version__, prog_name="predictbench")
def main() -> None:
    """A daily benchmark of forecasters on Polymarket's questions.

    Settings are read from the environment and from `.env`; `predictbench config` shows them all. `predictbench
    completion` makes the shell complete what is typed here.
    """


def _redaction() -> tuple[Redact, bool]:
    """The function that takes secrets out of a text, as far as settings can be read; and whether LOG_LEVEL is DEBUG."""
    # Loaded for an error only: the settings take longer to load than the help.
    from predictbench_assets.settings import SettingsError, usable_settings, without_passwords

    try:
        settings = usable_settings()
    except (SettingsError, OSError):
        return without_passwords, False
    return settings.redact, settings.log_level == "DEBUG"


def _explained(error: Exception) -> str | None:
    """A sentence on a file or a folder that cannot be used; None for a fault of ours."""
    from predictbench_assets.cli.os_errors import explained  # loads the settings

    return explained(error) if isinstance(error, OSError) else None


if __name__ == "__main__":
    main(prog_name="predictbench")
