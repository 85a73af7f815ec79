"""The executor of steps as Ray jobs: dagster-ray's, with what its release 0.4.8 lacks.

That has no limit of steps at once, lets its own resources win over those that an experiment asks for, adds what one
step asks for to all later ones, sends steps that ask for nothing to the head node, and waits for ever for a job that
has ended without the step's end.
"""

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

_ENDED = (StepEventStatus.SUCCESS, StepEventStatus.FAILURE, StepEventStatus.SKIPPED)
_SCHEMA = {
    **cast(Shape, upstream.config_schema.config_type).fields,
    "max_concurrent": dg.Field(dg.Int, is_required=False, description="Steps of a run at once."),
}


class RaySteps(RayStepHandler):
    """Steps as Ray jobs; what a step's `dagster-ray/config` asks for wins over the executor's own options."""

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
        """Unhealthy where the job is over and the step is not, whoever ended it."""
        found = super().check_step_health(step_handler_context)
        job = self._get_ray_job_submission_id(step_handler_context)
        if not found.is_healthy or not self.client.get_job_status(job).is_terminal():
            return found
        step, run = self._get_step_key(step_handler_context), step_handler_context.execute_step_args.run_id
        stats = step_handler_context.instance.get_run_step_stats(run, [step])
        if any(one.status in _ENDED for one in stats):
            return found
        info = self.client.get_job_info(job)
        return CheckStepHealthResult.unhealthy(f"Ray job {job} is {info.status} without the step's end: {info.message}")


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
