"""The code of a run, for the server that runs are forked from (see `harness.py`); importing it reads no settings."""

import dagster._cli  # noqa: F401
import PIL.ImageFont  # noqa: F401

import predictbench_assets.definitions
import predictbench_assets.experiments.builtin.pricing  # noqa: F401
