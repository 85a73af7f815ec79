"""What a run needs and does not depend on its settings, for the server that runs are forked from (see `harness.py`)."""

import dagster._cli  # noqa: F401
import PIL.ImageFont  # noqa: F401

import predictbench_assets.assets.persistence
import predictbench_assets.experiments.builtin.pricing  # noqa: F401
