# make demo, make test, make live, make federated, make fuzz, make docs, make check, make lint,
# make clean.
# The first call makes .venv and installs into it; PYTHON=python3.12 chooses another Python,
# WORKERS=1 runs the tests in one process, PIP_FLAGS goes to pip; make fuzz SECONDS=1800
# runs for so long, TARGET=bundle on one format only.

# On Linux the torch of the package index brings gigabytes for GPUs that nothing here needs;
# docs/dependencies.md says how to have the small one.

PYTHON ?= $(shell for each in python3 python3.13 python3.12 python3.11; do \
	$$each -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' \
	2>/dev/null && echo $$each && break; done)
WORKERS ?= 2
SECONDS ?= 300
TARGET ?=
PIP_FLAGS ?=
ENV := .venv
PY := $(ENV)/bin/python
STAMP := $(ENV)/.installed
# Flower wants older packages than the rest; they lie beside those of $(ENV), and before them.
FEDERATED := .federated

# Tiny networks gain nothing from threads, and workers would fight for the cores.
export OMP_NUM_THREADS ?= 1

.PHONY: help demo test live federated fuzz docs check lint clean python
.DEFAULT_GOAL := help

help:
	@echo "make demo    a slow planner, an executor learning from it, a clock: 3 minutes"
	@echo "make test    the tests"
	@echo "make live    a robot's own loop on the wall clock, 20 kills of a run: 5 minutes"
	@echo "make federated    the tests that need Flower, in an environment of their own"
	@echo "make fuzz    hostile files and messages for every reader: 5 minutes, or SECONDS=1800"
	@echo "make docs    the documentation as a website, in site/"
	@echo "make check   everything a change must pass: format, lint, types, layers, spelling, docs"
	@echo "make lint    put format and simple lint findings right"
	@echo "make clean   remove caches and what runs left; .venv stays"

demo: $(STAMP)
	$(PY) examples/demo.py

test: $(STAMP)
	$(PY) -m pytest -n $(WORKERS) --dist loadfile

live: $(STAMP)
	$(PY) -m pytest -m live -n 2 --dist loadfile tests/test_live.py tests/test_bench_runs.py

federated: $(FEDERATED)/.installed
	$(FEDERATED)/bin/python -m pytest tests/test_federated.py tests/test_federated_remote.py

fuzz: $(STAMP)
	$(PY) -m tests.fuzz --seconds $(SECONDS) $(addprefix --target ,$(TARGET))

docs: $(STAMP)
	NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --strict

check: $(STAMP)
	scripts/check

lint: $(STAMP)
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

clean:
	rm -rf runs site .coverage .hypothesis .import_linter_cache .mypy_cache .pytest_cache \
	  .ruff_cache MUJOCO_LOG.TXT
	find agentkd benchmarks envs examples policies tests -name __pycache__ -type d -prune \
	  -exec rm -rf {} +

$(STAMP): pyproject.toml constraints.txt | python
	@test -x $(PY) || $(PYTHON) -m venv $(ENV)
	@echo "Installing agentkd and what it needs into $(ENV); the first time takes minutes."
	@$(PY) -m pip install -qq --disable-pip-version-check $(PIP_FLAGS) \
	  --constraint constraints.txt --editable '.[all,dev]'
	@touch $@

$(FEDERATED)/.installed: $(STAMP)
	@test -x $(FEDERATED)/bin/python || $(PY) -m venv $(FEDERATED)
	@echo "import site; site.addsitedir('$$($(PY) -c 'import site; print(*site.getsitepackages())')')" \
	  > $$($(FEDERATED)/bin/python -c 'import site; print(*site.getsitepackages())')/beside.pth
	@$(FEDERATED)/bin/python -m pip install -qq --disable-pip-version-check $(PIP_FLAGS) \
	  --editable '.[federated]'
	@touch $@

python:
	@test -x $(PY) || test -n "$(PYTHON)" || { \
	  echo "agentkd needs Python 3.11, 3.12 or 3.13, and python3 is none of them." >&2; \
	  echo "Install one, or name it: make PYTHON=/path/to/python3.12 $(MAKECMDGOALS)" >&2; \
	  exit 1; }
	@test -x $(PY) || $(PYTHON) -c 'import sys; \
	  sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || { \
	  echo "agentkd needs Python 3.11, 3.12 or 3.13; $(PYTHON) is $$($(PYTHON) --version 2>&1)." >&2; \
	  echo "Name another: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	@test -x $(PY) || $(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "$(PYTHON) cannot make a virtual environment: its venv module is missing." >&2; \
	  echo "On Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }
