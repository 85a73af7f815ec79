"""The partition grid: run date x window. Every asset of a run shares it; nothing else about partitions lives here."""

import dagster as dg

from predictbench_assets.runs import FIRST_RUN_DATE, WINDOW_DAYS, RunKey, parsed_key

RUN_DATE = "run_date"
WINDOW = "window_days"

# `end_offset=1` makes the day itself a partition from its first second: the run of a day happens on that day.
run_partitions = dg.MultiPartitionsDefinition(
    {
        RUN_DATE: dg.DailyPartitionsDefinition(start_date=FIRST_RUN_DATE.isoformat(), timezone="UTC", end_offset=1),
        WINDOW: dg.StaticPartitionsDefinition([str(days) for days in WINDOW_DAYS]),
    }
)


def partition_key(key: RunKey) -> dg.MultiPartitionKey:
    """The key of a run as Dagster's own type, for run requests and tests."""
    return dg.MultiPartitionKey({RUN_DATE: key.run_date.isoformat(), WINDOW: str(key.window_days)})


def run_key(context: dg.AssetExecutionContext) -> RunKey:
    """The run that an asset is materialized for.

    Raises:
        UnknownPartition: the run was started without a partition, or with a key that is not one of the grid's.
    """
    return parsed_key(str(context.partition_key) if context.has_partition_key else "")
