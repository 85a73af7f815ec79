# Everything a person or CI runs. `make` alone lists the targets.
# Needs Python 3.11 to 3.13 and make; nothing else, and no network beyond the package registry.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Not $(BIN)/predictbench: in a folder with a space in its name, or with a long one, pip makes that a shell script, and
# the shell reads what else is special in the name.
PREDICTBENCH := $(BIN)/python -m predictbench_assets.cli.main
RUNTIME := $(VENV)/.runtime-installed
DEV := $(VENV)/.dev-installed

# What --require-hashes pins; the project itself is installed editable, without touching its dependencies.
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-input --no-deps

.DEFAULT_GOAL := help
.PHONY: help setup setup-dev demo daily ui ui-production stop test test-all lint hooks bench soak lock clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# What the rules begin with that write into this folder.
WRITABLE := @test -w . || { echo "you may not write into $$PWD: make a clone of your own" >&2; exit 1; }

$(BIN)/python:
	$(WRITABLE)
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) not found: install Python 3.11 to 3.13, or say which: make PYTHON=/path/to/python3" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' || { \
		echo "$(PYTHON) is $$($(PYTHON) -V 2>&1); Predictbench needs Python 3.11 to 3.13. Say which: make PYTHON=/path/to/python3.12" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { \
		echo "could not make $(VENV); on Debian and Ubuntu: apt install python3-venv" >&2; rm -rf $(VENV); exit 1; }

$(RUNTIME): requirements/runtime.txt pyproject.toml | $(BIN)/python
	$(WRITABLE)
	@echo "Installing what Predictbench needs to run into $(VENV) (pinned by hash) ..."
	@$(INSTALL) --require-hashes -r requirements/runtime.txt
	@$(INSTALL) --no-build-isolation -e .
	@touch $@

$(DEV): requirements/dev.txt pyproject.toml | $(BIN)/python
	$(WRITABLE)
	@echo "Installing what Predictbench needs to be tested into $(VENV) (pinned by hash) ..."
	@$(INSTALL) --require-hashes -r requirements/dev.txt
	@$(INSTALL) --no-build-isolation -e .
	@touch $@ $(RUNTIME)

setup: $(RUNTIME) ## Make .venv with the pinned dependencies; commands land in .venv/bin
setup-dev: $(DEV) ## The same with the tools for tests

demo: setup ## A whole daily run against the sandbox exchange, in an embedded Postgres
	@$(PREDICTBENCH) demo

daily: setup ## Today's run against live Polymarket
	@$(PREDICTBENCH) daily

ui: setup ## The Dagster UI on the local instance (DEMO=1: on the demo's)
	@$(PREDICTBENCH) ui $(if $(DEMO),--demo)

ui-production: setup ## The Dagster UI on the storage that DAGSTER_POSTGRES_URL names, to look at only
	@$(PREDICTBENCH) ui --read-only

stop: setup ## Stop what our commands left running
	@$(PREDICTBENCH) stop

# A file at a time to each of one process more than there are cores, since half of their time is waiting; four at the
# most: each starts a Postgres.
# In the order of the folders, not by the number of tests: a slow file with few of them
# would begin last, and the quick ones of `unit` fill up the end.
PYTEST = $(BIN)/python -m pytest -q -n $$($(BIN)/python -c "import os; print(min(4, 1 + (os.cpu_count() or 1)))") --dist loadfile --no-loadscope-reorder

test: setup-dev ## The tests, without the long ones
	@$(PYTEST) -m "not long"

test-all: setup-dev ## All tests
	@$(PYTEST)

lint: setup-dev ## Style, types, who may import whom, workflows, compose and container files
	@.ci/lint

hooks: setup-dev ## Lint what is staged at each commit
	@git config core.hooksPath .githooks

bench: setup-dev ## The benchmarks, with their goals
	@for bench in benchmarks/bench_*.py; do echo "== $$bench"; $(BIN)/python $$bench || exit 1; done

soak: setup-dev ## DAYS=90 simulated days with a fault on each, then an audit; SEED=... replays one
	@$(BIN)/python -m soak --days $(or $(DAYS),90) $(if $(SEED),--seed $(SEED))

# One file for each way of installing it, each whole: nothing but that file is installed.
COMPILE = build/lock/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate \
	--no-strip-extras --emit-build-options --custom-compile-command "make lock" pyproject.toml requirements/build.in

lock: ## Pin requirements/*.txt again from pyproject.toml
	@$(PYTHON) -m venv build/lock && build/lock/bin/python -m pip install --quiet uv
	@$(COMPILE) -o requirements/runtime.txt
	@for extra in k8s ray dev; do $(COMPILE) --extra $$extra -c requirements/runtime.txt -o requirements/$$extra.txt || exit 1; done

clean: ## Remove caches (not .venv, not .predictbench)
	@rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	@find . -name __pycache__ -type d -not -path './$(VENV)/*' -prune -exec rm -rf {} +
