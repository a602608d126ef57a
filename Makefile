PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help setup demo test check lint bench fuzz clean

help:  ## this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*##/\t/' | expand -t 10

setup: $(STAMP)  ## a virtual environment with everything, and the llm2vec-gen command

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q torch -c constraints.txt
	$(BIN)/python -m pip install -q -e '.[dev]' -c constraints.txt
	touch $(STAMP)

demo: setup  ## train, evaluate and read the pocket: two tables, five decoded embeddings, outputs/demo/report.html
	$(BIN)/python experiments/run.py experiment=pocket

test: setup  ## all tests, fast ones first
	$(BIN)/python -m pytest -q -m "not slow"
	$(BIN)/python -m pytest -q -m slow

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

check: lint test  ## lint, types, import layers, tests

bench: setup  ## speed and memory beside the plain way, as tables
	$(BIN)/python benchmarks/step.py

clean:  ## remove outputs and the virtual environment
	rm -rf outputs multirun $(VENV) build *.egg-info
