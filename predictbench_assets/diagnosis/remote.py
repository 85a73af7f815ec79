"""Checks of other services: does GitHub still run the schedule, does Supabase's REST API show our schema?"""

from collections.abc import Iterator

import httpx

from predictbench_assets import web
from predictbench_assets.database.schema import SCHEMA
from predictbench_assets.diagnosis.checks import Finding
from predictbench_assets.settings import Settings

WORKFLOW = "daily-pipeline.yml"

_TIMEOUT_S = 6.0
_NOT_EXPOSED = "PGRST106"


def schedule_findings(settings: Settings) -> Iterator[Finding]:
    """Check that GitHub still starts the daily workflow.

    It disables the schedules of a public repository that nothing has happened in for sixty days.
    """
    name, repository = "schedule", settings.github_repository
    if repository is None:
        yield Finding("skip", name, "GITHUB_REPOSITORY is unset, so GitHub is not asked")
        return
    token = settings.github_token
    secret = {"Authorization": f"Bearer {token.get_secret_value()}"} if token else {}
    headers = {"Accept": "application/vnd.github+json", "X-GitHub-Api-Version": "2022-11-28", **secret}
    url = f"{settings.github_api_url}/repos/{repository}/actions/workflows/{WORKFLOW}"
    answer = _got(url, headers)
    if isinstance(answer, str):
        yield Finding("warn", name, f"GitHub was not asked: {answer}", "check the network, GITHUB_API_URL")
        return
    if answer.status_code != httpx.codes.OK:
        fix = "check GITHUB_REPOSITORY; a private repository needs a GITHUB_TOKEN that may read Actions"
        yield Finding("warn", name, f"GitHub answers {answer.status_code} for {WORKFLOW} of {repository}", fix)
        return
    state = _member(answer, "state")
    if state == "active":
        yield Finding("ok", name, f"{WORKFLOW} of {repository} is enabled (it runs while PIPELINE_ENABLED is true)")
        return
    why = {"disabled_inactivity": "by GitHub, for want of activity in 60 days", "disabled_manually": "by a person"}
    found = f"{WORKFLOW} of {repository} is disabled {why.get(state, f'({state})')}"
    yield Finding("fail", name, found, f"gh workflow enable {WORKFLOW} --repo {repository}")


def rest_api_findings(settings: Settings) -> Iterator[Finding]:
    """The proof that Supabase's public REST API does not show our schema, not even to the most powerful key.

    This is the only thing that the service-role key is used for.
    """
    name, key, ref = "REST API", settings.supabase_service_role_key, settings.supabase_project_ref
    if key is None or (ref is None and settings.supabase_api_url is None):
        unset = "SUPABASE_SERVICE_ROLE_KEY" if key is None else "SUPABASE_PROJECT_REF"
        yield Finding("skip", name, f"{unset} is unset, so it is not asked whether it shows our schema")
        return
    base = settings.supabase_api_url or f"https://{ref}.supabase.co"
    secret = key.get_secret_value()
    headers = {"apikey": secret, "Authorization": f"Bearer {secret}", "Accept-Profile": SCHEMA}
    answer = _got(f"{base}/rest/v1/", headers)
    if isinstance(answer, str):
        yield Finding("warn", name, f"it was not asked: {answer}", "check the network, SUPABASE_PROJECT_REF")
    elif answer.status_code == httpx.codes.NOT_ACCEPTABLE and _member(answer, "code") == _NOT_EXPOSED:
        yield Finding("ok", name, f"it refuses the schema {SCHEMA}")
    elif answer.is_success:
        fix = f"Supabase's dashboard, Project Settings, Data API, Exposed schemas: remove {SCHEMA}"
        yield Finding("fail", name, f"it shows the schema {SCHEMA} to everyone with a key", fix)
    elif answer.status_code in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
        found = f"it does not accept the key (status {answer.status_code})"
        yield Finding("warn", name, found, "copy SUPABASE_SERVICE_ROLE_KEY again; was it rotated?")
    else:
        found = f"status {answer.status_code}, code {_member(answer, 'code') or 'none'}: no answer to the question"
        yield Finding("warn", name, found, "check SUPABASE_PROJECT_REF; is the project paused?")


def _got(url: str, headers: dict[str, str]) -> httpx.Response | str:
    """The answer, or why there is none."""
    try:
        return web.ask("GET", url, limit_s=_TIMEOUT_S, headers=headers)
    except web.WebEnvironmentError as error:
        return str(error)
    except (httpx.HTTPError, httpx.InvalidURL, UnicodeError) as error:
        return f"{type(error).__name__}: {error}{web.proxy_hint(url)}"


def _member(answer: httpx.Response, name: str) -> str:
    try:
        value = answer.json()
    except ValueError:
        return ""
    found = value.get(name) if isinstance(value, dict) else None
    return found if isinstance(found, str) else ""
