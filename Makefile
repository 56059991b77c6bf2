# make demo: train on scikit-learn's digits. make test: every check. Both make .venv when it is missing.
# make bench has an environment of its own, because the libraries it compares with are large.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
BENCH := .venv-bench
.DEFAULT_GOAL := help

.PHONY: help demo test test-peers emulators stability lint bench clean

help:
	@echo "make demo        make .venv, install Smelt, train on scikit-learn's digits"
	@echo "make test        formatting, types, tests"
	@echo "make test-peers  tests against PyTorch, which is installed for it"
	@echo "make emulators   the zoo as C at its own sizes: by the compilers, and on the emulated boards, that are installed"
	@echo "make stability   the runtime for five minutes: threads, forks, interrupts, memory; wants an idle machine"
	@echo "make bench       install the peers in $(BENCH), then time training and inference side by side"
	@echo "make clean       remove the environments and everything made here"

$(BIN)/python:
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(v < (3, 11) and "Smelt needs Python 3.11 or newer; " \
	"$(PYTHON) is %d.%d. Try: make PYTHON=python3.12 ..." % v[:2])'
	$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }
	$(BIN)/python -m pip install -qq --upgrade "pip>=25.1"

# The stamps remember that an installation is up to date with pyproject.toml.
$(VENV)/.demo: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install -qq --editable ".[sklearn]"
	@touch $@

$(VENV)/.dev: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install -qq --editable . --group dev
	@touch $@

$(VENV)/.peers: pyproject.toml | $(VENV)/.dev
	$(BIN)/python -m pip install -qq --group peers
	@touch $@

demo: $(VENV)/.demo
	$(BIN)/smelt run recipes/digits.toml

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: lint
	$(BIN)/python -m pytest -m "not peers and not emulators"

test-peers: $(VENV)/.peers
	$(BIN)/python -m pytest -m peers

emulators: $(VENV)/.dev
	$(BIN)/python -m pytest -m emulators

stability: $(VENV)/.dev
	$(BIN)/python tests/runtime/stability.py

$(BENCH)/.done: pyproject.toml
	$(PYTHON) -m venv $(BENCH)
	$(BENCH)/bin/python -m pip install -qq --upgrade "pip>=25.1"
	$(BENCH)/bin/python -m pip install -qq --editable . --group bench
	@touch $@

bench: $(BENCH)/.done
	$(BENCH)/bin/smelt bench train
	$(BENCH)/bin/smelt bench infer

clean:
	rm -rf $(VENV) $(BENCH) build smelt.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
