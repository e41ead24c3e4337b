# `make demo` and `make test` set everything up: a .venv in this folder, from the locks.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Two workers: tests compile more than they compute.
WORKERS ?= 2
export PIP_DISABLE_PIP_VERSION_CHECK = 1

# The oldest packages that are supported, and the newest Python that is here.
PYENV := $(or $(shell pyenv root 2>/dev/null),$(PYENV_ROOT),$(wildcard $(HOME)/.pyenv))
NEWEST ?= $(shell for it in python3.13 $(PYENV)/versions/3.13*/bin/python \
  python3.12 $(PYENV)/versions/3.12*/bin/python $(PYTHON); do \
  $$it -c '' 2>/dev/null && echo $$it && break; done)
CORE := tests/algorithms/permfl_test.py tests/checkpoints_test.py \
  tests/evaluate_test.py tests/models/models_test.py tests/placement_test.py \
  tests/runner_test.py tests/tree_test.py tests/experiments/culprit_test.py

# Some Pythons come without venv.
define new
$(1) -m venv $(2) || ( \
	  rm -rf $(2) && \
	  $(1) -m pip install --quiet --target .bootstrap virtualenv && \
	  PYTHONPATH=.bootstrap $(1) -m virtualenv $(2) )
endef

.PHONY: demo test thorough stacks check lint types pytest lock clean science-quick

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
	$(BIN)/python -m pytest -n $(WORKERS) --durations=30

# What the tests leave out because other cases stand for it.
thorough: $(VENV)/.dev
	$(BIN)/python -m pytest -n $(WORKERS) --thorough -m thorough

stacks: .venv-oldest/.ready .venv-newest/.ready
	for it in oldest newest; do .venv-$$it/bin/python -c "import sys, jax, flax; \
	  print('Python', sys.version.split()[0], 'jax', jax.__version__, \
	  'flax', flax.__version__, flush=True)" && \
	  JAX_COMPILATION_CACHE_DIR= .venv-$$it/bin/python -m pytest -n $(WORKERS) $(CORE) \
	  || exit 1; done

.venv-oldest/.ready: requirements-oldest.lock setup.cfg
	$(call new,$(PYTHON),.venv-oldest)
	.venv-oldest/bin/python -m pip install --quiet --require-hashes -r $<
	.venv-oldest/bin/python -m pip install --quiet --no-deps --no-build-isolation -e .
	touch $@

.venv-newest/.ready: requirements-dev.lock setup.cfg
	$(call new,$(NEWEST),.venv-newest)
	.venv-newest/bin/python -m pip install --quiet --require-hashes -r $<
	.venv-newest/bin/python -m pip install --quiet --no-deps --no-build-isolation -e .
	touch $@

# Every figure of docs/science.md at a small setting.
RAW := $(wildcard ../shared/data)
science-quick: $(VENV)/.run
	for it in quadratic mclr nonconvex; do $(BIN)/python -m experiments.convergence \
	  --problem=$$it --quick --workdir=runs/science/$$it || exit 1; done
	for it in auto few_teams imbalance formation sparse ablations; do \
	  $(BIN)/python -m experiments.study --study=$$it --quick \
	  --workdir=runs/science/$$it || exit 1; done
	$(if $(RAW),$(BIN)/python -m experiments.study --study=text --quick \
	  --manual_dir=$(RAW) --workdir=runs/science/text,@echo "text: skipped, no raw data")

$(VENV)/bin/python:
	$(call new,$(PYTHON),$(VENV))

$(VENV)/.run: requirements.lock setup.cfg | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation -e .
	touch $@

$(VENV)/.dev: requirements-dev.lock $(VENV)/.run
	$(BIN)/python -m pip install --quiet --require-hashes -r requirements-dev.lock
	touch $@

# The locks pin every package for every supported Python, with hashes.
lock: $(VENV)/.dev
	$(BIN)/uv pip compile --quiet --universal --generate-hashes --no-header \
	  setup.cfg --extra editable -o requirements.lock
	$(BIN)/uv pip compile --quiet --universal --generate-hashes --no-header \
	  setup.cfg --extra editable --extra dev --extra docs --extra export --extra tb \
	  -c requirements.lock -o requirements-dev.lock
	$(BIN)/uv pip compile --quiet --universal --generate-hashes --no-header \
	  setup.cfg --extra editable --extra dev --extra tb \
	  -c requirements-oldest.in -o requirements-oldest.lock

clean:
	rm -rf $(VENV) .venv-oldest .venv-newest .bootstrap build dist *.egg-info
