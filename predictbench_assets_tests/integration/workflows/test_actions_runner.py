"""The runner of the other tests: what it does not know it must refuse, or they would prove nothing."""

from pathlib import Path
from typing import Any

import pytest

from predictbench_assets_tests.integration.workflows.actions_runner import NotRunnable, Runner
from predictbench_assets_tests.integration.workflows.expressions import (
    Declared,
    NotUnderstood,
    Open,
    evaluated,
    filled,
)

CONTEXTS = {
    "inputs": Declared(text="given", empty="", no=False),
    "vars": Open(SET="value"),
    "steps": Declared(one=Declared(outcome="failure", outputs=Open(list="[7]"))),
}


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("inputs.text", "given"),
        ("inputs.empty || vars.SET || 'x'", "value"),
        ("vars.MISSING || 'default'", "default"),
        ("!inputs.no", True),
        ("inputs.no && 'yes' || 'no'", "no"),
        ("vars.MISSING != ''", False),
        ("vars.SET != ''", True),
        ("steps.one.outcome == 'Failure'", True),
        ("steps.one.outputs.list != '[]' && (inputs.no || true)", True),
        ("fails()", True),
        ("'it''s'", "it's"),
    ],
)
def test_expressions(expression: str, value: Any) -> None:
    assert evaluated(expression, CONTEXTS, {"fails": lambda: True}) == value


@pytest.mark.parametrize(
    "expression",
    ["inputs.typo", "nothing.at.all", "steps.two.outcome", "hashFiles('x')", "inputs.text =", "'a' 'b'", "vars.*", ""],
)
def test_what_is_not_known_is_refused(expression: str) -> None:
    with pytest.raises(NotUnderstood):
        evaluated(expression, CONTEXTS, {})


def test_text_around_expressions_stays() -> None:
    assert filled("a-${{ inputs.text }}-${{ inputs.no }}-${{ vars.MISSING }}.", CONTEXTS, {}) == "a-given-false-."
    assert filled("${{ inputs.no }}", CONTEXTS, {}) is False


@pytest.mark.parametrize(
    "step",
    [
        "{name: a step, uses: someone/else@0123}",
        "{name: a step, run: 'true', shell: pwsh}",
        "{name: a step, run: 'true', strange: 1}",
    ],
)
def test_steps_that_it_cannot_run_are_refused(step: str, tmp_path: Path) -> None:
    workflows = tmp_path / "clone" / ".github" / "workflows"
    workflows.mkdir(parents=True)
    head = "name: x\non: {workflow_dispatch: {}}\njobs: {one: {runs-on: x, steps: ["
    (workflows / "x.yml").write_text(f"{head}{step}]}}}}\n")
    with pytest.raises(NotRunnable):
        Runner(tmp_path / "clone", tmp_path).run("x")


def test_a_failing_step_stops_the_others_and_a_broken_pipe_is_a_failure(tmp_path: Path) -> None:
    workflows = tmp_path / "clone" / ".github" / "workflows"
    workflows.mkdir(parents=True)
    (workflows / "x.yml").write_text(
        """
name: x
on: {workflow_dispatch: {}}
defaults: {run: {shell: bash}}
jobs:
  one:
    runs-on: x
    steps:
      - {name: forgiven, id: forgiven, continue-on-error: true, run: false | cat}
      - {name: after, if: steps.forgiven.outcome == 'failure', run: echo "FOUND=it" >> "$GITHUB_ENV"}
      - {name: broken, run: 'echo $FOUND; exit 1'}
      - {name: not reached, run: 'true'}
      - {name: last, if: always(), run: 'echo said >> "$GITHUB_STEP_SUMMARY"'}
"""
    )
    [job] = Runner(tmp_path / "clone", tmp_path).run("x")["one"]
    assert {step.name: (step.outcome, step.conclusion) for step in job.steps} == {
        "forgiven": ("failure", "success"),
        "after": ("success", "success"),
        "broken": ("failure", "failure"),
        "not reached": ("skipped", "skipped"),
        "last": ("success", "success"),
    }
    assert job.step("broken").output == "it\n"
    assert (job.conclusion, job.summary) == ("failure", "said\n")
