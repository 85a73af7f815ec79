"""Log-odds in arrays, and the one fit that the models of this room share: a logistic regression held by its prior.

Imported when a model runs, not when it is listed: the library behind it takes a tenth of a second to load.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from predictbench_assets.experiments.protocol import ExperimentResult
from predictbench_assets.experiments.quantitative.declarations import EDGE, PRIOR_MARKETS

Floats = NDArray[np.float64]

_ITERATIONS: Final = 60
_HALVINGS: Final = 40
_CONVERGED: Final = 1e-10
_RIDGE_OF_NOTHING: Final = 1e-9
"""Share of the information that is added everywhere: what neither data nor prior decide stays at the prior."""


def array(values: Iterable[float]) -> Floats:
    """The values as an array."""
    return np.fromiter(values, dtype=np.float64)


def log_odds(probability: Floats, edge: float = 0.0) -> Floats:
    """Logarithms of the odds; infinite at 0 and 1, unless an edge keeps them from that.

    Args:
        probability: in [0, 1].
        edge: probabilities below it count as it, those above one minus it as that.
    """
    held = np.clip(probability, edge, 1.0 - edge)
    with np.errstate(divide="ignore"):
        return np.log(held) - np.log1p(-held)


def at_the_edge(probability: Floats) -> NDArray[np.bool_]:
    """True for each probability whose odds are held at `EDGE`."""
    return (probability < EDGE) | (probability > 1.0 - EDGE)


def expit(value: Floats) -> Floats:
    """The probabilities of log-odds."""
    return 0.5 * (1.0 + np.tanh(0.5 * value))


def ridge_logistic(
    features: Floats, offset: Floats, outcome: Floats, prior: Floats, *, worth: float = PRIOR_MARKETS
) -> Floats:
    """The coefficients of a logistic regression whose prior weighs as much as `worth` of the markets.

    The penalty is the mean information of one market at the prior (Kass and Wasserman 1995, the unit information
    prior), `worth` times: so the scale of the features does not matter, and with `worth` markets data and prior count
    alike. Solved by Newton's method, each step halved until it gains; the penalised likelihood is concave, so there is
    one solution, and it is finite also where the outcomes are separable.

    Args:
        features: shape (markets, coefficients).
        offset: shape (markets,), log-odds that are added as they are.
        outcome: shape (markets,), in [0, 1]; a split is 0.5.
        prior: shape (coefficients,).
        worth: weight of the prior, in markets.

    Returns:
        shape (coefficients,); the prior where there are no markets.
    """
    if not len(outcome):
        return prior.copy()

    def gain(coefficients: Floats) -> float:
        value = offset + features @ coefficients
        off = coefficients - prior
        # log q and log (1 - q) of q = expit(value), without overflow
        return float(-(np.logaddexp(0.0, value) - outcome * value).sum() - 0.5 * off @ precision @ off)

    def information(coefficients: Floats) -> Floats:
        q = expit(offset + features @ coefficients)
        return (features * (q * (1.0 - q))[:, None]).T @ features

    count = len(prior)
    unit = information(prior) / len(outcome)
    precision = worth * unit + _RIDGE_OF_NOTHING * (np.trace(unit) + 1.0) * np.eye(count)
    at = prior.copy()
    reached = gain(at)
    for _ in range(_ITERATIONS):
        slope = features.T @ (outcome - expit(offset + features @ at)) - precision @ (at - prior)
        step = np.linalg.solve(information(at) + precision, slope)
        if float(slope @ step) < _CONVERGED:
            break
        for _ in range(_HALVINGS):
            if (next_gain := gain(at + step)) > reached:
                break
            step = step / 2
        else:
            break  # at the precision of the numbers
        at, reached = at + step, next_gain
    return at


def answers(
    required: Sequence[tuple[float, ...]], probability: Floats, payloads: Sequence[Mapping[str, Any]]
) -> list[ExperimentResult]:
    """Results with these probabilities of first outcomes; further outcomes share the rest as they do in `required`."""
    return [
        ExperimentResult(probabilities=with_first(one, first), payload=payload)
        for one, first, payload in zip(required, probability.tolist(), payloads, strict=True)
    ]


def with_first(probabilities: Sequence[float], first: float) -> tuple[float, ...]:
    """The probabilities with another one for the first outcome, the others' shares of the rest unchanged."""
    others = probabilities[1:]
    total = sum(others)
    shares = [other / total for other in others] if total > 0 else [1 / len(others)] * len(others)
    return (first, *((1.0 - first) * share for share in shares))
