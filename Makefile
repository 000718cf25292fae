# Everything here runs on a machine with nothing but make and Python 3.11 or newer.
# Another interpreter: make PYTHON=python3.13 test

PYTHON ?= python3
# Half as many again as there are processors: many tests wait for processes.
WORKERS := $(shell expr 3 '*' $$(getconf _NPROCESSORS_ONLN) / 2)
PYTEST_ARGS ?= -n $(WORKERS)

BIN := .venv/bin
PACKAGES := adapters config control_plane tests workers $(wildcard benchmarks)

# Names the interpreter, if it is new enough; another version or place makes the environments anew.
INTERPRETER := $(shell $(PYTHON) -c 'import hashlib, sys; sys.version_info >= (3, 11) and \
  print("%d.%d.%d-" % sys.version_info[:3] + hashlib.sha256(sys.base_prefix.encode()).hexdigest()[:8])' 2>/dev/null)

.PHONY: help demo test test-snowflake-live check bench lock format clean
.DELETE_ON_ERROR:

help:  ## List the targets
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST) | expand -t 28

demo: .venv/ready  ## Cancel jobs before your eyes (set-up included)
	@$(BIN)/countermand demo

test: .venv/ready  ## Run every test
	$(BIN)/pytest $(PYTEST_ARGS)

test-snowflake-live: .venv/ready  ## Try Snowflake on your account
	@$(BIN)/pytest -n 8 --snowflake-live tests/contract tests/integration/snowflake $(LIVE_ARGS)

check: .venv/ready  ## Lint, types, import contracts
	$(BIN)/ruff check $(PACKAGES)
	$(BIN)/ruff format --check $(PACKAGES)
	$(BIN)/mypy $(PACKAGES)
	$(BIN)/lint-imports --no-cache --no-logo

format: .venv/ready  ## Put imports and layout in order
	$(BIN)/ruff check --fix $(PACKAGES)
	$(BIN)/ruff format $(PACKAGES)

bench: .venv/ready .venv-bench/ready  ## Measure against the floor and the peers, on one Postgres
	.venv-bench/bin/python benchmarks/run.py

# Without the extra `spark`: the group dev has the whole pyspark in the place of its thin client.
lock: .venv/ready  ## Choose versions anew and write the lock files
	$(BIN)/uv pip compile $(LOCK_OPTIONS) --upgrade --output-file requirements.lock \
	  --extra server --extra worker --extra embedded --extra snowflake --group dev pyproject.toml
	$(BIN)/uv pip compile $(LOCK_OPTIONS) --upgrade --output-file benchmarks/requirements.lock \
	  --constraint requirements.lock --extra server --extra worker --extra embedded --extra snowflake \
	  pyproject.toml benchmarks/requirements.in

LOCK_OPTIONS := --quiet --universal --python-version 3.11 --generate-hashes \
  --no-emit-index-url --no-emit-find-links --custom-compile-command 'make lock'

clean:  ## Remove what the other targets made
	rm -rf .venv .venv-bench .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	rm -rf benchmarks/out build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The locked packages are installed into an empty environment; ours is added without asking the network for anything.
.venv/locked-$(INTERPRETER): requirements.lock
	$(call new_environment,.venv)
	.venv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes --requirement requirements.lock
	@touch $@

.venv/ready: .venv/locked-$(INTERPRETER) pyproject.toml
	$(call install_ourselves,.venv)
	@touch $@

.venv-bench/locked-$(INTERPRETER): benchmarks/requirements.lock
	$(call new_environment,.venv-bench)
	.venv-bench/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes \
	  --requirement benchmarks/requirements.lock
	@touch $@

.venv-bench/ready: .venv-bench/locked-$(INTERPRETER) pyproject.toml
	$(call install_ourselves,.venv-bench)
	@touch $@

define new_environment
	@test -n '$(INTERPRETER)' || { echo "Countermand needs Python 3.11 or newer, and '$(PYTHON)' is not that:" \
	  'name another one, as in make PYTHON=python3.12 test' >&2; exit 1; }
	@echo 'Setting up $(1) with Python $(INTERPRETER)' >&2
	@$(PYTHON) -m venv --clear $(1) || { echo 'No environment could be made; on Debian: apt install python3-venv.' >&2; exit 1; }
endef

define install_ourselves
	@$(1)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
endef
