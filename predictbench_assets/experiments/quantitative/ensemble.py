"""Several forecasters as one: the median, or the mean of their log-odds."""

from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal, get_args

from predictbench_assets.experiments.protocol import Experiment, ExperimentResult, Information, PipelineContext
from predictbench_assets.experiments.quantitative.declarations import EDGE
from predictbench_assets.markets.market import Market

Method = Literal["median", "logit_mean"]

LEAST: Final = 2


class EnsembleExperiment(Experiment):
    """The crowd of the experiments that it requires, each with the same weight.

    Args:
        of: names of at least two experiments; a market that one of them has no forecast of is skipped.
        method: `median`, which one bad forecaster cannot move far, or `logit_mean`, the geometric mean of the odds.
        information: what it may see, at least what each of those may see.
    """

    name = "ensemble"
    version = "1"

    def __init__(self, of: Sequence[str], method: Method = "median", information: Information = "market") -> None:
        if len(set(of)) != len(of) or len(of) < LEAST:
            raise ValueError(f"of is {list(of)!r}, not at least {LEAST} different names of experiments")
        if method not in get_args(Method):
            raise ValueError(f"method is {method!r}, neither of {' and '.join(get_args(Method))}")
        self.requires = tuple(of)
        self.information = information
        self._of, self._method = tuple(of), method
        how = "median" if method == "median" else "mean log-odds"
        self.description = f"The {how} of {', '.join(of)}."

    @property
    def config(self) -> Mapping[str, Any]:
        """The members, the method, and how far out a member's odds count."""
        return {"of": list(self._of), "method": self._method, "edge": EDGE}

    def run_cohort(
        self, markets: Sequence[Market], contexts: Mapping[str, PipelineContext]
    ) -> Mapping[str, ExperimentResult]:
        """Pool the members' forecasts of first outcomes; further outcomes share the rest as the first member has it."""
        import numpy as np

        from predictbench_assets.experiments.quantitative.fitting import answers, array, at_the_edge, expit, log_odds

        required = (contexts[market.market_id].required for market in markets)
        members = [[one[name].probabilities for name in self._of] for one in required]
        each = array(first for row in members for first, *_ in row).reshape(len(markets), len(self._of))
        pooled = np.median(each, axis=1) if self._method == "median" else expit(log_odds(each, EDGE).mean(axis=1))
        payloads = [
            {
                "method": self._method,
                "members": dict(zip(self._of, row.tolist(), strict=True)),
                "spread": float(row.std()),
                **({"held_at_edge": int(at_the_edge(row).sum())} if self._method == "logit_mean" else {}),
            }
            for row in each
        ]
        found = answers([row[0] for row in members], pooled, payloads)
        return dict(zip((market.market_id for market in markets), found, strict=True))
