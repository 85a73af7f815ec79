"""What describes the repository to people and machines: it says one thing everywhere."""

import hashlib
import json
import re
from typing import Any

import pytest
import yaml
from hatchling.metadata.core import ProjectMetadata
from hatchling.plugin.manager import PluginManager

from predictbench_assets import __version__
from predictbench_assets_tests.kit.places import CLONE

APACHE_2_0 = "cfc7749b96f63bd31c3c42b5c471bf756814053e847c10f3eb003417bc523d30"
"""SHA-256 of the text as the Apache Software Foundation publishes it."""


@pytest.fixture(scope="module")
def project() -> Any:
    """The metadata that a wheel would have."""
    metadata = ProjectMetadata(str(CLONE), PluginManager())
    metadata.validate_fields()  # raises for a classifier or a licence that does not exist
    return metadata


@pytest.fixture(scope="module")
def citation() -> Any:
    return yaml.safe_load((CLONE / "CITATION.cff").read_text())


def test_the_licence_is_the_one_that_is_named(project: Any, citation: Any) -> None:
    assert project.core.license_expression == "Apache-2.0"
    assert project.core.license_files == ["LICENSE"]
    assert hashlib.sha256((CLONE / "LICENSE").read_bytes()).hexdigest() == APACHE_2_0
    assert citation["license"] == "Apache-2.0"
    assert "LICENSE" in (CLONE / "deploy" / "Dockerfile").read_text(), "a build without it fails"
    assert "!LICENSE" in (CLONE / "deploy" / "Dockerfile.dockerignore").read_text()


def test_the_version_is_one(project: Any, citation: Any) -> None:
    assert project.version == __version__
    assert str(citation["version"]) == __version__
    changelog = (CLONE / "CHANGELOG.md").read_text()
    heads = re.findall(r"^## \[(.+?)\](?: - (\d{4}-\d{2}-\d{2}))?$", changelog, re.M)
    assert heads[0] == ("Unreleased", "")
    assert heads[1] == (__version__, str(citation["date-released"]))


def test_the_repository_has_one_address(project: Any, citation: Any) -> None:
    source = project.core.urls["Source"]
    assert citation["repository-code"] == source
    assert {"Documentation", "Issues", "Changelog"} < project.core.urls.keys()
    for address in project.core.urls.values():
        assert address.startswith(source)


def test_every_supported_python_is_a_classifier(project: Any) -> None:
    prefix = "Programming Language :: Python :: 3."
    minors = [int(one.removeprefix(prefix)) for one in project.core.classifiers if one.startswith(prefix)]
    assert all(project.core.python_constraint.contains(f"3.{minor}") for minor in minors)
    assert not project.core.python_constraint.contains(f"3.{min(minors) - 1}")
    assert not project.core.python_constraint.contains(f"3.{max(minors) + 1}")
    assert minors == list(range(min(minors), max(minors) + 1))


def test_the_dev_container_is_set_up_like_a_clone() -> None:
    container = json.loads((CLONE / ".devcontainer" / "devcontainer.json").read_text())
    [made, target] = container["postCreateCommand"].split()
    assert made == "make"
    assert re.search(rf"^{target}:", (CLONE / "Makefile").read_text(), re.M)
    assert container["forwardPorts"] == [3000]
    assert re.search(r"python:3\.1[123]$", container["image"])
