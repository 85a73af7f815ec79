"""Reading about many tokens in batches, so that what is wrong with one of them costs that one and not its batch.

A batch that is refused, or fails whenever it is asked for, is asked for again in halves until what is at fault is
alone. A source that answers nothing any more is left alone soon, and the repetitions have a bound.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Coroutine, Iterable
from typing import Any, TypeVar

from predictbench_assets.exchanges.transport import AnswerTooLarge, RegionBlocked, RequestFailed, RequestRefused
from predictbench_assets.failures import PredictbenchError

MOST_HALVED = 500
"""Batches and parts of them that are halved in one reading, each for two requests more."""

ATTEMPTS_OF_A_PART = 2
"""Attempts for a half, since the whole has used up all already."""

_FAILURES_IN_A_ROW = 3

T = TypeVar("T")
Read = Callable[[list[str], int | None], Awaitable[None]]
"""A reader of one batch, with as many attempts as given; None for as many as usual."""


class Batches:
    """One reading in batches, and what came of it.

    Args:
        read: reads one batch.
        size: tokens in a batch.
        readers: batches that are read side by side.
    """

    def __init__(self, read: Read, *, size: int, readers: int) -> None:
        self._read = read
        self._size = size
        self._readers = readers
        # From a batch down to one token, and twice more: by then something would have been answered.
        self._most_refused = (size.bit_length() + 2) * readers
        self._halved = 0
        self._refused = 0
        self._failed = 0
        self._over = False
        self.requested = 0
        """Tokens that were to be read about."""
        self.answered = 0
        """Tokens of the batches that were answered."""
        self._failure: PredictbenchError | str | None = None

    @property
    def reason(self) -> str | None:
        """The number of tokens without an answer, and the reason; None where there was one about each."""
        if self._failure is None:
            return None
        failure = self._failure
        # If others were answered, the token is at fault and not the address.
        cause = str(failure)
        if self.answered and isinstance(failure, RequestRefused) and not isinstance(failure, AnswerTooLarge):
            cause = failure.answer
        return f"{self.requested - self.answered:,} of {self.requested:,} tokens: {cause}"

    def end(self, why: str) -> None:
        """Note why nothing more is read; the reason stays what went wrong before, if anything did."""
        self._failure = self._failure or why

    async def run(self, tokens: AsyncIterable[str], *, when_all_known: Callable[[], None] = lambda: None) -> None:
        """Read about each token once, while they may still come in. What goes wrong is not raised: see `reason`."""
        waiting: asyncio.Queue[list[str] | None] = asyncio.Queue()

        async def feed() -> None:
            async for batch in self._batches(tokens):
                waiting.put_nowait(batch)
            when_all_known()
            for _ in range(self._readers):
                waiting.put_nowait(None)

        async def work() -> None:
            while (batch := await waiting.get()) is not None:
                await self._whole(batch)

        await side_by_side([feed(), *(work() for _ in range(self._readers))])

    async def _batches(self, tokens: AsyncIterable[str]) -> AsyncIterator[list[str]]:
        known: set[str] = set()
        batch: list[str] = []
        async for token in tokens:
            # A text that is no number is no token, and would have a whole batch refused.
            if token in known or not (token.isascii() and token.isdecimal()):
                continue
            known.add(token)
            self.requested += 1
            batch.append(token)
            if len(batch) == self._size:
                yield batch
                batch = []
        if batch:
            yield batch

    async def _whole(self, batch: list[str]) -> None:
        """One batch, and where it has to be its halves, quarters and so on.

        Of what is refused, the parts come at once, so that even among many bad tokens good ones are soon found. What
        fails takes its attempts, so that its parts come last: one bad token never fails more than twice in a row.
        """
        parts = deque([batch])
        while parts and not self._over:
            part = parts.popleft()
            try:
                await self._read(part, None if part is batch else ATTEMPTS_OF_A_PART)
            except PredictbenchError as error:
                self._note(error)
                if len(part) > 1 and self._halved < MOST_HALVED:
                    self._halved += 1
                    middle = len(part) // 2
                    if isinstance(error, RequestRefused):
                        parts.extendleft((part[middle:], part[:middle]))
                    else:
                        parts.extend((part[:middle], part[middle:]))
            else:
                self.answered += len(part)
                self._refused = self._failed = 0

    def _note(self, error: PredictbenchError) -> None:
        self._failure = self._failure or error
        if isinstance(error, RequestRefused) and not isinstance(error, RegionBlocked):
            self._refused += 1
        elif isinstance(error, RequestFailed):
            self._failed += 1
        else:
            self._over = True
        if self._refused >= self._most_refused or self._failed >= _FAILURES_IN_A_ROW:
            self._over = True


async def side_by_side(work: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """All results in order; the first failure cancels the rest and is raised as itself."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(each) for each in work]
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from None
    return [task.result() for task in tasks]
