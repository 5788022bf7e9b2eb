# Everything a developer or CI runs. A fresh machine needs Python 3.11 or newer, pip
# and make; each target sets itself up and installs again only when a lock changed.
#
#   make demo      train a batch-normalized classifier on the digits that ship with us
#   make test      lint, then the fast tests
#   make test-all  also the slow tests, PyTorch as oracle; the fast ones on a newer Python
#   make soak      tests of reliability (kills, fuzzers, thousands of saves), and whatever
#                  else takes too long for test-all
#   make lint      formatting, lint and types      make format   rewrite the files
#   make bench     benchmarks against the peers    make docs     HTML in docs/_build/html
#   make dist      build wheel and sdist, and try them as a user would
#   make lock      resolve requirements/*.txt anew

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.NOTPARALLEL:
.DEFAULT_GOAL := help

# The first interpreter that really runs (a pyenv shim may exist and refuse).
find_python = $(shell for python in $(1); do \
  "$$python" -c 'import sys; sys.exit(not $(2))' 2>/dev/null \
  && { echo "$$python"; break; }; done)

PYTHON ?= $(call find_python,python3.11 python3 python3.12 python3.13,sys.version_info >= (3$(comma) 11))
NEWER_PYTHON ?= $(call find_python,python3.13 python3.12 $(wildcard $(HOME)/.pyenv/versions/3.13.*/bin/python) $(wildcard $(HOME)/.pyenv/versions/3.12.*/bin/python),sys.version_info >= (3$(comma) 12))
comma := ,

VENV ?= .venv
NEWER_VENV ?= .venv-newer
LOCK_VENV ?= .venv-lock
BIN := $(VENV)/bin
JOBS ?= 2
TESTS ?=

UV_VERSION := 0.13.9
TORCH_VERSION := 2.13.0
TORCHVISION_VERSION := 0.28.0
TIMM_VERSION := 1.0.31
SKLEARN_VERSION := 1.9.1
KERAS_VERSION := 3.15.1
BENCHMARKS ?= trace first_step dispatch import_time optim batch_norm norms conv step memory \
  objects checkpoint fold accumulate recalibrate table images training_memory scale

export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help
help:
	@sed -n 's/^#   //p' $(firstword $(MAKEFILE_LIST))

# --- set-up -----------------------------------------------------------------------

$(BIN)/python:
	@[ -n "$(PYTHON)" ] || { echo "Python 3.11 or newer not found: install it, or run make PYTHON=/path/to/python" >&2; exit 1; }
	"$(PYTHON)" -m venv "$(VENV)"

# $(1): a lock. linsey itself goes in last, editable, with the locked build backend.
define install
	$(BIN)/python -m pip install --quiet --require-hashes -r requirements/$(1).txt
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation -e .
	@touch $@
endef

$(VENV)/.stamp-train: requirements/train.txt pyproject.toml | $(BIN)/python
	$(call install,train)

$(VENV)/.stamp-dev: requirements/dev.txt pyproject.toml | $(BIN)/python
	$(call install,dev)

$(VENV)/.stamp-docs: requirements/docs.txt pyproject.toml | $(BIN)/python
	$(call install,docs)

# PyTorch is an oracle, never a need: where it cannot be had its tests skip themselves.
$(VENV)/.stamp-torch: $(VENV)/.stamp-dev
	$(BIN)/python -m pip install --quiet torch==$(TORCH_VERSION) \
	  || echo "torch $(TORCH_VERSION) is not available here: tests that need it are skipped"
	$(BIN)/python -m pip install --quiet torchvision==$(TORCHVISION_VERSION) timm==$(TIMM_VERSION) \
	  || echo "torchvision or timm is not available here: tests that need them are skipped"
	@touch $@

# Rivals of benchmarks alone; those that cannot be had are named and left out.
$(VENV)/.stamp-rivals: $(VENV)/.stamp-torch
	$(BIN)/python -m pip install --quiet scikit-learn==$(SKLEARN_VERSION) keras==$(KERAS_VERSION) \
	  || echo "scikit-learn or keras is not available here: they are left out"
	@touch $@

# Other people's programs too are tests that skip themselves.
$(VENV)/.stamp-programs: requirements/programs.txt requirements/programs-alone.txt $(VENV)/.stamp-dev
	$(BIN)/python -m pip install --quiet --require-hashes --no-deps \
	  -r requirements/programs.txt -r requirements/programs-alone.txt \
	  || echo "not all packages of the programs are available here: their tests are skipped"
	@touch $@

# --- what people run --------------------------------------------------------------

.PHONY: demo
demo: $(VENV)/.stamp-train
	$(BIN)/linsey train $(ARGS)

