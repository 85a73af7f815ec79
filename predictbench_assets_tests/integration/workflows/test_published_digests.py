"""The digest of a day leaves the database at once: on the run's page, and as a tag that nobody moves."""

import json
import re
import stat
from pathlib import Path

import pytest

from predictbench_assets_tests.kit.workflows import Repository

DAY = "2026-03-02"
TAG = f"forecasts-{DAY}-w7"

pytestmark = pytest.mark.long

# GitHub's own command, as far as the workflow uses it: a folder of tags, each with its notes.
GH = """#!/usr/bin/env bash
set -eu
[[ "$GH_TOKEN" = *-token ]] && [ "$GH_REPO" = someone/predictbench ] && [ "$1" = release ]
case "$2" in
  view) cat "$TAGS/$3" ;;
  create)
    [ ! -e "$TAGS/$3" ]
    [ "$4 $5 $6 $7 $8" = "--target $GITHUB_SHA --title $3 --notes-file" ] && [ "${10}" = --latest=false ]
    cp "$9" "$TAGS/$3" ;;
  *) exit 2 ;;
esac
"""


@pytest.fixture
def tags(deployment: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The tags of a repository that publishes what staging stores."""
    commands, tags = tmp_path / "commands", tmp_path / "tags"
    commands.mkdir()
    tags.mkdir()
    command = commands / "gh"
    command.write_text(GH)
    command.chmod(command.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(commands), prepend=":")
    monkeypatch.setenv("TAGS", str(tags))
    deployment.variables["PUBLISH_DIGESTS"] = "staging"
    deployment.secrets["GITHUB_TOKEN"] = "planted-token"
    return tags


def test_the_digest_of_the_day_is_a_tag(deployment: Repository, tags: Path) -> None:
    jobs = deployment.run("daily-pipeline", event="schedule")
    [run], [publish] = jobs["run"], jobs["publish"]
    assert publish.conclusion == "success", f"{jobs['plan'][0].log}{run.log}{publish.log}"
    [(stored, made_at)] = deployment.rows("SELECT digest, made_at FROM predictbench.forecast_digests")
    assert f"| digest | {stored} of 20 forecasts" in run.summary
    assert [path.name for path in tags.iterdir()] == [TAG]
    notes = (tags / TAG).read_text()
    assert stored in notes
    assert f"predictbench verify --digest {stored}" in notes
    assert "predictbench-forecasts-1 of 20 forecasts, made 2026-03-02T07:04:00Z" in notes
    assert stored in publish.summary
    kept = json.loads((run.temp / "predictbench" / "kept" / "summary.json").read_text())
    assert re.fullmatch("[0-9a-f]{64}", kept["forecast_digest"]["digest"])
    assert made_at.isoformat() == "2026-03-02T07:04:00+00:00"

    # The schedules that heal have nothing to publish; the same run again finds its tag.
    [healing] = deployment.run("daily-pipeline", event="schedule")["publish"]
    assert healing.conclusion == "skipped"
    [again] = deployment.run("daily-pipeline", run_date=DAY)["publish"]
    assert again.conclusion == "success", again.log
    assert f"{TAG} is published" in again.step("Publish").output
    assert [path.name for path in tags.iterdir()] == [TAG]

    # A tag that says something else stays as it is, and the digest goes beside it.
    (tags / TAG).write_text("another digest")
    deployment.run("daily-pipeline", run_date=DAY)
    assert {path.name for path in tags.iterdir()} == {TAG, f"{TAG}-{stored[:12]}"}
    assert (tags / TAG).read_text() == "another digest"


def test_nothing_is_published_unless_it_is_wanted(deployment: Repository, tags: Path) -> None:
    [dry] = deployment.run("daily-pipeline", dry_run=True)["publish"]
    deployment.variables["PUBLISH_DIGESTS"] = "production"
    [staging] = deployment.run("daily-pipeline", event="schedule")["publish"]
    del deployment.variables["PUBLISH_DIGESTS"]
    [unasked] = deployment.run("daily-pipeline", run_date=DAY)["publish"]
    assert [job.conclusion for job in (dry, unasked, staging)] == ["skipped"] * 3
    assert not list(tags.iterdir())
