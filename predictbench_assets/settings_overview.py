"""Every setting with value, source and meaning: what `predictbench config` prints and `.env.example` holds."""

import difflib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import time
from pathlib import Path

from predictbench_assets.settings import (
    Settings,
    all_variables,
    default_env_file,
    env_file_texts,
    is_provider_variable,
    secret_names,
    variables,
    without_passwords,
)
from predictbench_assets.texts import UndecodableFile, trimmed

_MISSPELT = 0.9
"""Likeness from which a name is taken for another one; that of OPENAI_API_KEY and POLYMARKET_API_KEY is lower."""

_SECTIONS: Mapping[str, str] = {
    "environment": "Where this runs",
    "supabase_db_url": "Database",
    "dagster_postgres_url": "Dagster",
    "target_close_window_days": "What runs, and when",
    "polymarket_base_url": "Polymarket",
    "leaderboard_days": "What boards count",
    "predictbench_home": "Where things go",
    "archive_uri": "What is kept, and for how long",
    "notify_webhook_url": "Who is told",
    "log_level": "What is seen",
    "predictbench_now": "Of one process; set by the commands, not by people",
}
"""The heading that goes before a field."""

_EXAMPLES: Mapping[str, str] = {
    "supabase_db_url": "postgresql://<role>.<project>:<password>@<region>.pooler.supabase.com:6543/postgres",
    "supabase_migration_db_url": "postgresql://postgres.<project>:<password>@<region>.pooler.supabase.com:5432/postgres",
    "database_url": "postgresql://predictbench:predictbench@localhost:5432/predictbench",
    "dagster_postgres_url": "postgresql://<role>.<project>:<password>@<region>.pooler.supabase.com:5432/postgres",
    "staging_uri": "s3://<bucket>/predictbench",
    "staging_s3_endpoint_url": "https://<project>.storage.supabase.co/storage/v1/s3",
    "archive_uri": "s3://<bucket>/predictbench-archive",
    "horizons": "1,7,30",
    "allow_empty_windows": "60,90",
}


@dataclass(frozen=True)
class SettingLine:
    """One setting as `predictbench config` shows it; a secret's value is `***`."""

    name: str
    value: str
    source: str
    """`environment`, the name of the `.env` file, or `default`."""
    description: str


def describe_settings(settings: Settings | None, env_file: Path | None = None) -> list[SettingLine]:
    """List every setting with its value and its source, in the order of the class.

    Args:
        settings: as loaded; None where loading failed, then the texts are shown as they were given.
        env_file: the file that was read; default: `PREDICTBENCH_ENV_FILE`.
    """
    sources = _given(env_file or default_env_file())
    view = settings.public_view() if settings else {}
    lines = []
    for name, field in Settings.model_fields.items():
        given = next((sources[variable] for variable in variables(name) if variable in sources), None)
        text = _format_value(view[name.upper()]) if name.upper() in view else given[0] if given else ""
        if name in secret_names():
            text = "***" if given else ""
        lines.append(
            SettingLine(
                name=variables(name)[0],
                value=without_passwords(text),
                source=given[1] if given else "default",
                description=field.description or "",
            )
        )
    return lines


def unknown_in_env_file(env_file: Path | None = None) -> list[str]:
    """Names in the `.env` file that are no setting of ours: often a misspelt one. A provider's key is none of them."""
    file = env_file or default_env_file()
    unknown = [name for name in _texts(file) if name.upper() not in all_variables()]
    return [name for name in unknown if not is_provider_variable(name) or _is_misspelt(name.upper())]


def env_example() -> str:
    """The text of `.env.example`: every setting, commented out, with its default or an example of its form."""
    parts = [
        "# Copy to .env and uncomment what you need. A variable of the environment wins over this file.",
        "# `predictbench config` shows what is in effect. Made by `predictbench config --example`; a test compares.",
    ]
    for name, field in Settings.model_fields.items():
        if name in _SECTIONS:
            parts += ["", "", f"# {_SECTIONS[name]}"]
        default = _format_value(field.default)
        others = variables(name)[1:]
        also = f"; {' and '.join(others)} {'is' if len(others) == 1 else 'are'} read too" if others else ""
        parts += ["", f"# {field.description}{also}"]
        if name in _EXAMPLES:
            parts.append(f"#   such as {_EXAMPLES[name]}")
        parts.append(f"# {variables(name)[0]}={default}")
    return "\n".join(parts) + "\n"


def _given(env_file: Path | None) -> dict[str, tuple[str, str]]:
    """Variable -> text and source, of everything that is set; an empty text counts as unset."""
    found: dict[str, tuple[str, str]] = {}
    for name, text in _texts(env_file).items():
        if env_file is not None and text and trimmed(text):
            found[name.upper()] = (trimmed(text), env_file.name)
    for name, text in os.environ.items():
        if trimmed(text) and name.upper() in all_variables():
            found[name.upper()] = (trimmed(text), "environment")
    return found


def _is_misspelt(name: str) -> bool:
    """True for a name that is all but one of ours."""
    return bool(difflib.get_close_matches(name, all_variables(), n=1, cutoff=_MISSPELT))


def _texts(env_file: Path | None) -> Mapping[str, str]:
    """Texts of a `.env` file; nothing where it cannot be read, which loading it has reported."""
    if env_file is None or not env_file.is_file():
        return {}
    try:
        return env_file_texts(env_file)
    except UndecodableFile:
        return {}


def _format_value(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, time):
        return f"{value:%H:%M}"
    if isinstance(value, list | tuple):
        return ",".join(map(str, value))
    return str(value).lower() if isinstance(value, bool) else str(value)
