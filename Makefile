# Set-up, the demo and the checks; `make help` lists the targets.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
WORKERS ?= 2

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-slurm lint type unit format clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  %-10s %s\n", $$1, $$2}'

setup: $(STAMP) ## create .venv with every dependency at its pinned version

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed; give one with make PYTHON=/path/to/python3.12"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: $(STAMP) ## run the small real benchmark and print its table
	$(BIN)/randlora sweep table=demo machine.keep_weights=false

test: $(STAMP) lint type unit ## lint, type check and tests

lint: $(STAMP) ## ruff: lint and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

type: $(STAMP) ## mypy
	$(BIN)/mypy

unit: $(STAMP) ## the tests alone, on two processes (WORKERS=n for others)
	OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses $(WORKERS) --dist loadfile

test-slurm: $(STAMP) ## the tests of sweeps on SLURM, on one of a single node that is set up for them (Debian, root)
	sh tests/runners/slurm/one_node.sh $(BIN)/pytest tests/runners/slurm

format: $(STAMP) ## rewrite the code in its format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## remove the environment and caches; records stay
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache build dist
