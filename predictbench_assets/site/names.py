"""File names of the page. Ids and names come from elsewhere; hardly any is a file name as it is."""

import re
from hashlib import sha256
from typing import Final

FOLDER: Final = "report"
"""Folder of the page in PREDICTBENCH_HOME."""

_SEPARATOR = "\0"
"""No text of the database has it."""


def page_name(*parts: str) -> str:
    """A file name without its suffix, safe in every file system and address: equal parts, equal name.

    A single number, as Polymarket's ids are, stays what it is; all else becomes readable words and a hash.
    """
    if len(parts) == 1 and re.fullmatch(r"[0-9]{1,40}", parts[0], re.ASCII):
        return parts[0]
    readable = re.sub(r"[^a-z0-9]+", "-", " ".join(parts).lower())[:40].strip("-")
    return f"{readable or 'page'}-{sha256(_SEPARATOR.join(parts).encode()).hexdigest()[:12]}"


def cohort_name(run_date: object, window_days: int) -> str:
    """The file name of a cohort's page, without its suffix."""
    return f"{run_date}-w{window_days}"
