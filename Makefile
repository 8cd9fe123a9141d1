# `make help` lists the targets. Needs Python >= 3.11, git and make; everything else goes into .venv.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
ARGS   ?=
TESTS  ?=
MINUTES ?= 60
N      ?= 1000000
SEED   ?= 0
# Two processes for each core: tests wait for processes, servers and disks much of their time.
WORKERS ?= $(shell $(PYTHON) -c 'import os; print(2 * (os.cpu_count() or 1))')

.DEFAULT_GOAL := help
.PHONY: help train test test-slurm faults fuzz lint format bench soak docs docs-serve dist lock audit clean

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | awk -F'\t' '{printf "  make %-10s %s\n", $$1, $$2}'

train: $(VENV)/.installed  ## train the default task, or what ARGS says: make train ARGS="tracker=wandb,trackio"
	@$(BIN)/python -m train $(ARGS)

test: $(VENV)/.installed-dev  ## run the whole test suite, or TESTS=tests/train/test_resume.py
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal $(TESTS)

# Where SLURM is not there and cannot be installed, that is said, and the tests are skipped, each by its name.
test-slurm: $(VENV)/.installed-dev  ## the tests on a real SLURM of two nodes, which it installs (root, Debian) and starts
	@tests/slurm/cluster.sh install || true
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -rs -m "slurm and not slow" tests/slurm

faults: $(VENV)/.installed-dev  ## the long tests of crashes, full disks, kills and resumes: about an hour on 2 cores
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -m "slow and not slurm"

fuzz: $(VENV)/.installed-dev  ## damaged files for every reader, a million of them, or N; another SEED makes others
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.fuzz --inputs $(N) --seed $(SEED)

lint: $(VENV)/.installed-dev  ## ruff, mypy, import-linter
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.installed-dev  ## let ruff format and fix what it can
	$(BIN)/ruff check --fix-only -q .
	$(BIN)/ruff format -q .

bench: $(VENV)/.installed-bench  ## measure expkit beside others, in under 20 minutes, and write docs/benchmarks.md
	$(BIN)/python -m benchmarks $(ARGS)

soak: $(VENV)/.installed-dev  ## train under random faults for an hour (MINUTES=10 SEED=7), and write docs/soak.md
	$(BIN)/python -m tests.soak --minutes $(MINUTES) --seed $(SEED)

dist: $(VENV)/.installed-dev  ## a source archive, and the wheel that it makes, in dist/
	$(BIN)/python -m build

lock: $(VENV)/.installed-dev  ## requirements*.lock: the pins of constraints.txt with the hashes of their files
	$(BIN)/python scripts/lock.py

# Exit codes of the script itself: 0 nothing is known, 1 something is, 3 nobody could be asked.
audit: $(VENV)/.installed-dev  ## whether what is pinned has known vulnerabilities; needs a network
	@$(BIN)/python scripts/audit.py

docs: $(VENV)/.installed-docs  ## the documentation as a site: site/index.html opens from disk, and needs no network
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	@echo "open site/index.html, or with a search: make docs-serve"

docs-serve: $(VENV)/.installed-docs  ## the same at http://127.0.0.1:8000, following changes, until Ctrl-C
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs serve --strict --dev-addr 127.0.0.1:8000

clean:  ## remove .venv and caches; outputs stay
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis build dist site
	find . -name __pycache__ -type d -not -path './outputs/*' -prune -exec rm -rf {} +

$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "error: $(PYTHON) is older than Python 3.11; name another: make $(MAKECMDGOALS) PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	PIP_CONSTRAINT=constraints.txt $(BIN)/python -m pip install -q --disable-pip-version-check -e .
	@touch $@

$(VENV)/.installed-bench: $(VENV)/.installed
	PIP_CONSTRAINT=constraints.txt $(BIN)/python -m pip install -q --disable-pip-version-check -e '.[bench]'
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	PIP_CONSTRAINT=constraints.txt $(BIN)/python -m pip install -q --disable-pip-version-check -e '.[dev]'
	@touch $@

$(VENV)/.installed-docs: $(VENV)/.installed
	PIP_CONSTRAINT=constraints.txt $(BIN)/python -m pip install -q --disable-pip-version-check -e '.[docs]'
	@touch $@
