"""The executor of steps as Ray jobs: dagster-ray's, with what its release 0.4.8 lacks.

That has no limit of steps at once, lets its own resources win over those that an experiment asks for, adds what one
step asks for to all later ones, and sends steps that ask for nothing to the head node. It waits for ever where a job
was stopped or ended without the step's end, and where the cluster is gone; one error of the job server ends a step.
"""

import time
from collections.abc import Iterator
from typing import Any, cast

import dagster as dg
from dagster._config import Shape
from dagster._core.execution.retries import RetryMode  # executors are built of what Dagster does not export
from dagster._core.execution.stats import StepEventStatus
from dagster._core.executor.step_delegating import (
    CheckStepHealthResult,
    StepDelegatingExecutor,
    StepHandlerContext,
)
from dagster_ray.configs import RayExecutionConfig
from dagster_ray.core.executor import RayExecutorConfig, RayStepHandler
from dagster_ray.core.executor import ray_executor as upstream
from ray.job_submission import JobSubmissionClient

_PATIENCE_S = 120.0
_ENDED = (StepEventStatus.SUCCESS, StepEventStatus.FAILURE, StepEventStatus.SKIPPED)
_SCHEMA = {
    **cast(Shape, upstream.config_schema.config_type).fields,
    "max_concurrent": dg.Field(dg.Int, is_required=False, description="Steps of a run at once."),
}


class RaySteps(RayStepHandler):
    """Steps as Ray jobs; what a step's `dagster-ray/config` asks for wins over the executor's own options."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._asked: dict[str, float] = {}
        """Since when Ray does not tell of a job."""

    def launch_step(self, step_handler_context: StepHandlerContext) -> Iterator[dg.DagsterEvent]:
        """Submit the step's job, with a CPU where nobody says what it needs: Ray puts it on the head node otherwise."""
        asked = RayExecutionConfig.from_tags(step_handler_context.step_tags[self._get_step_key(step_handler_context)])
        resources = {"num_cpus": self.num_cpus, "num_gpus": self.num_gpus, "memory": self.memory}
        mine: dict[str, Any] = {
            name: None if getattr(asked, name) is not None else value for name, value in resources.items()
        }
        if mine["num_cpus"] is None and asked.num_cpus is None:
            mine["num_cpus"] = 1
        handler = RayStepHandler(
            self.client, self.env_vars, self.runtime_env, **mine, resources=dict(self.resources or {})
        )
        yield from handler.launch_step(step_handler_context)

    def check_step_health(self, step_handler_context: StepHandlerContext) -> CheckStepHealthResult:
        """Unhealthy where the job is over and the step is not, whoever ended it, or where Ray has long said nothing."""
        job = self._get_ray_job_submission_id(step_handler_context)
        try:
            found = self.client.get_job_info(job)
        except (OSError, RuntimeError) as error:  # of the connection, or of what the job server answers
            silent = time.monotonic() - self._asked.setdefault(job, time.monotonic())
            if silent < _PATIENCE_S:
                return CheckStepHealthResult.healthy()
            return CheckStepHealthResult.unhealthy(f"Ray has not told of job {job} for {silent:.0f} s: {_brief(error)}")
        self._asked.pop(job, None)
        if not found.status.is_terminal() or self._has_ended(step_handler_context):
            return CheckStepHealthResult.healthy()
        state = f"Ray job {job} is {found.status} without the step's end"
        return CheckStepHealthResult.unhealthy(f"{state}: {_brief(found.message)}")

    def _has_ended(self, context: StepHandlerContext) -> bool:
        """Whether the step's end is in the event log, where it may be before this process has read it."""
        stats = context.instance.get_run_step_stats(context.execute_step_args.run_id, [self._get_step_key(context)])
        return any(one.status in _ENDED for one in stats)


def _brief(said: object) -> str:
    """What Ray says without the end of the step's log, which it adds."""
    return (str(said).strip().splitlines() or ["it does not say why"])[0].partition(", last available logs")[0][:500]


@dg.executor(
    name="ray",
    config_schema=_SCHEMA,
    requirements=dg.multiple_process_executor_requirements(),
)
def ray_executor(init_context: dg.InitExecutorContext) -> StepDelegatingExecutor:
    """Steps as jobs of the Ray cluster whose job server is at `address` (default: RAY_ADDRESS)."""
    config = cast(dict[str, Any], init_context.executor_config)
    ray = RayExecutorConfig(**config["ray"])
    client = JobSubmissionClient(ray.address, metadata=ray.metadata, headers=ray.headers, cookies=ray.cookies)
    return StepDelegatingExecutor(
        RaySteps(client, ray.env_vars, ray.runtime_env, ray.num_cpus, ray.num_gpus, ray.memory, ray.resources),
        retries=cast(RetryMode, RetryMode.from_config(config["retries"])),
        max_concurrent=config.get("max_concurrent"),
        tag_concurrency_limits=config.get("tag_concurrency_limits"),
        should_verify_step=True,
    )
