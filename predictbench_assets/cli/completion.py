"""`predictbench completion`: the script with which a shell completes our commands."""

import os
from pathlib import Path

import click
from click.shell_completion import get_completion_class

SHELLS = ("bash", "zsh", "fish")


@click.command(
    epilog="""\
\b
Examples:
  eval "$(predictbench completion bash)"                 in ~/.bashrc
  eval "$(predictbench completion zsh)"                  in ~/.zshrc
  predictbench completion fish | source                  in config.fish
""",
)
@click.argument("shell", type=click.Choice(SHELLS), required=False)
@click.pass_context
def completion(context: click.Context, shell: str | None) -> None:
    """Print the script that makes SHELL complete commands, options, experiments, boards, windows and days.

    Without SHELL it is for the one that $SHELL names. Nothing is written: a line in the shell's own file reads it.
    """
    chosen = shell or Path(os.environ.get("SHELL", "")).name
    script = get_completion_class(chosen)
    if chosen not in SHELLS or script is None:
        raise click.UsageError(f"say for which shell: {', '.join(SHELLS)}")
    root = context.find_root()
    click.echo(script(root.command, {}, "predictbench", "_PREDICTBENCH_COMPLETE").source())
