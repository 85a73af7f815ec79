"""An experiment that tells everybody what it should not know."""

import base64
import logging
import os
import sys
from typing import Any
from urllib.parse import quote

from predictbench_assets.experiments.protocol import Experiment, ExperimentResult, PipelineContext
from predictbench_assets.markets.market import Market

TOLD = "TEST_TOLD"
"""Names the variables whose values are told, separated by commas."""


def told() -> str:
    """Every value as it is, percent-encoded, and in base64 as it would stand in a header."""
    secrets = [os.environ[name] for name in os.environ[TOLD].split(",")]
    forms = [
        form for secret in secrets for form in (secret, quote(secret, safe=""), encoded(secret), encoded(f"u:{secret}"))
    ]
    return " ".join(forms)


def encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


class Refused(Exception):
    """An error that keeps its words where nobody can change them."""

    def __init__(self, words: str) -> None:
        self._words = (words,)

    def __str__(self) -> str:
        return self._words[0]


class LeakingExperiment(Experiment):
    """Fails for one half of the markets, and puts into the results of the others what it should not."""

    name = "telltale"
    version = "1"
    description = f"Tells secrets wherever it can: {told() if TOLD in os.environ else ''}"
    mandatory = True

    def run(self, market: Market, context: PipelineContext) -> ExperimentResult:
        """Print, log, answer and fail with secrets."""
        secrets = told()
        print("about to log in with", secrets)  # noqa: T201
        sys.stderr.write(f"as {secrets[:40]}")
        sys.stderr.write(f"{secrets[40:]}\n")
        context.logger.warning("about to log in with %s", secrets)
        logging.getLogger("predictbench_assets.telltales").error("logged in with %s", secrets)
        if not self.fails(market):
            told_too: dict[str, Any] = {"header": {"Authorization": secrets}, secrets: [1, secrets]}
            return ExperimentResult.binary(0.5, payload=told_too, diagnostics=told_too, artifact_uri=f"s3://{secrets}")
        try:
            raise Refused(f"no login with {secrets}")
        except Refused as refused:
            context.logger.exception("could not log in")
            raise RuntimeError("no forecast", {"header": secrets}) from refused

    def fails(self, market: Market) -> bool:
        """Each second one."""
        return int(market.market_id) % 2 == 0


class LeakingExperimentThatFails(LeakingExperiment):
    """Fails for all."""

    name = "telltale_that_fails"

    def fails(self, market: Market) -> bool:
        """Always."""
        return True


class LeakingExperimentThatCannotBeMade(LeakingExperiment):
    """Tells before anything runs."""

    def __init__(self) -> None:
        print(told())  # noqa: T201
        raise RuntimeError(f"no login with {told()}")
