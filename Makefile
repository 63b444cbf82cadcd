# The two commands of a fresh machine: `make run` and `make test`. Neither needs root.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
EXAMPLE ?= deploy/examples/digits-pretrained-rbm.yaml

.DEFAULT_GOAL := help
.PHONY: help run test check lint types imports chart tools fmt benchmark soak clean

help: ## Show what can be made
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## (.*)/  make \1\t\2/' | expand -t 20

run: $(VENV)/.installed-worker ## Train the staged example on real digits, from an empty machine on
	$(BIN)/strata run $(EXAMPLE)

test: $(VENV)/.installed-test ## Run the tests; real PostgreSQL and Ray come along
	$(BIN)/python -m pytest

check: lint types imports chart test ## All that CI runs; needs `make tools` once

lint: $(VENV)/.installed-all ## Check format and style
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(VENV)/.installed-all ## Check the types
	$(BIN)/mypy

imports: $(VENV)/.installed-all ## Check that imports run down the floors
	$(BIN)/lint-imports --no-cache

chart: $(VENV)/.installed-test ## Check chart, images and monitoring; needs `make tools` once
	$(BIN)/python -m pytest -m tools tests/deploy

tools: $(VENV)/bin/python ## Fetch helm, kubectl, prometheus and promtool into .tools, without root
	$(BIN)/python deploy/tools/fetch_tools.py

fmt: $(VENV)/.installed-all ## Format, and mend what can be mended
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

benchmark: $(VENV)/.installed-benchmark ## Measure speed; prints ratios of interleaved runs
	$(BIN)/python -m tests.benchmarks

soak: $(VENV)/.installed-test ## Run the long fault tests
	$(BIN)/python -m pytest -m soak --timeout 3600

clean: ## Remove the virtual environment and all caches
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

# One stamp for each set of extras; all sets share the environment, so that nothing is installed
# twice. `all` brings whatever `test` needs, and `test` whatever `worker` needs.
$(VENV)/.installed-worker: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) install --constraint constraints.txt --editable '.[worker]'
	@touch $@

$(VENV)/.installed-test: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) install --constraint constraints.txt --editable '.[worker,test]'
	@touch $@ $(VENV)/.installed-worker

$(VENV)/.installed-all: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) install --constraint constraints.txt --editable '.[all]'
	@touch $@ $(VENV)/.installed-test $(VENV)/.installed-worker

$(VENV)/.installed-benchmark: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) install --constraint constraints.txt --editable '.[worker,test,benchmark]'
	@touch $@ $(VENV)/.installed-test $(VENV)/.installed-worker

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "strata needs Python 3.11 or newer; name one: make PYTHON=python3.11 ..." >&2; exit 2; }
	@$(PYTHON) -m venv $(VENV) || { \
	  echo "$(PYTHON) has no venv; on Debian: apt-get install python3-venv" >&2; exit 2; }
