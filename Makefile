# make setup    installs what the package needs: network access, once
# make demo     trains a small model on real handwriting and samples it in both directions: two cores, minutes
# make test     runs the tests: two cores; ARGS="-k NAME" picks some
# make lint     checks style and types
# make kills    kills a run ten times, also while it saves, and compares its end with an uninterrupted one: minutes
# make mutants  changes one point of the core at a time and reports which changes no test notices: hours
# make fuzz     damages files of every kind, 10,000 times each, and expects a sentence, never a traceback: an hour
# make check-hosts       fails a save on one of two hosts, and expects that both end: minutes
# make check-benchmarks  runs every phase of the H100 benchmark with a toy model on the CPU: minutes
# make check-targets     compiles the step and the samplers for TPUs and H100s that are not here: 6 GB of compilers in
#   a .venv-targets of its own, Python 3.12 or 3.13 (JAX for 3.11 cannot print every TPU program), about ten minutes
# make check-full-size   converts and runs the 2B model: 30 GB of disk, 24 GB of memory, about half an hour
# make clean    removes the environments and the caches
# Each first installs what it needs into .venv. PYTHON=python3.12 picks another interpreter (3.11 to 3.13).

PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
START := $(shell date +%s)

.PHONY: setup demo test lint kills mutants check-hosts check-benchmarks check-targets check-full-size fuzz clean

setup: $(VENV)/.run

$(VENV)/.python:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || \
	  { echo "error: $(PYTHON) is $$($(PYTHON) --version 2>&1); use make PYTHON=python3.11 (to 3.13)"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	@touch $@

$(VENV)/.run: requirements.txt requirements-demo.txt | $(VENV)/.python
	$(BIN)/python -m pip install --quiet -r requirements.txt -r requirements-demo.txt
	@touch $@

$(VENV)/.test: requirements.txt requirements-test.txt | $(VENV)/.python
	$(BIN)/python -m pip install --quiet -r requirements.txt -r requirements-test.txt
	@touch $@

demo: export JAX_PLATFORMS = cpu
demo: $(VENV)/.run
	test -f runs/demo/data/tokenizer/tokenizer.json || $(BIN)/python -m demo.data --output=runs/demo/data
	$(BIN)/python main.py --mode=train --config=configs/demo.py --workdir=runs/demo
	$(BIN)/python -m demo.report --workdir=runs/demo --started=$(START)

test: $(VENV)/.test
	$(BIN)/python -m pytest -n 2 --dist=loadfile --no-loadscope-reorder -q $(ARGS)

check-full-size: $(VENV)/.test
	$(BIN)/python -m benchmarks.full_size

check-benchmarks: $(VENV)/.test
	$(BIN)/python -m pytest -q -m slow tests/unit/benchmarks

check-hosts: $(VENV)/.test
	$(BIN)/python -m pytest -q -m slow tests/multidevice/test_hosts.py

check-targets: TARGETS = $(VENV)-targets
check-targets:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 12) <= sys.version_info[:2] <= (3, 13))' || \
	  { echo "error: $(PYTHON) is $$($(PYTHON) --version 2>&1); use make check-targets PYTHON=python3.12 (or 3.13)"; exit 1; }
	test -d $(TARGETS) || $(PYTHON) -m venv $(TARGETS)
	$(TARGETS)/bin/python -m pip install --quiet -r requirements.txt -r requirements-targets.txt
	$(TARGETS)/bin/python -m pytest -q -m targets tests/targets $(ARGS)

kills: $(VENV)/.test
	$(BIN)/python -m pytest -q -m slow tests/end_to_end/test_resume.py

fuzz: $(VENV)/.test
	JAX_PLATFORMS=cpu $(BIN)/python -m tests.fuzz $(ARGS)

mutants: $(VENV)/.test
	$(BIN)/python -m tests.mutants $(ARGS)

# Without this, pyright asks PyPI whether there is a newer release.
lint: export PYRIGHT_PYTHON_IGNORE_WARNINGS = 1
lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python

clean:
	rm -rf $(VENV) $(VENV)-targets .cache .pytest_cache .ruff_cache
