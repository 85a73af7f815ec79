"""The third stage: the typed markets of a snapshot, and the rows that were rejected with the reason."""

import gc
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import get_args

import msgspec

from predictbench_assets.failures import PermanentError
from predictbench_assets.ingestion.headers import CohortHeader, SnapshotHeader
from predictbench_assets.ingestion.snapshot import snapshot_rows
from predictbench_assets.markets.cohort import Cohort, Filters, MarketReader, normalize_cohort
from predictbench_assets.markets.market import Market, PriceQuality, RejectedMarket
from predictbench_assets.settings import Settings
from predictbench_assets.staging import Schema, StagedFile, StagingArea

COHORT = Schema("normalized_markets", 2, oldest=1)
"""The second version has the price of a day before, where one was frozen; markets without are as they were."""


class LimitRefused(PermanentError):
    """A part of a day would be stored where only whole days belong."""


class FiltersRefused(PermanentError):
    """Markets of a reconstructed day would be chosen by what is known of them today."""


class _CohortRow(msgspec.Struct):
    market: msgspec.Raw = msgspec.Raw()
    rejected: msgspec.Raw = msgspec.Raw()


def refuse_limit(settings: Settings, limit: int | None, *, dry_run: bool) -> None:
    """Stop an attempt that would store a part of a day in production.

    Raises:
        LimitRefused: the environment is production, and this is no dry run.
    """
    if limit is not None and settings.environment == "production" and not dry_run:
        raise LimitRefused("limit would store a part of the day in production: take it off, or make it a dry run")


def refuse_money_filters(settings: Settings) -> None:
    """Stop a reconstruction of which a part would be chosen by money: only today's is known, which knows the future.

    Raises:
        FiltersRefused: MIN_LIQUIDITY, MIN_VOLUME or MAX_MARKETS is set.
    """
    names = [name for name in ("min_liquidity", "min_volume", "max_markets") if getattr(settings, name)]
    if names:
        raise FiltersRefused(
            f"{', '.join(name.upper() for name in names)} cannot choose markets of a reconstructed day: what was "
            "traded by then is not known any more. Take it off to reconstruct, or leave the day out."
        )


def build_cohort(snapshot: StagedFile, read: MarketReader, settings: Settings, *, limit: int | None = None) -> Cohort:
    """The markets of a snapshot, filtered and sampled as the settings ask.

    Args:
        read: the reader of the exchange that the snapshot came from.
        limit: keep the first markets only.
    """
    header = snapshot.header(SnapshotHeader)
    if header.as_of is not None:
        refuse_money_filters(settings)
    with _kept_from_collector():
        return normalize_cohort(
            ((row.raw, row.quote) for row in snapshot_rows(snapshot)),
            read,
            captured_at=header.captured_at,
            as_of=header.as_of,
            filters=Filters(
                min_liquidity=settings.min_liquidity or 0.0,
                min_volume=settings.min_volume or 0.0,
                max_markets=settings.max_markets,
                limit=limit,
            ),
            core_size=settings.core_sample_size,
            # Seeded by content: the same snapshot has the same core, which cannot be chosen.
            seed=int(snapshot.sha256[:16], 16),
        )


