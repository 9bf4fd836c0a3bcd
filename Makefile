# make setup    installs what the package needs: network access, once
# make demo     trains a small model on real handwriting and samples it in both directions: two cores, minutes
# make easy-vqa trains a small model on easy-VQA and scores it on the whole test split: two cores, about half an hour
# make test     runs the tests: two cores; ARGS="-k NAME" picks some
# make lint     checks style and types
# make test-slow  runs the slow tests (runs killed again and again, hosts that fail, every layout of eight devices, every
#   phase of the H100 benchmark with a toy model): half an hour
# make mutants  changes one point of the core at a time and reports which changes no test notices: hours
# make fuzz     damages files of every kind, 10,000 times each, and expects a sentence, never a traceback: an hour
# make check-targets     compiles the step and the samplers for TPUs and H100s that are not here: 6 GB of compilers in
#   a .venv-targets of its own, Python 3.12 or 3.13 (JAX for 3.11 cannot print every TPU program), about twenty minutes
# make check-original ORIGINAL=DIR  compares images with the original's own pipeline: DIR is a checkout of
#   https://github.com/zijieli-Jlee/Dual-Diffusion at bbf06bf; torchvision comes from PyPI into .venv-original; minutes
# make check-scorers VQA=DIR POPE=DIR  compares scores of benchmarks with the official scorers: DIRs are checkouts of
#   https://github.com/GT-Vision-Lab/VQA at a013f00 and https://github.com/AoiDragon/POPE at f3ec604; the others come
#   from PyPI, without their dependencies, into .venv-scorers; needs Java; minutes
# make check-fid   compares Inception's features and FID with torch-fidelity, pytorch-fid and clean-fid, from PyPI; minutes
# make check-lora  loads LoRAs of ours with diffusers and PEFT and theirs with ours; PEFT comes from PyPI into
#   .venv-lora; minutes
# make check-lmms-eval  runs a task of lmms-eval with this project's plug-in, to the score of our own task; it installs
#   lmms-eval with all that it needs into .venv-lmms-eval; minutes
# make app      serves the web page with the demo's model, which it trains first if there is none (docs/app.md)
# make check-app  drives the web page with Chromium (apt-get install chromium); Gradio and Playwright come from PyPI into
#   .venv-app; minutes
# make check-notebooks  runs the notebooks, with the demo's model or a small one; Jupyter and matplotlib come from PyPI into
#   .venv-notebooks; minutes
# make docs     builds the documentation site into runs/site; a link that leads nowhere fails
# make check-full-size   converts and runs the 2B model: 30 GB of disk, 24 GB of memory, about half an hour
# make clean    removes the environments and the caches
# Each first installs what it needs, into .venv unless it names another. PYTHON=python3.12 picks another interpreter
#   (3.11 to 3.13).

PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
START := $(shell date +%s)

.PHONY: setup docs demo easy-vqa test test-slow lint mutants fuzz check-targets check-original check-scorers check-fid check-lora \
  check-lmms-eval check-full-size app check-app check-notebooks clean

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

easy-vqa: export JAX_PLATFORMS = cpu
easy-vqa: EASY = runs/easy_vqa
easy-vqa: EVALUATE = main.py --mode=evaluate --model=$(EASY)/train/model --task=vqav2 --suffix= --length=13 --steps=2
easy-vqa: $(VENV)/.run
	test -d $(EASY)/package/easy_vqa || \
	  $(BIN)/python -m pip install --quiet --no-deps --target $(EASY)/package easy-vqa==1.0
	test -f $(EASY)/data/tokenizer/tokenizer.json || \
	  $(BIN)/python -m demo.easy_vqa --package=$(EASY)/package --output=$(EASY)/data
	$(BIN)/python main.py --mode=train --config=configs/easy_vqa_hints.py --workdir=$(EASY)/hints
	$(BIN)/python main.py --mode=train --config=configs/easy_vqa_balanced.py --workdir=$(EASY)/balanced
	$(BIN)/python main.py --mode=train --config=configs/easy_vqa.py --workdir=$(EASY)/train
	$(BIN)/python $(EVALUATE) --data=$(EASY)/data --output=$(EASY)/test
	$(BIN)/python $(EVALUATE) --data=$(EASY)/data/blind --output=$(EASY)/blind
	$(BIN)/python -m demo.easy_vqa_report --folder=$(EASY) --output=benchmarks/results/easy_vqa.json

test: $(VENV)/.test
	$(BIN)/python -m pytest -n 2 --dist=loadfile --no-loadscope-reorder -q $(ARGS)

test-slow: $(VENV)/.test
	$(BIN)/python -m pytest -n 2 --dist=loadfile --no-loadscope-reorder -q -m slow $(ARGS)

docs: $(VENV)/.python
	test -d $(VENV)-docs || $(PYTHON) -m venv $(VENV)-docs
	$(VENV)-docs/bin/python -m pip install --quiet -r requirements-docs.txt
	NO_MKDOCS_2_WARNING=1 $(VENV)-docs/bin/mkdocs build --strict

check-full-size: $(VENV)/.test
	$(BIN)/python -m benchmarks.full_size

