"""Counts of what reached the server: by model, by prompt, in flight, in tokens. One event loop writes them."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from predictbench_assets.sandbox.models.answers import Asked, Usage

_KEPT_CALLS = 200_000


@dataclass(slots=True)
class Call:
    """One request that asked a model for an answer."""

    number: int
    route: str
    model: str
    prompt: str
    """SHA-256 of model, prompt, schema and sample, see `Asked.digest`."""
    turn: int
    """Earlier requests of the same prompt."""
    status: int | None = None
    """HTTP status; None while in flight, and where the connection was broken on purpose."""
    fault: str = ""
    """Kind of fault that it met; empty for none."""
    billed: bool = False
    """True where an answer was worked out: a provider would bill it, whether or not the caller got it."""
    delivered: bool = False
    """True where the whole answer was handed to a connection that was still open."""
    usage: Usage = field(default_factory=Usage)
    batch: str = ""
    """Job of which it is a row; empty for a request of its own."""

    @property
    def drawn(self) -> int:
        """The number that decides whether a share of requests contains this one."""
        return int(self.prompt[:16], 16)


@dataclass(slots=True)
class _Totals:
    requests: int = 0
    billed: int = 0
    delivered: int = 0
    input_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0
    batch_tokens: int = 0
    """Tokens, in and out, of rows of batches: half price."""
    faults: Counter[str] = field(default_factory=Counter)
    statuses: Counter[str] = field(default_factory=Counter)

    def add(self, call: Call) -> None:
        self.billed += call.billed
        self.delivered += call.delivered
        self.statuses[str(call.status or "none")] += 1
        if call.fault:
            self.faults[call.fault] += 1
        usage = call.usage
        self.input_tokens += usage.input
        self.cached_tokens += usage.cached
        self.output_tokens += usage.output
        self.reasoning_tokens += usage.reasoning
        self.batch_tokens += (usage.input + usage.output) if call.batch else 0

    def as_dict(self) -> dict[str, Any]:
        values = {name: getattr(self, name) for name in self.__slots__}
        return {name: dict(value) if name in _COUNTERS else value for name, value in values.items()}


class Counts:
    """Requests since the start, or since the counts were reset."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        """The calls themselves, oldest first; the first 200,000 are kept."""
        self.prompts: Counter[str] = Counter()
        """Requests by prompt."""
        self.billed: Counter[str] = Counter()
        """Answers worked out, by prompt."""
        self.routes: Counter[str] = Counter()
        """Requests of any kind, by method and route."""
        self.in_flight = 0
        self.most_in_flight = 0
        self._models: dict[str, _Totals] = {}
        self._number = 0

    def begin(self, route: str, asked: Asked, batch: str = "") -> Call:
        """Note a request that has been read."""
        prompt = asked.digest
        call = Call(self._number, route, asked.model, prompt, self.prompts[prompt], batch=batch)
        self._number += 1
        self.prompts[prompt] += 1
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        self._of(asked.model).requests += 1
        if len(self.calls) < _KEPT_CALLS:
            self.calls.append(call)
        return call

    def end(self, call: Call) -> None:
        """Note how a request ended."""
        self.in_flight -= 1
        self.billed[call.prompt] += call.billed
        self._of(call.model).add(call)

    def as_dict(self) -> dict[str, Any]:
        """The counts as plain data: totals, by model, by route; any thread may ask."""
        models = {model: each.as_dict() for model, each in list(self._models.items())}
        totals = list(models.values())
        numbers = {name: sum(each[name] for each in totals) for name in _Totals.__slots__ if name not in _COUNTERS}
        requests = self.prompts.total()
        return {
            "requests": requests,
            **numbers,
            "in_flight": self.in_flight,
            "most_in_flight": self.most_in_flight,
            "distinct_prompts": len(self.prompts),
            "duplicates": requests - len(self.prompts),
            "billed_again": sum(times - 1 for times in list(self.billed.values()) if times > 1),
            "by_model": models,
            "by_route": dict(self.routes),
        }

    def _of(self, model: str) -> _Totals:
        return self._models.setdefault(model, _Totals())


_COUNTERS = {"faults", "statuses"}