FAST_TESTS = $(BIN)/python -m pytest -n $(JOBS) --dist loadfile -m "not slow and not soak"

.PHONY: test
test: lint
	$(FAST_TESTS) $(TESTS)

# The files with few tests are the long ones here: they do not wait for the others.
# PyTorch with one thread: where threads outnumber cores, its threads wait by spinning.
ALL_TESTS = OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder \
  -m "not soak" $(TESTS)
# A failure in one part does not keep the next one from running.
FAILED := $(VENV)/.failed

.PHONY: test-all
test-all: lint $(VENV)/.stamp-torch $(VENV)/.stamp-programs
	@rm -f $(FAILED); $(ALL_TESTS) || touch $(FAILED)
	@for kernels in 0 all; do \
	  LINSEY_KERNELS=$$kernels $(MAKE) --no-print-directory test-layers \
	    || touch $(FAILED); \
	done
	@if [ -n "$(NEWER_PYTHON)" ]; then \
	  $(MAKE) --no-print-directory test-newer || touch $(FAILED); \
	else \
	  echo "no Python 3.12 or 3.13 found: the suite ran on one Python only"; \
	fi
	@! [ -e $(FAILED) ]

# What may call kernels: without any, and with one wherever there is one.
.PHONY: test-layers
test-layers: $(VENV)/.stamp-dev
	$(FAST_TESTS) tests/ops tests/linen --ignore=tests/linen/module --ignore=tests/linen/transforms

# The fast tests only: the slow ones would take an hour more.
.PHONY: test-newer
test-newer:
	$(MAKE) --no-print-directory VENV=$(NEWER_VENV) PYTHON="$(NEWER_PYTHON)" test-here

.PHONY: test-here
test-here: $(VENV)/.stamp-dev
	$(BIN)/python -c 'import jax, sys; print("Python", sys.version.split()[0], "jax", jax.__version__)'
	$(FAST_TESTS) $(TESTS)

# One after the other: what they measure needs the machine for itself.
.PHONY: soak
soak: $(VENV)/.stamp-torch
	$(BIN)/python -m pytest -s $(or $(TESTS),tests/reliability)
	[ -n "$(TESTS)" ] || $(BIN)/python -m pytest -s -m soak --ignore tests/reliability tests

.PHONY: lint
lint: $(VENV)/.stamp-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyrefly check

.PHONY: format
format: $(VENV)/.stamp-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.PHONY: bench
bench: $(VENV)/.stamp-rivals
	for name in $(BENCHMARKS); do $(BIN)/python -m benchmarks.$$name $(ARGS); done
	$(BIN)/python -m benchmarks.claims

.PHONY: docs
docs: $(VENV)/.stamp-docs
	$(BIN)/python -m sphinx -W --keep-going -b html docs docs/_build/html
	$(BIN)/python scripts/check_site.py docs/_build/html
	@echo "open docs/_build/html/index.html"

.PHONY: dist
dist: $(VENV)/.stamp-dev
	rm -rf dist
	$(BIN)/python -m hatchling build
	$(BIN)/python scripts/check_dist.py dist

# One lock serves every Python we support: versions that need a newer one carry a marker.
UV_COMPILE = $(LOCK_VENV)/bin/uv pip compile pyproject.toml --quiet --universal \
  --python-version 3.11 --generate-hashes --group build \
  --custom-compile-command "make lock"

.PHONY: lock
lock:
	[ -x $(LOCK_VENV)/bin/uv ] || { "$(PYTHON)" -m venv $(LOCK_VENV) \
	  && $(LOCK_VENV)/bin/python -m pip install --quiet uv==$(UV_VERSION); }
	$(UV_COMPILE) --all-extras --group dev --group docs -o requirements/docs.txt $(LOCK_FLAGS)
	$(UV_COMPILE) --all-extras --group dev -c requirements/docs.txt -o requirements/dev.txt $(LOCK_FLAGS)
	$(UV_COMPILE) --all-extras --group dev --group programs -c requirements/docs.txt \
	  --no-emit-package dataclasses -o requirements/programs.txt $(LOCK_FLAGS)
	$(UV_COMPILE) --extra all -c requirements/docs.txt -o requirements/train.txt $(LOCK_FLAGS)
	$(LOCK_VENV)/bin/uv pip compile --quiet --no-deps --universal --python-version 3.11 \
	  --generate-hashes --custom-compile-command "make lock" \
	  --group pyproject.toml:programs-alone -c requirements/programs.txt \
	  -o requirements/programs-alone.txt $(LOCK_FLAGS)

.PHONY: clean
clean:
	rm -rf $(VENV) $(NEWER_VENV) $(LOCK_VENV) dist docs/_build .pytest_cache .ruff_cache .hypothesis