def stage_cohort(
    area: StagingArea, name: str, cohort: Cohort, *, snapshot: StagedFile, limit: int | None, dagster_run_id: str
) -> StagedFile:
    """Publish a cohort with its counts in the header.

    Args:
        snapshot: the snapshot that it was made of.
        limit: the most markets that were asked for.
    """
    source, contracts, core, priced_day_ago = snapshot.header(SnapshotHeader), 0, 0, 0
    clusters = set()
    qualities, sources, categories = Counter[str](), Counter[str](), Counter[str]()
    for market in cohort.markets:  # once: going through a large cohort takes longer than what is counted
        contracts += len(market.contracts)
        core += market.core
        priced_day_ago += market.price_24h_ago is not None
        clusters.add(market.cluster)
        qualities[market.price.quality] += 1
        sources[market.price.source] += 1
        categories[market.category] += 1
    header = CohortHeader(
        snapshot_hash=snapshot.sha256,
        captured_at=source.captured_at,
        as_of=source.as_of,
        limit=limit,
        dagster_run_id=dagster_run_id,
        offered=cohort.offered,
        excluded={str(reason): count for reason, count in cohort.excluded.items()},
        rejected=len(cohort.rejected),
        markets=len(cohort.markets),
        contracts=contracts,
        core=core,
        clusters=len(clusters),
        price_quality={quality: qualities[quality] for quality in get_args(PriceQuality) if qualities[quality]},
        price_source=dict(sources),
        priced_day_ago=priced_day_ago,
        category=dict(categories.most_common()),
        unreadable=cohort.unreadable,
    )
    return area.publish(name, COHORT, header, _lines(cohort))


def cohort_markets(staged: StagedFile) -> Iterator[Market]:
    """The markets of a staged cohort, in the order of the snapshot."""
    for row in _rows(staged):
        if row.market:
            yield Market.model_validate_json(bytes(row.market))


class SharedCohort:
    """The markets of the cohort that this process made or read last, so that the steps of a run that share a process
    need not read it again."""

    def __init__(self) -> None:
        self._hash: str | None = None
        self._markets: Sequence[Market] = ()

    def keep(self, staged: StagedFile, markets: Iterable[Market]) -> None:
        """Keep the markets that were staged, in the order of the snapshot; those of another cohort are let go first."""
        self._let_go()
        with _kept_from_collector():
            self._markets = tuple(market.slim() for market in markets)
        self._hash = staged.sha256

    def markets(self, staged: StagedFile) -> Sequence[Market]:
        """The markets of a staged cohort, in the order of the snapshot, read if they are not the ones kept."""
        if self._hash != staged.sha256:
            self.keep(staged, cohort_markets(staged))
        return self._markets

    def hand_over(self, staged: StagedFile) -> Iterator[Market]:
        """The markets of a staged cohort for the last who has use for them: each is let go as the next one is taken."""
        markets = list(reversed(self._markets)) if self._hash == staged.sha256 else None
        self._let_go()
        if markets is None:
            yield from cohort_markets(staged)
            return
        while markets:
            yield markets.pop()

    def _let_go(self) -> None:
        self._hash, self._markets = None, ()


def cohort_rejected(staged: StagedFile) -> Iterator[RejectedMarket]:
    """The rows of a staged cohort that could not be read as markets.

    Raises:
        StagedFileMissing, StagedFileBroken: the file is gone or damaged; known at the end of the iteration, for which
            the whole file is read, and so before any market is written.
    """
    for row in _rows(staged):
        if row.rejected:
            yield RejectedMarket.model_validate_json(bytes(row.rejected))


@contextmanager
def _kept_from_collector() -> Iterator[None]:
    """Collect garbage once, and then freeze what is made: or the collector would look at all markets again and again,
    while they become more and while experiments make as many objects."""
    gc.collect()  # garbage would stay for good
    gc.disable()
    try:
        yield
        gc.freeze()
    finally:
        gc.enable()


def _lines(cohort: Cohort) -> Iterator[bytes]:
    for market in cohort.markets:
        # Without the key, so that the cohort of an older snapshot keeps its hash, and experiments their journals.
        absent = {name for name in ("price_24h_ago", "reconstructed_as_of") if getattr(market, name) is None}
        yield b'{"market":' + market.model_dump_json(exclude=absent or None).encode() + b"}"
    for rejected in cohort.rejected:
        yield b'{"rejected":' + rejected.model_dump_json().encode() + b"}"


def _rows(staged: StagedFile) -> Iterator[_CohortRow]:
    decode = msgspec.json.Decoder(_CohortRow).decode
    return (decode(line) for line in staged.lines())
