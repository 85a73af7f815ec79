"""The batch APIs of OpenAI and Anthropic: half the price, and an answer within a day."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Collection, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final, TypeVar

from openai import AsyncOpenAI, NotFoundError
from pydantic import ValidationError
from pydantic_ai import ModelRequest
from pydantic_ai.exceptions import ModelAPIError, UnexpectedModelBehavior, UserError
from pydantic_ai.models import Model
from pydantic_ai.models.anthropic import AnthropicModel
from pydantic_ai.models.batch import Batch, BatchRequest, BatchResult
from pydantic_ai.models.openai import OpenAIResponsesModel
from pydantic_ai.settings import ModelSettings

from predictbench_assets.experiments.llm.answers import Answer
from predictbench_assets.experiments.llm.client import AnswerUnreadable, failure, of_kind, parameters, reply_of
from predictbench_assets.experiments.llm.model import Reached
from predictbench_assets.experiments.model_calls.batches import BatchItem, Encoded
from predictbench_assets.experiments.model_calls.desk import CallFailed
from predictbench_assets.experiments.model_calls.records import Call, CallRequest, Reply

T = TypeVar("T")

MOST_REQUESTS: Final = 5_000
"""Requests of one job: the providers take ten times as many, and the results of a job are read at once."""

MOST_UPLOADED: Final = 100_000_000
"""Bytes of one job; the providers take twice as many."""

_DEADLINE_S: Final = 600.0
"""Seconds for an upload, or for a file of results."""

_CLOCKS_APART: Final = timedelta(minutes=10)
_BEGINNING: Final = 300
_MOST_JOBS: Final = 1_000
"""Jobs of a provider's list that are looked at for a lost one."""


class ProviderBatches:
    """The batch API of an opened model.

    Args:
        model: of OpenAI's Responses, or of Anthropic.
        reached: the way to it, with its price.
    """

    def __init__(self, model: Model, reached: Reached) -> None:
        self._model, self._reached = model, reached
        self.most_requests = min(model.batch_max_requests or 1, MOST_REQUESTS)
        self.most_bytes = MOST_UPLOADED
        self._jobs: dict[str, Batch] = {}

    async def encode(self, custom_id: str, request: CallRequest) -> Encoded:
        """A request as part of a batch."""
        encoded = await _called(self._model.batch_encode(_asked(custom_id, request.content)))
        digest = f"{encoded.custom_id} {encoded.body}".encode()
        return Encoded(encoded, digest, self._model.batch_request_size(encoded))

    async def create(self, encoded: Sequence[Encoded]) -> str:
        """Submit a batch, and return the provider's id of it."""
        try:
            job = await _called(self._model.batch_create([one.body for one in encoded]))
        except CallFailed as failed:
            if failed.trouble in ("server", "overloaded"):  # the job may be there all the same
                raise CallFailed("unknown", failed.reason) from None
            raise
        return job.id

    async def find(self, custom_ids: Collection[str], since: datetime) -> str | None:
        """The id of the job that has these requests; None where the provider has none."""
        earliest = since - _CLOCKS_APART
        return await _called(
            self._found_at_openai(custom_ids, earliest)
            if isinstance(self._model, OpenAIResponsesModel)
            else self._found_at_anthropic(custom_ids, earliest)
        )

    async def has_ended(self, batch_id: str) -> bool:
        """True where nothing more will happen to a job."""
        job = self._jobs[batch_id] = await _called(self._model.batch_status(await self._handle(batch_id)))
        return job.status == "ended"

    async def results(
        self, batch_id: str, items: Mapping[str, tuple[Call, BatchItem]]
    ) -> Sequence[tuple[str, Reply | CallFailed]]:
        """The answers of a job that has ended, by custom id."""
        job = self._jobs[batch_id]
        found = await _called(self._model.batch_results(job))
        has_failed = (job.provider_details or {}).get("status") == "failed"
        return [
            (one.custom_id, self._read(one, *items[one.custom_id], has_failed=has_failed))
            for one in found
            if one.custom_id in items
        ]

    async def cancel(self, batch_id: str) -> None:
        """End a job early."""
        await _called(self._model.batch_cancel(await self._handle(batch_id)))

    async def _handle(self, batch_id: str) -> Batch:
        """The library's handle of a job; all of it but the id is that of the model."""
        if batch_id not in self._jobs:
            content = {"instructions": "", "prompt": "-", "output": "native", "schema": Answer().schema, "settings": {}}
            encoded = await _called(self._model.batch_encode(_asked("none", content)))
            self._jobs[batch_id] = Batch(
                id=batch_id,
                model_name=self._model.model_name,
                provider_name=self._model.system,
                group=encoded.group,
                status="in_progress",
                created_at=self._reached.clock.now(),
                request_count=0,
            )
        return self._jobs[batch_id]

    def _read(self, result: BatchResult, call: Call, item: BatchItem, *, has_failed: bool) -> Reply | CallFailed:
        """The answer to one request of a job."""
        now = self._reached.clock.now()
        answer: Answer = item.question
        try:
            response = self._model.batch_decode(result, _asked(result.custom_id, item.request.content))
        except (UnexpectedModelBehavior, ValidationError) as error:
            reason = f"invalid: no answer of a model: {str(error)[:300]}"
            return Reply(status="invalid", reason=reason, text="", answered_at=now)
        except ModelAPIError as error:
            failed = failure(error)
            if has_failed or result.status in ("expired", "canceled"):  # nothing of it was run, and another may be
                return CallFailed("server", failed.reason)
            return failed
        said = (response.provider_details or {}).get("timestamp")
        answered_at = said if isinstance(said, datetime) and call.asked_at <= said <= now else now
        return reply_of(response, answer=answer, price=self._reached.price, answered_at=answered_at, batch=True)

    async def _found_at_openai(self, custom_ids: Collection[str], earliest: datetime) -> str | None:
        """The newest job with a file that begins with one of the requests."""
        assert isinstance(self._model, OpenAIResponsesModel)
        client = self._model.client
        async for job in _first(client.batches.list(limit=100), _MOST_JOBS):
            if datetime.fromtimestamp(job.created_at, UTC) < earliest:
                return None
            # Whoever has collected a job may have deleted its input.
            for file_id in filter(None, (job.input_file_id, job.output_file_id)):
                beginning = await _beginning(client, file_id)
                if any(f'"{custom_id}"' in beginning for custom_id in custom_ids):
                    return str(job.id)
        return None

    async def _found_at_anthropic(self, custom_ids: Collection[str], earliest: datetime) -> str | None:
        """The newest job whose results are of these requests; a list of jobs does not tell, nor do they before.

        Raises:
            CallFailed: a job of as many requests has not ended.
        """
        assert isinstance(self._model, AnthropicModel)
        jobs: Any = self._model.client.beta.messages
        async for job in _first(jobs.batches.list(limit=100), _MOST_JOBS):
            counts = job.request_counts
            total = counts.processing + counts.succeeded + counts.errored + counts.canceled + counts.expired
            if job.created_at < earliest:
                return None
            if total != len(custom_ids):
                continue
            if job.processing_status != "ended":
                raise CallFailed("unknown", "a job of as many requests is under way, which may be the one that is lost")
            results = await jobs.batches.results(job.id)
            try:
                first = await anext(aiter(results), None)
            finally:
                await results.close()
            if first is not None and first.custom_id in custom_ids:
                return str(job.id)
        return None


