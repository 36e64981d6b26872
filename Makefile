# cloudtune: one command per purpose. `make demo` trains an adapter on this machine, `make test` proves the rest.

PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	command -v $$p >/dev/null 2>&1 && $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
BIN := .venv/bin
# Tests of one file share a worker, as they share what is slow to make: tests/scheduling.py.
WORKERS ?= -n logical --maxprocesses 4 --dist loadscope --no-loadscope-reorder
export OMP_NUM_THREADS ?= 1
# Hundreds of tests start programs of ours: each would compile them anew where the environment forbids to keep that.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help demo test test-full lint format types bench env-train env-dev clean

help:
	@echo "make demo       install, then fine-tune the quickstart on this machine (no GPU, no login)"
	@echo "make test       install, then run the tests"
	@echo "make test-full  the same with the big grids"
	@echo "make lint       ruff, as CI runs it        make format  let ruff rewrite"
	@echo "make types      mypy --strict"
	@echo "make bench      start-up of the command    make clean   remove what make made"

demo: env-train
	env -u OMP_NUM_THREADS $(BIN)/cloudtune launch recipes/quickstart.yaml --provider local --yes

test: env-dev
	$(BIN)/python -m pytest $(WORKERS) -m "not full"

test-full: env-dev
	$(BIN)/python -m pytest $(WORKERS)

lint: env-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: env-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: env-dev
	$(BIN)/mypy

bench: env-dev
	$(BIN)/python benchmarks/cli/startup.py

env-train env-dev: env-%:
	@test -n "$(PYTHON)" || { echo "setup: no Python 3.11 or newer found; on Debian: sudo apt-get install python3 python3-venv"; exit 1; }
	@$(PYTHON) tools/setup_env.py $*

clean:
	rm -rf .venv build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