check-targets: TARGETS = $(VENV)-targets
check-targets:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 12) <= sys.version_info[:2] <= (3, 13))' || \
	  { echo "error: $(PYTHON) is $$($(PYTHON) --version 2>&1); use make check-targets PYTHON=python3.12 (or 3.13)"; exit 1; }
	test -d $(TARGETS) || $(PYTHON) -m venv $(TARGETS)
	$(TARGETS)/bin/python -m pip install --quiet -r requirements.txt -r requirements-targets.txt
	$(TARGETS)/bin/python -m pytest -q -m targets tests/targets $(ARGS)

# Without its dependencies, so that torch stays as it is.
check-original: $(VENV)/.test
	@test -n "$(ORIGINAL)" || { echo "error: give ORIGINAL=DIR, a checkout of zijieli-Jlee/Dual-Diffusion at bbf06bf"; exit 1; }
	test -d $(VENV)-original/torchvision || \
	  $(BIN)/python -m pip install --quiet --no-deps --target $(VENV)-original "torchvision>=0.28,<0.29"
	PYTHONPATH=$(VENV)-original ORIGINAL=$(ORIGINAL) $(BIN)/python -m pytest -q -m original tests/original $(ARGS)

check-scorers: $(VENV)/.test
	@test -n "$(VQA)" && test -n "$(POPE)" || \
	  { echo "error: give VQA=DIR and POPE=DIR, checkouts of GT-Vision-Lab/VQA and AoiDragon/POPE"; exit 1; }
	test -d $(VENV)-scorers/loguru || $(BIN)/python -m pip install --quiet --no-deps --target $(VENV)-scorers \
	  lmms-eval==0.7.3 pycocoevalcap==1.2 loguru
	PYTHONPATH=$(VENV)-scorers VQA=$(VQA) POPE=$(POPE) $(BIN)/python -m pytest -q -m peers tests/peers \
	  --ignore=tests/peers/test_fid.py --ignore=tests/peers/test_lora.py --ignore=tests/peers/test_lora_of_photos.py $(ARGS)

# Apart from the others, because what they import looks for torchvision. pytorch-fid brings a package named tests, which
# would hide ours.
check-fid: FID = $(VENV)-scorers/fid
check-fid: $(VENV)/.test
	test -d $(FID)/cleanfid || { $(BIN)/python -m pip install --quiet --no-deps --target $(FID) torch-fidelity==0.4.0 \
	  pytorch-fid==0.3.0 clean-fid==0.1.35 "torchvision>=0.28,<0.29" requests tqdm && rm -rf $(FID)/tests; }
	PYTHONPATH=$(FID) $(BIN)/python -m pytest -q -m peers tests/peers/test_fid.py $(ARGS)

# Without its dependencies, so that torch stays as it is.
check-lora: $(VENV)/.test
	test -d $(VENV)-lora/peft || $(BIN)/python -m pip install --quiet --no-deps --target $(VENV)-lora "peft>=0.21,<0.22" \
	  accelerate psutil tqdm
	PYTHONPATH=$(VENV)-lora $(BIN)/python -m pytest -q -m peers tests/peers/test_lora.py \
	  tests/peers/test_lora_of_photos.py $(ARGS)

# lmms-eval 0.7.3 cannot use filelock 4.
check-lmms-eval: LMMS = $(VENV)-lmms-eval
check-lmms-eval: $(VENV)/.python
	test -d $(LMMS) || $(PYTHON) -m venv $(LMMS)
	$(LMMS)/bin/python -m pip install --quiet -r requirements.txt lmms-eval==0.7.3 "filelock>=3.24.2,<4" torch==2.13.0 \
	  "torchvision>=0.28,<0.29" pytest "scikit-learn>=1.5,<2"
	$(LMMS)/bin/python -m pip install --quiet --no-deps -e .
	$(LMMS)/bin/python -m pytest -q -m lmms_eval tests/lmms_eval $(ARGS)

$(VENV)-app/.run: requirements.txt requirements-app.txt | $(VENV)/.python
	test -d $(VENV)-app || $(PYTHON) -m venv $(VENV)-app
	$(VENV)-app/bin/python -m pip install --quiet -r requirements-app.txt
	@touch $@

app: $(VENV)-app/.run
	test -f runs/demo/model/model.json || $(MAKE) demo
	$(VENV)-app/bin/python main.py --mode=app --model=runs/demo/model

check-app: export JAX_PLATFORMS = cpu
check-app: $(VENV)-app/.run
	$(VENV)-app/bin/python -m pip install --quiet pytest playwright requests "scikit-learn>=1.5,<2"
	$(VENV)-app/bin/python -m pytest -q -m app tests/app $(ARGS)

check-notebooks: export JAX_PLATFORMS = cpu
check-notebooks: $(VENV)/.python
	test -d $(VENV)-notebooks || $(PYTHON) -m venv $(VENV)-notebooks
	$(VENV)-notebooks/bin/python -m pip install --quiet -r requirements-notebooks.txt
	$(VENV)-notebooks/bin/python -m pytest -q -m notebooks tests/notebooks $(ARGS)

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
	rm -rf $(VENV) $(VENV)-docs $(VENV)-targets $(VENV)-original $(VENV)-scorers $(VENV)-lora $(VENV)-lmms-eval $(VENV)-app $(VENV)-notebooks .cache .pytest_cache .ruff_cache
