# make demo    from nothing to a searched endpoint, on two CPU cores
# make test    everything that is promised, tested, but for what takes as long as make soak
# make soak    the tests that take too long for `make test`: all six retrievers, a verbalised corpus, and a comparison as a job, through
#              the real stages
# make bench   what curation costs beside plain tools, how it grows, and what it takes of memory, and whether that is what is
#              promised; a quarter of an hour and more
# Each sets itself up: a virtual environment in .venv with the versions of requirements.lock.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin

.PHONY: help demo test soak bench lint lock clean

help:
	@sed -n 's/^# //p' Makefile

# torch goes first and by itself: with any looser requirement, a resolver fetches gigabytes of CUDA for a machine without a GPU.
.venv/ready: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "mirepoix: Python 3.11 or later is needed; give it as make PYTHON=/path/to/python3.11"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "$$(grep '^torch==' requirements.lock)"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

# What the tests compare with reads pictures and clips by torchvision, which PyPI has only for CUDA: it stays out of the environment.
.venv/vision/ready: .venv/ready
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --upgrade --target .venv/vision "torchvision==0.28.0"
	@touch $@

# What late interaction is exported for pins versions other than ours.
.venv/pylate/ready: .venv/ready
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --upgrade --target .venv/pylate "pylate==1.6.0" \
		"sentence-transformers==5.3.0" "transformers==5.3.0" "tokenizers==0.22.2" "huggingface-hub==1.33.0" "datasets==5.2.0" \
		"multiprocess==0.70.19" "dill==0.4.0" "ujson==5.12.0"
	@touch $@

demo: .venv/ready
	@$(BIN)/mirepoix demo quickstart

test: .venv/ready .venv/vision/ready .venv/pylate/ready
	@$(BIN)/python -m pytest

soak: .venv/ready
	@$(BIN)/python -m pytest -m soak

bench: .venv/ready
	@$(BIN)/python bench/data.py --check
	@$(BIN)/python bench/memory.py --check

lint: .venv/ready
	@$(BIN)/ruff check . && $(BIN)/ruff format --check .

# Writes requirements.lock anew from what pyproject.toml asks for.
lock:
	@rm -rf .venv-lock && $(PYTHON) -m venv .venv-lock
	.venv-lock/bin/python -m pip install --quiet "torch==2.13.0" "setuptools>=77" wheel
	.venv-lock/bin/python -m pip install --quiet --no-build-isolation -e ".[cpu,dev]"
	.venv-lock/bin/python -m pip freeze --all --exclude pip --exclude-editable | sed 's/^\(torch==[0-9.]*\)+cpu/\1/' > requirements.lock
	@rm -rf .venv-lock

clean:
	rm -rf .venv storage build dist *.egg-info