async def _beginning(client: AsyncOpenAI, file_id: str) -> str:
    """The beginning of a file's first line, which has an id; empty where there is no such file."""
    try:
        async with client.files.with_streaming_response.content(file_id) as file:
            return (await anext(file.iter_lines(), ""))[:_BEGINNING]
    except NotFoundError:
        return ""


async def _called(call: Awaitable[T]) -> T:
    """The answer of the provider.

    Raises:
        CallFailed: there is none.
    """
    try:
        async with asyncio.timeout(_DEADLINE_S):
            return await call
    except TimeoutError:
        raise CallFailed("unknown", f"no answer within {_DEADLINE_S:g} s") from None
    except Exception as error:
        raise _failure(error) from error


def _failure(error: Exception) -> CallFailed:
    """Any error of the library, or of a client beneath it, as the desk sorts them."""
    if isinstance(error, CallFailed):
        return error
    if isinstance(error, ModelAPIError | UserError):
        return failure(error)
    if (found := of_kind(error, AnswerUnreadable)) is not None:
        return CallFailed("rejected", str(found))
    status = getattr(error, "status_code", None)
    if isinstance(error, ValueError):
        return CallFailed("rejected", f"what the provider sent cannot be read: {str(error)[:300]}")
    if status in (401, 403, 404):
        return CallFailed("access", f"{type(error).__name__}: {error}")
    return CallFailed("unknown", f"{type(error).__name__}: {error}")


def _asked(custom_id: str, content: Mapping[str, Any]) -> BatchRequest:
    """A request in the library's words."""
    settings: dict[str, Any] = dict(content["settings"])
    settings.pop("seed", None)  # neither API has one
    return BatchRequest(
        custom_id=custom_id,
        messages=[ModelRequest.user_text_prompt(content["prompt"], instructions=content["instructions"])],
        model_settings=ModelSettings(**settings),  # type: ignore[typeddict-item]
        model_request_parameters=parameters(content["output"], content["schema"]),
    )


async def _first(pages: Any, most: int) -> AsyncIterator[Any]:
    """The first jobs of a list, newest first."""
    number = 0
    async for job in pages:
        if (number := number + 1) > most:
            return
        yield job
