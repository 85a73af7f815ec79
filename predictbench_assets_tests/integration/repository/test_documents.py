"""What the documents promise exists: commands with their options, make targets, links, settings; and their SQL runs."""

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from sqlalchemy import Engine

from predictbench_assets.cli.main import main
from predictbench_assets.settings import all_variables, is_provider_variable
from predictbench_assets.web import VARIABLES
from predictbench_assets_tests.kit.places import CLONE

DOCUMENTS = [file for folder in (".", "docs", ".github") for file in sorted((CLONE / folder).glob("*.md"))]

FENCE = re.compile(r"^```(?P<language>\w*)\n(?P<body>.*?)^```", re.M | re.S)
# What no command of ours reads: GitHub's, a shell's, and words of SQL.
NO_SETTINGS = {
    "PIPELINE_ENABLED",
    "PUBLISH_DIGESTS",
    "PUBLISH_PAGE",
    "OWNER_URL",
    "ADMIN_URL",
    "ON_ERROR_STOP",
    "DAGSTER_HOME",
    "RAY_JOB_START_TIMEOUT_SECONDS",
    "SCORING_VERSION",
    # Of AWS's libraries.
    "AWS_ENDPOINT_URL",
    "AWS_REQUEST_CHECKSUM_CALCULATION",
}

each_document = pytest.mark.parametrize("document", DOCUMENTS, ids=lambda file: str(file.relative_to(CLONE)))


def fenced(document: Path, *languages: str) -> Iterator[str]:
    for match in FENCE.finditer(document.read_text()):
        if match["language"] in languages:
            yield match["body"]


def commands(document: Path) -> Iterator[str]:
    """Every line that a reader is told to type, and every command of ours in running text."""
    for body in fenced(document, "console"):
        yield from (line.removeprefix("$ ") for line in body.splitlines() if line.startswith("$ "))
    prose = FENCE.sub("", document.read_text())
    yield from re.findall(r"`((?:predictbench|make) [^`]+)`", prose)


def words(command: str) -> list[str]:
    return shlex.split(command, comments=True)


@each_document
def test_commands_of_ours_exist_with_their_options(document: Path) -> None:
    for line in commands(document):
        name, *arguments = words(line)
        if Path(name).name != "predictbench":
            continue
        command: click.Command = main
        while isinstance(command, click.Group):
            named = arguments.pop(0) if arguments and arguments[0] != "--help" else None
            found = command.get_command(click.Context(command), named) if named is not None else None
            if found is None:
                break
            command = found
        assert command is not main or arguments[:1] in ([], ["--help"], ["..."]), f"there is no {line!r}"
        known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
        given = {argument for argument in arguments if argument.startswith("--")} - {"--help"}
        assert given <= known, f"{line!r}: no option {given - known}"


def test_every_python_example_is_run_by_a_test() -> None:
    """In `test_writing_an_experiment`, in `test_notebooks`, and those of research in its own test."""
    shown = {str(document.relative_to(CLONE)) for document in DOCUMENTS if list(fenced(document, "python", "py"))}
    assert shown == {"README.md", "docs/notebooks.md", "docs/research.md", "docs/writing-an-experiment.md"}


def test_the_examples_of_experiments_pass_mypy_strict(tmp_path: Path) -> None:
    readme = next(block for block in fenced(CLONE / "README.md", "python") if "(Experiment)" in block)
    files = {"my_forecasters.py": readme}
    for block in fenced(CLONE / "docs" / "writing-an-experiment.md", "python"):
        first, _, rest = block.partition("\n")
        name = first.removeprefix("# ")
        files[name] = files.get(name, "") + rest
    for file in sorted((CLONE / "examples").rglob("*.py")):
        files[f"{file.parent.name}_{file.name}" if file.stem == "__init__" else file.name] = file.read_text()
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    command = [sys.executable, "-m", "mypy", "--config-file", CLONE / "pyproject.toml", "--no-error-summary"]
    command += ["--cache-dir", CLONE / ".mypy_cache", *sorted(files)]
    checked = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (checked.stdout, checked.stderr, checked.returncode) == ("", "", 0)


@each_document
def test_targets_of_make_exist(document: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (CLONE / "Makefile").read_text(), re.M))
    for line in commands(document):
        for part in line.split("&&"):
            arguments = words(part)
            if arguments[:1] == ["make"]:
                assert {word for word in arguments[1:] if "=" not in word} <= targets, line


@each_document
def test_settings_that_are_named_exist(document: Path) -> None:
    text = document.read_text()
    found = set(re.findall(r"`([A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+)(?:=[^`]*)?`", text))
    named = {name for name in found if not is_provider_variable(name)}
    assert named <= all_variables() | NO_SETTINGS | VARIABLES


@each_document
def test_links_lead_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", document.read_text()):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        file = (document.parent / path).resolve() if path else document
        assert file.exists(), f"{document.name} links to {target}"
        if anchor:
            titles = re.findall(r"^#+ (.+)$", file.read_text(), re.M)
            assert anchor in {as_anchor(title) for title in titles}, f"{document.name} links to {target}"


def test_every_document_is_in_the_index() -> None:
    index = CLONE / "docs" / "README.md"
    linked = {
        (index.parent / target).resolve()
        for target in re.findall(r"\]\(([^)\s]+)\)", index.read_text())
        if "://" not in target
    }
    pages = {file for file in (CLONE / "docs").rglob("*.md") if file != index}
    assert pages <= linked
    roots = {CLONE / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md")}
    assert roots <= linked


def as_anchor(title: str) -> str:
    """How GitHub names a heading."""
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


@each_document
def test_the_sql_runs(document: Path, engine: Engine) -> None:
    statements = [part for body in fenced(document, "sql") for part in body.split(";") if part.strip()]
    statements += [words(line)[-1] for line in commands(document) if " db sql " in line]
    statements += re.findall(r"`(select [^`]+)`", document.read_text())
    for statement in statements:
        with engine.connect() as connection:  # never committed
            connection.exec_driver_sql(statement.replace("%", "%%"))
