PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help setup demo test check lint bench chaos fuzz parity clean

help:  ## this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*##/\t/' | expand -t 10

setup: $(STAMP)  ## a virtual environment with everything, and the llm2vec-gen command

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q torch -c constraints.txt
	$(BIN)/python -m pip install -q -e '.[dev]' -c constraints.txt
	touch $(STAMP)

demo: setup  ## train, evaluate and read the pocket: two tables, five decoded embeddings, outputs/demo/report.html
	OMP_NUM_THREADS=1 $(BIN)/python experiments/run.py experiment=pocket  # so small a model gains nothing from more

test: setup  ## all tests, fast ones first
	$(BIN)/python -m pytest -q -m "not slow"
	$(BIN)/python -m pytest -q -m slow
	$(BIN)/python -m pytest -q --nbmake --nbmake-timeout=600 notebooks

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

check: lint test  ## lint, types, import layers, tests

bench: setup  ## speed and memory beside the plain way, as tables
	$(BIN)/python benchmarks/step.py

chaos: setup  ## 20 training runs killed at random moments: each ends bit for bit as a whole one
	$(BIN)/python -m tests.chaos 20

fuzz: setup  ## 500 damaged checkpoint folders: each read or refused clearly
	$(BIN)/python -m tests.checkpoints.fuzz 500

parity: .parity/.installed  ## the reference package, in an environment of its own, loads what we write
	LLM2VEC_GEN_REFERENCE_PYTHON=.parity/bin/python $(BIN)/python -m pytest -q tests/checkpoints -k package

.parity/.installed: | setup
	$(PYTHON) -m venv .parity
	.parity/bin/pip install -q torch==2.13.0 transformers==4.57.6 peft==0.21.2 datasets accelerate pyyaml psutil
	.parity/bin/pip install -q --no-deps llm2vec-gen==0.1.3
	touch $@

clean:  ## remove outputs and the virtual environment
	rm -rf outputs multirun $(VENV) .parity build *.egg-info
