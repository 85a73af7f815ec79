"""The workflow that publishes the page, by its own steps."""

import tarfile

from predictbench_assets_tests.kit.workflows import Repository


def test_the_page_is_packed_as_pages_wants_it_and_deployed_where_that_is_switched_on(deployment: Repository) -> None:
    [job], [deploy], [told] = deployment.run("publish", event="schedule").values()
    assert job.conclusion == "success", job.log
    assert (deploy.conclusion, told.conclusion) == ("skipped", "skipped"), "nobody asked for a public page"
    assert job.artifacts == {"github-pages": ["artifact.tar"]}
    with tarfile.open(job.temp / "pages" / "artifact.tar") as packed:
        names = packed.getnames()
        page = packed.extractfile("./index.html")
        assert page is not None
        assert "has not begun" in page.read().decode()
    assert {"./assets/report.css", "./assets/report.js", "./leaderboard.json"} <= set(names)
    assert "index.html" in job.summary
    assert deployment.told.requests == []

    deployment.variables["PUBLISH_PAGE"] = "staging"
    [job], [deploy], [told] = deployment.run("publish", event="schedule").values()
    assert (job.conclusion, deploy.conclusion, told.conclusion) == ("success", "success", "skipped"), job.log

    deployment.variables["PUBLISH_PAGE"] = "production"
    [job], [deploy], [told] = deployment.run("publish", event="schedule").values()
    assert (job.conclusion, deploy.conclusion) == ("success", "skipped"), "the page of staging is not production's"


def test_a_page_that_cannot_be_written_is_told_and_not_deployed(deployment: Repository) -> None:
    deployment.variables["PUBLISH_PAGE"] = "staging"
    del deployment.secrets["SUPABASE_DB_URL"]
    [job], [deploy], [told] = deployment.run("publish", event="schedule").values()
    assert (job.conclusion, deploy.conclusion, told.conclusion) == ("failure", "skipped", "skipped")
    [note] = deployment.told.notes
    assert "publish" in note
    assert "set-up" in note


def test_no_schedule_publishes_until_the_pipeline_is_enabled(deployment: Repository) -> None:
    deployment.variables["PIPELINE_ENABLED"] = "false"
    [job], *others = deployment.run("publish", event="schedule").values()
    assert job.conclusion == "skipped"
    assert [one.conclusion for [one] in others] == ["skipped", "skipped"]
