"""Places of the project's own files, and of the recorded payloads beside them."""

import os
from pathlib import Path

CLONE = Path(__file__).resolve().parents[2]

SAMPLES = Path(os.environ.get("PREDICTBENCH_SAMPLES") or CLONE / "../shared/polymarket_samples")
"""Payloads recorded from the real exchange; they are not part of the repository."""
