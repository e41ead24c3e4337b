# `make demo` and `make test` set everything up: a .venv in this folder, from the locks.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Two workers: tests compile more than they compute.
WORKERS ?= 2
export PIP_DISABLE_PIP_VERSION_CHECK = 1

.PHONY: demo test check lint types pytest lock clean

demo: $(VENV)/.run
	$(BIN)/python -m experiments.train --flagfile=experiments/presets/quickstart.flags

test: lint types pytest

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.dev
	$(BIN)/pyrefly check

# Tests mostly compile; what one worker or run has compiled serves the next.
pytest: export JAX_COMPILATION_CACHE_DIR = $(CURDIR)/$(VENV)/xla
pytest: export JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS = 0.2
pytest: $(VENV)/.dev
	$(BIN)/python -m pytest -n $(WORKERS)

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV) || ( \
	  rm -rf $(VENV) && \
	  $(PYTHON) -m pip install --quiet --target .bootstrap virtualenv && \
	  PYTHONPATH=.bootstrap $(PYTHON) -m virtualenv $(VENV) )

$(VENV)/.run: requirements.lock setup.cfg | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation -e .
	touch $@

$(VENV)/.dev: requirements-dev.lock $(VENV)/.run
	$(BIN)/python -m pip install --quiet --require-hashes -r requirements-dev.lock
	touch $@

# Both locks pin every package for every supported Python, with hashes.
lock: $(VENV)/.dev
	$(BIN)/uv pip compile --quiet --universal --generate-hashes --no-header \
	  setup.cfg --extra editable -o requirements.lock
	$(BIN)/uv pip compile --quiet --universal --generate-hashes --no-header \
	  setup.cfg --extra editable --extra dev --extra docs --extra export --extra tb \
	  -c requirements.lock -o requirements-dev.lock

clean:
	rm -rf $(VENV) .bootstrap build dist *.egg-info
