"""Checks of the experiments: can they run together, and is there what each of them needs from outside?"""

import asyncio
from collections.abc import Callable, Iterator
from functools import partial

import httpx

from predictbench_assets.diagnosis.checks import Check, Finding, run_checks
from predictbench_assets.experiments.declared.file import DeclarationError, read_declarations
from predictbench_assets.experiments.protocol import Experiment, Prerequisite
from predictbench_assets.experiments.registry import load_registry
from predictbench_assets.failures import PredictbenchError
from predictbench_assets.settings import Settings
from predictbench_assets.web import checked_client

_LIMIT_S = 10.0
"""Seconds for all experiments, which are looked at at once; less than a check has, most of which is for imports."""

_ANSWER_S = 3.0
_LEVELS = ("ok", "warn", "fail")
_AWAY = (httpx.codes.BAD_GATEWAY, httpx.codes.SERVICE_UNAVAILABLE, httpx.codes.GATEWAY_TIMEOUT)


def experiment_findings(settings: Settings) -> Iterator[Finding]:
    """Check that the experiments can run together, and of each that needs something from outside whether it is there.

    Of a file with mistakes the experiments without one are looked at all the same.
    """
    declared = None
    makers: dict[str, Callable[[], Experiment]] = {}
    try:
        declared = read_declarations(settings)
        registry = load_registry(settings.processing_experiments, declared=declared)
    except DeclarationError as error:
        for problem in error.problems:
            yield Finding("fail", "experiments", problem, f"correct {error.file}")
        if declared is not None:
            makers = {name: declared.remake(name) for name in declared.checked}
    else:
        yield Finding("ok", "experiments", ", ".join(registry.names))
        makers = {one.name: partial(_same, one) for one in registry}
    checks = [Check(f"experiment {name}", partial(_looked_at, name, make)) for name, make in makers.items()]
    for found in run_checks(checks, limit_s=_LIMIT_S):
        yield from found


def _same(one: Experiment) -> Experiment:
    return one


def _looked_at(name: str, make: Callable[[], Experiment]) -> Iterator[Finding]:
    """One finding of what an experiment needs; none where it needs nothing."""
    try:
        needed = list(make().prerequisites())
    except (Exception, SystemExit) as error:  # a stranger's code, which may mean another thing by that name
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        yield Finding(
            "warn", f"experiment {name}", f"what it needs is not told: {reason}", "correct its prerequisites()"
        )
        return
    told = [_answered(one) for one in needed]
    if told:
        wrong = [one for one in told if one.level != "ok"]
        found = "; ".join(one.found for one in wrong or told)
        worst = max((one.level for one in told), key=_LEVELS.index)
        yield Finding(worst, f"experiment {name}", found, "; ".join(one.fix for one in wrong))


def _answered(one: Prerequisite) -> Prerequisite:
    """What is needed, once it is known whether its server answers, whatever it does."""
    if one.address is None:
        return one
    try:
        status = asyncio.run(_status(one.address, allow_private=one.allow_private))
    except (TimeoutError, httpx.TimeoutException):
        return Prerequisite(f"{one.found} gives no answer within {_ANSWER_S:g} s", "fail", one.fix)
    except PredictbenchError as error:
        return Prerequisite(f"{one.found} is not called: {error}", "fail", one.fix)
    except httpx.HTTPError as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        return Prerequisite(f"{one.found} does not answer: {reason}", "fail", one.fix)
    if status in _AWAY:
        return Prerequisite(f"{one.found} answers that it is away (status {status})", "warn", one.fix)
    return Prerequisite(f"{one.found} answers")


async def _status(address: str, *, allow_private: bool) -> int:
    """The status of the server's front page, which costs nothing; no secret is sent, and nothing more is read."""
    async with (
        asyncio.timeout(_ANSWER_S),
        checked_client(timeout_s=_ANSWER_S, connections=1, headers={}, allow_private=allow_private) as client,
        client.stream("GET", httpx.URL(address).copy_with(path="/", query=None)) as answer,
    ):
        return answer.status_code
