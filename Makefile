# `make up` runs the cloud, `make test` runs every check and test. A machine needs git, make and Python >= 3.11 with venv.
SHELL := /bin/bash
PYTHON ?= python3
UV_VERSION := 0.13.9
UV := .uv/bin/uv
BIN := .venv/bin
RUNTIME_LOCK := requirements/runtime.lock
RAY_LOCK := requirements/ray.lock
# What `make up` installs, and what says that it has.
UP_LOCK := $(if $(RAY),$(RAY_LOCK),$(RUNTIME_LOCK))
INSTALLED := .venv/.runtime$(if $(RAY),-ray)
DEV_LOCK := requirements/dev.lock
FIND_LINKS := $(if $(PIP_FIND_LINKS),--find-links "$(PIP_FIND_LINKS)")
INSTALL := VIRTUAL_ENV=.venv $(UV) pip
.DEFAULT_GOAL := help

.PHONY: help up join down test test-compiled compiled check fmt lock bench bench-gateway bench-scheduling chaos fuzz conformance clean

help: ## show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

up: $(INSTALLED) $(if $(COMPILED),compiled) ## install and run the cloud on this machine; COMPILED=1: with a compiled gateway; RAY=1: with Ray for --fabric ray
	@$(if $(COMPILED),PYTHONPATH="$(CURDIR)/build/compiled") $(BIN)/cloudcrest up $(ARGS)

join: $(INSTALLED) ## install and make this machine a node: RAY=1 ARGS="HOST:PORT --token-file FILE"; see docs/how/ray.md
	@$(BIN)/cloudcrest node join $(ARGS)

# With whatever is installed.
down: $(or $(wildcard .venv/.runtime .venv/.runtime-ray),.venv/.runtime) ## stop a cloud that runs on this machine
	@$(BIN)/cloudcrest down $(ARGS)

test: check ## install and run every check and test
	$(BIN)/python -m pytest $(ARGS)

compiled: .venv/.dev ## compile the gateway's hot path where its sources have changed (needs a C compiler); see docs/how/compiled.md
	@$(BIN)/python tools/compiled.py

test-compiled: compiled ## run the gateway's tests against what was compiled
	PYTHONPATH="$(CURDIR)/build/compiled" $(BIN)/python -m pytest tests/unit/gateway tests/unit/metering tests/unit/billing/test_tariff.py tests/integration/gateway tests/fuzz $(ARGS)

check: .venv/.dev ## format, lint, types, import contracts, size gates
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports --no-logo
	$(BIN)/python tools/gates.py
	$(BIN)/mypy

fmt: .venv/.dev ## format the code and mend what can be mended
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: .venv/.dev ## measure the whole stack; see docs/benchmarks.md
	$(BIN)/python -m bench.stack $(ARGS)

bench-gateway: .venv/.dev ## measure the gateway beside nginx and others; see docs/benchmarks.md
	$(BIN)/python -m bench.gateway $(ARGS)

bench-scheduling: .venv/.dev ## measure how much of a mixed cluster can be given out; see docs/benchmarks.md
	$(BIN)/python -m bench.scheduling $(ARGS)

chaos: .venv/.dev ## kill everything at random under load for minutes; see docs/benchmarks.md
	$(BIN)/python -m bench.chaos $(ARGS)

conformance: .venv/.dev ## run clients and programs that nobody here wrote (needs npm); see docs/compatibility.md
	$(BIN)/python -m pytest tests/conformance -m conformance $(ARGS)

fuzz: .venv/.dev ## try the HTTP and SSE paths with made-up input for TIMES=20 times as long as `make test` does
	CLOUDCREST_FUZZ_TIMES=$(or $(TIMES),20) $(BIN)/python -m pytest tests/fuzz --timeout=3600 $(ARGS)

lock: $(UV) ## resolve the dependencies again
	$(UV) pip compile -q --universal --python-version 3.11 --generate-hashes --no-annotate --no-header --no-emit-index-url --no-emit-find-links pyproject.toml -o $(RUNTIME_LOCK) $(UPGRADE)
	$(UV) pip compile -q --universal --python-version 3.11 --generate-hashes --no-annotate --no-header --no-emit-index-url --no-emit-find-links pyproject.toml --extra ray -c $(RUNTIME_LOCK) -o $(RAY_LOCK) $(UPGRADE)
	$(UV) pip compile -q --universal --python-version 3.11 --generate-hashes --no-annotate --no-header --no-emit-index-url --no-emit-find-links pyproject.toml --group dev -c $(RUNTIME_LOCK) -o $(DEV_LOCK) $(UPGRADE)
	for set in tests/conformance/requirements/*.in; do $(UV) pip compile -q --universal --python-version 3.11 --generate-hashes --no-annotate --no-header --no-emit-index-url --no-emit-find-links $$set -o $${set%.in}.txt $(UPGRADE) || exit 1; done

clean: ## remove what was installed and built here (not the data folder)
	rm -rf .venv .uv dist build .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

# uv lives outside the project's environment, so that syncing the environment can't remove it.
$(UV):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Cloudcrest needs Python 3.11 or newer; set PYTHON=/path/to/python3.11"; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || { echo "This Python has no venv module: install it (Debian, Ubuntu: apt install python3-venv)"; exit 1; }
	$(PYTHON) -m venv .uv
	.uv/bin/pip install --quiet uv==$(UV_VERSION)

.venv/pyvenv.cfg: | $(UV)
	$(UV) venv --quiet --python $(PYTHON) .venv

# The development set contains the runtime set: where it is installed already, `make up` keeps it.
$(INSTALLED): $(UP_LOCK) pyproject.toml .venv/pyvenv.cfg
	@rm -f .venv/.runtime .venv/.runtime-ray
	@if [ ! -e .venv/.dev ]; then $(INSTALL) sync --quiet --compile-bytecode $(FIND_LINKS) --require-hashes $(UP_LOCK) && $(INSTALL) install --quiet --no-deps -e .; else $(MAKE) --no-print-directory .venv/.dev; fi
	@touch $@

.venv/.dev: $(DEV_LOCK) pyproject.toml .venv/pyvenv.cfg
	$(INSTALL) sync --quiet --compile-bytecode $(FIND_LINKS) --require-hashes $(DEV_LOCK)
	$(INSTALL) install --quiet --no-deps --no-build-isolation -e .
	@touch $@
