"""Executors: where the steps of a Dagster run are executed, by the one setting EXECUTOR.

What an executor of an extra is made of is imported only where that executor is named.
"""

import importlib
from collections.abc import Mapping
from typing import Any

import dagster as dg
from dagster._config import process_config  # not exported; `configured` itself checks only when a run begins

from predictbench_assets.settings import Settings, SettingsError

_OF_EXTRAS = {"k8s": "dagster_k8s:k8s_job_executor", "ray": "predictbench_assets.ray_executor:ray_executor"}


def configured_executor(settings: Settings) -> dg.ExecutorDefinition:
    """The executor that EXECUTOR names, with EXECUTOR_OPTIONS. In one process a run takes the least time by far.

    Raises:
        SettingsError: there is no such executor, its extra is not installed, or its options are not as it takes them.
    """
    if settings.predictbench_dry_run:
        # Its files and runs are in a folder that goes with it, and only this process knows that it is one.
        return dg.in_process_executor
    match settings.executor:
        case "in_process":
            executor = dg.in_process_executor
        case "multiprocess":
            executor = dg.multiprocess_executor
        case "k8s" | "ray" as extra:
            try:
                executor = _imported(_OF_EXTRAS[extra])
            except ImportError as error:
                missing = f"EXECUTOR: {extra} needs packages that are not installed ({error.name or error}): "
                cure = f"install the extra, pip install 'predictbench[{extra}]', or requirements/{extra}.txt"
                raise SettingsError([missing + cure]) from error
        case path:
            executor = _named(path)
    return _with_options(executor, settings)


def _imported(path: str) -> Any:
    module, _, attribute = path.partition(":")
    return getattr(importlib.import_module(module), attribute)


def _named(path: str) -> dg.ExecutorDefinition:
    try:
        executor = _imported(path)
    except (ImportError, AttributeError, ValueError) as error:
        raise SettingsError(
            [f"EXECUTOR: {path!r} is none of in_process, multiprocess, k8s and ray, nor module:attribute ({error})"]
        ) from error
    if not isinstance(executor, dg.ExecutorDefinition):
        raise SettingsError([f"EXECUTOR: {path!r} is a {type(executor).__name__}, not an executor"])
    return executor


def _with_options(executor: dg.ExecutorDefinition, settings: Settings) -> dg.ExecutorDefinition:
    """The executor with its options; EXECUTOR_MAX_CONCURRENT is one of them wherever it takes that."""
    options = settings.executor_config
    taken = getattr(executor.config_schema.config_type, "fields", {})
    if settings.remote_executor and settings.predictbench_shared_by > 1:
        _hand_on_share(options, taken, settings)
    if "max_concurrent" in taken:
        if "max_concurrent" in options:
            raise SettingsError(["EXECUTOR_OPTIONS: has max_concurrent in it: set EXECUTOR_MAX_CONCURRENT instead"])
        options["max_concurrent"] = settings.executor_max_concurrent
    if not options:
        return executor
    checked = process_config(executor.config_schema.config_type, options)
    if not checked.success:
        problems = [error.message.splitlines()[0] for error in checked.errors or ()]
        raise SettingsError([f"EXECUTOR_OPTIONS: {settings.redact(problem)}" for problem in problems])
    return executor.configured(options)


def _hand_on_share(options: dict[str, Any], taken: Mapping[str, Any], settings: Settings) -> None:
    """Have steps on other machines know how many processes their limits are shared by, of which none of them is one.

    Raises:
        SettingsError: the executor hands no variables on.
    """
    of_ray = options.setdefault("ray", {}) if "ray" in taken else None
    holder = options if "env_vars" in taken else of_ray
    if holder is None:
        problem = f"EXECUTOR: {settings.executor} takes no env_vars, so its steps cannot be told to share limits"
        raise SettingsError([f"{problem} (--at-once)"])
    if isinstance(holder, dict) and isinstance(given := holder.setdefault("env_vars", []), list):  # else refused below
        given.append(f"PREDICTBENCH_SHARED_BY={settings.predictbench_shared_by}")
