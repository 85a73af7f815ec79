"""Help at 80 columns: every command in a section, examples that parse, near names suggested."""

import re
import shlex
from collections.abc import Iterator

import click
import pytest
from click.testing import CliRunner, Result

from predictbench_assets.cli.main import COMMANDS, main

Path = tuple[str, ...]


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments, prog_name="predictbench", env={"COLUMNS": "80"})


def commands(group: click.Group = main, path: Path = ()) -> Iterator[tuple[Path, click.Command]]:
    """Every command and group, by its path."""
    yield path, group
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))
        elif command is not None:
            yield (*path, name), command


ALL = dict(commands())


@pytest.fixture(autouse=True)
def as_in_a_new_process() -> None:
    """click keeps a command's help option from the first context that asks for it, which may be another test's."""
    for command in ALL.values():
        command._help_option = None


def test_the_sections_have_every_command_once() -> None:
    listed = [name for section in COMMANDS.values() for name in section]
    assert sorted(listed) == sorted(path[0] for path in ALL if len(path) == 1)
    assert [name for name in listed if ALL[name,].name != name] == []
    lines = invoke("--help").output.splitlines()
    titles = [line.removesuffix(":") for line in lines if re.fullmatch(r"[A-Z]\w+:", line)]
    assert titles == ["Options", "Run", "Look", "Experiment", "Operate"]
    assert lines[lines.index("Run:") + 2].split()[0] == "daily"


@pytest.mark.parametrize("path", ALL, ids=" ".join)
def test_help_fits_80_columns_and_is_not_cut(path: Path) -> None:
    lines = invoke(*path, "--help").output.splitlines()
    assert [line for line in lines if len(line) > 80] == []
    assert [line for line in lines if line.endswith("-")] == []  # a word with a hyphen that was broken there
    assert [line for line in lines if line.endswith("...") and not line.startswith("Usage")] == []
    assert invoke(*path, "-h").output.splitlines() == lines


@pytest.mark.parametrize("path", ALL, ids=" ".join)
def test_every_option_has_a_help(path: Path) -> None:
    silent = [one.opts for one in ALL[path].params if isinstance(one, click.Option) and not (one.help or one.hidden)]
    assert silent == []


def examples() -> list[tuple[str, ...]]:
    """The arguments of every example in a help, without the remarks behind two blanks or more."""
    found = []
    for command in ALL.values():
        text = re.sub(r"\\\n\s*", "", command.epilog or "")
        # An example may be quoted over a line end, and stand inside of another command.
        for example in re.findall(r'(?:^  |\$\()predictbench((?:"[^"]*"|[^"\n)])*)', text, re.MULTILINE):
            bare = re.sub(r"(?<=\S) {2,}\w.*$|(?<=\S) +[>|].*$", "", example.strip())
            found.append(tuple(shlex.split(bare)))
    return found


EXAMPLES = examples()


def test_there_are_examples_for_every_command() -> None:
    shown = {command for command, *_ in filter(None, EXAMPLES)}
    assert shown >= set(main.list_commands(click.Context(main))) - {"completion"}


@pytest.mark.parametrize("arguments", EXAMPLES, ids=" ".join)
def test_the_options_of_every_example_parse(arguments: Path) -> None:
    command: click.Command = main
    context, rest = click.Context(main, info_name="predictbench"), list(arguments)
    while isinstance(command, click.Group):
        given, rest, _ = command.make_parser(context).parse_args(rest)
        if not rest and command.invoke_without_command:
            break
        assert rest, "a group is no command"
        found = command.get_command(context, rest.pop(0))
        assert found is not None
        command = found
        context = click.Context(command, parent=context, info_name=command.name)
    given, rest, _ = command.make_parser(context).parse_args(rest)
    assert rest == []
    for one in command.params:
        if one.name not in given or isinstance(one.type, click.Path) or one.name == "demo":
            continue
        if str(given[one.name]).startswith("$"):
            continue
        value = one.type_cast_value(context, given[one.name])
        if one.callback is not None:
            one.callback(context, one, value)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["dayly"], "Did you mean 'daily'?"),
        (["db", "upgrad"], "Did you mean 'upgrade'?"),
        (["sandbox", "serv"], "Did you mean 'serve'?"),
        (["daily", "--dryrun"], "Did you mean '--dry-run'?"),
        (["daily", "--experiment", "shrunk_markt"], "Did you mean 'shrunk_market'?"),
        (["run-config", "--experiment", "unifrom"], "Did you mean 'uniform'?"),
        (["daily", "--run-date", "27.11.2026"], "such as 2026-11-23"),
        (["backfill", "--from", "yesterday", "--to", "2026-11-20"], "such as 2026-11-23"),
        (["verify", "--since", "2026-13-01"], "such as 2026-11-23"),
        (["leaderboard", "--as-of", "23/11"], "2026-11-23T08:00Z"),
        (["report", "--as-of", "now"], "2026-11-23T08:00Z"),
        (["due", "--window-days", "a week"], "such as 7 or 1,7,30"),
        (["leaderboard", "--board", "cor"], "'core', 'full', 'backfill'"),
        (["leaderboard", "--price-bin", "5"], "5-20"),
        (["sandbox", "serve", "--now", "noon"], "2026-02-02T07:00:00Z"),
    ],
)
def test_what_is_nearly_right_is_answered_with_what_is_right(arguments: list[str], said: str) -> None:
    done = invoke(*arguments)
    assert done.exit_code == 2
    assert said in " ".join(done.output.split())


def test_a_demo_is_not_removed_for_an_option_of_daily() -> None:
    done = invoke("demo", "--forget", "uniform")
    assert done.exit_code == 2
    assert "or has a new version" in " ".join(done.output.split())
    assert "--fresh" not in done.output
