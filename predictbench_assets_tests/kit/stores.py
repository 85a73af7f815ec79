"""Object stores that are not AWS's, over http and over https."""

from collections.abc import Callable

from predictbench_assets.settings import Settings, load_settings
from predictbench_assets.staging import StagingArea
from predictbench_assets_tests.kit.other_store import OtherStore

OpenArea = Callable[..., StagingArea]


def settings_for(store: OtherStore, **replaced: str) -> Settings:
    """The settings that lead to a store, some of them replaced; with the time limit that `doctor` has."""
    given = store.settings | {"STAGING_TIMEOUT_SECONDS": "6"} | replaced
    return load_settings(**{name.lower(): value for name, value in given.items() if value})
