"""Check that no action of the workflows runs on a Node that GitHub's runners no longer have.

actionlint knows the runtime of a release by its tag, and our actions are pinned by commit: each pin is turned into the
tag of its comment here. An input that no action has is added to each, so that an action which actionlint does not know
is a finding too. Nothing is fetched; a newer actionlint knows of newer deprecations.
"""

import json
import re
import subprocess
import sys
from pathlib import Path

PIN = re.compile(r"uses: (?P<action>[\w./-]+)@[0-9a-f]{40} # (?P<major>v\d+)")
UNKNOWN_INPUT = "input-of-no-action"


def pinned(folder: Path) -> list[str]:
    """Every pinned action below a `.github` folder, as `owner/name@v1`, sorted."""
    files = [*folder.glob("workflows/*.yml"), *folder.glob("actions/*/action.yml")]
    return sorted({f"{pin['action']}@{pin['major']}" for file in files for pin in PIN.finditer(file.read_text())})


def problems(actions: list[str], actionlint: Path) -> list[str]:
    """What is wrong with each action, a line each.

    Raises:
        subprocess.CalledProcessError: actionlint could not read the workflow.
    """
    steps = "".join(f"      - uses: {action}\n        with: {{{UNKNOWN_INPUT}: x}}\n" for action in actions)
    workflow = f"on: push\njobs:\n  all:\n    runs-on: ubuntu-latest\n    steps:\n{steps}"
    command = [actionlint, "-shellcheck=", "-pyflakes=", "-format", "{{json .}}", "-"]
    linted = subprocess.run(command, input=workflow, capture_output=True, text=True, check=False)  # noqa: S603
    if linted.returncode not in (0, 1):
        raise subprocess.CalledProcessError(linted.returncode, command, linted.stdout, linted.stderr)
    messages = [finding["message"] for finding in json.loads(linted.stdout) if finding["kind"] == "action"]
    found = []
    for action in actions:
        about = [message for message in messages if f'"{action}"' in message]
        outdated = [message for message in about if "runtime" in message]
        if outdated:
            found += [f"{action}: {message}" for message in outdated]
        elif not any(UNKNOWN_INPUT in message for message in about):
            found.append(f"{action}: unknown to this actionlint, so that its Node is not checked")
    return found


def main() -> int:
    """Exit code 1 with a line for each action that cannot run, 0 otherwise."""
    actionlint = Path(sys.executable).with_name("actionlint")
    if not actionlint.exists():
        print("actionlint has no build for this machine: the actions' Node is not checked", file=sys.stderr)  # noqa: T201
        return 0
    actions = pinned(Path(__file__).resolve().parents[1] / ".github")
    found = problems(actions, actionlint)
    if not actions:
        found = ["no pinned action was found in .github"]
    if found:
        print("\n".join(found), file=sys.stderr)  # noqa: T201
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
