"""Market data: order books and prices of the week, for the experiments that ask; no asset where none does."""

from collections.abc import Iterable
from typing import Any

import dagster as dg

from predictbench_assets.assets.ingestion import GROUP, unselected
from predictbench_assets.assets.step import OWNERS, asset_step, record_failure
from predictbench_assets.exchanges.configured import configured_exchange
from predictbench_assets.experiments.registry import Registry
from predictbench_assets.ingestion.headers import MarketDataHeader
from predictbench_assets.ingestion.market_data import MARKET_DATA, FrozenMarketData, freeze_market_data
from predictbench_assets.partitions import run_key, run_partitions
from predictbench_assets.persistence.run_store import RunDatabase
from predictbench_assets.settings import Settings
from predictbench_assets.staging import StagedFile, StagingArea

MARKET_DATA_KEY = dg.AssetKey(MARKET_DATA.name)

_SHOWN_REASONS = 20


def build_market_data(registry: Registry) -> list[dg.AssetsDefinition]:
    """The asset, if an experiment of the registry asks for market data."""
    asking = [experiment.name for experiment in registry if experiment.market_data]
    return [_market_data(asking)] if asking else []


def _market_data(asking: Iterable[str]) -> dg.AssetsDefinition:
    @dg.asset(
        group_name=GROUP,
        partitions_def=run_partitions,
        owners=OWNERS,
        kinds={"polymarket", "python"},
        code_version="1",
        hooks={record_failure},
    )
    def market_data(
        context: dg.AssetExecutionContext,
        settings: dg.ResourceParam[Settings],
        database: dg.ResourceParam[RunDatabase],
        staging: dg.ResourceParam[StagingArea],
        normalized_markets: StagedFile,
    ) -> dg.Output[StagedFile]:
        """Order books and prices of the week, read right after the freeze; later than that they are never read.

        What is frozen stays: a later materialization finds it, and asks the exchange for nothing.
        """
        key = run_key(context)
        with asset_step(context, settings, database, key, "market_data"):
            frozen = freeze_market_data(
                configured_exchange(settings),
                staging,
                key,
                normalized_markets,
                now=settings.clock.now(),
                dagster_run_id=context.run.run_id,
                wanted=not set(asking) <= unselected(context, asking),
                warn=context.log.warning,
            )
            if (reason := frozen.file.header(MarketDataHeader).not_frozen) is not None:
                context.log.warning(f"no market data: {reason}")
            return dg.Output(frozen.file, metadata=_metadata(frozen), data_version=dg.DataVersion(frozen.file.sha256))

    return market_data


def _metadata(frozen: FrozenMarketData) -> dict[str, Any]:
    header = frozen.file.header(MarketDataHeader)
    columns = [dg.TableColumn("markets", type="int"), dg.TableColumn("reason")]
    reasons = [
        dg.TableRecord({"markets": markets, "reason": reason})
        for reason, markets in list(header.reasons.items())[:_SHOWN_REASONS]
    ]
    return {
        "dagster/row_count": frozen.file.rows,
        "reused": frozen.reused,
        "books": header.books,
        "histories": header.histories,
        "asked_at": header.asked_at.isoformat(),
        "not_frozen": header.not_frozen or "",
        "missing": dg.MetadataValue.table(reasons, schema=dg.TableSchema(columns)),
        "api": dg.MetadataValue.json(header.api.as_dict()),
    }
