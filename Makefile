# `make demo`, `make test`, `make lint`, `make bench`: each creates and fills .venv itself; a second call is quick.
# Your own Python: `make test PYTHON=python3.12`. Your own torch instead of the pinned one: `make test CONSTRAINTS=`.
PYTHON ?= python3
CONSTRAINTS ?= .ci/constraints.txt

BIN := .venv/bin
INSTALL := $(BIN)/python -m pip install --quiet $(addprefix --constraint ,$(CONSTRAINTS)) --editable

.PHONY: demo test lint bench

demo: .venv/installed-test
	$(BIN)/lsc-snn demo --threads 1  # networks this small run slower on two

test: .venv/installed-test
	$(BIN)/python -m pytest

lint: .venv/installed-test
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy lsc_snn

bench: .venv/installed-bench
	$(BIN)/python -m lsc_snn.experiments.bench

# A stamp for each set of extras, older than nothing that decides what is installed.
.venv/installed-%: pyproject.toml $(CONSTRAINTS) | $(BIN)/python
	$(INSTALL) '.[test,$*]'
	touch $@

$(BIN)/python:
	$(PYTHON) -m venv .venv
