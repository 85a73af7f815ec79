"""Places of the project's own files."""

from pathlib import Path

CLONE = Path(__file__).resolve().parents[2]
