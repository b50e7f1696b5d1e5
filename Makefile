# make install the environment in .venv, with the tested versions; then `. .venv/bin/activate`
# make demo    from nothing to a searched endpoint, on two CPU cores
# make test    everything that is promised, tested, but for what takes as long as make soak
# make soak    the tests that take too long for `make test`: all six retrievers, a verbalised corpus, all of NLVR, and a comparison as
#              a job, through the real stages; a second demo, a killed one, training on three ranks, large worlds, what `init`
#              proposed, served, a gc that is killed on an object store, and fifty swaps and kills in a row of servers under load
# make bench   what commands take before they answer, what curation costs beside plain tools, how it grows, what it takes of memory,
#              what a search over 200 pictures takes, and adding to a release, what deep rankings cost beside bare FAISS, training beside its
#              parts and beside other projects, and the endpoint under load, and whether that is what is promised; three hours and more
# make lint, make format-check, make types
#              ruff; mypy: strict for models/ and serving/, its defaults for components/ and workflows/
# make lock    the locks of all extras, by resolution alone
# Each sets itself up: a virtual environment in .venv with the versions of requirements.lock.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin

# Tests run in this many processes; `make test WORKERS=0` runs them in one, for a debugger.
WORKERS ?= 2

.PHONY: help install demo test soak bench lint format-check types lock clean

help:
	@sed -n '/^$$/q; s/^# //p' Makefile

# torch goes first, by pip and pinned: with any looser requirement, a resolver fetches gigabytes of CUDA for a machine without a GPU. uv, which
# takes a third of pip's CPU seconds, installs the rest; where it cannot (an index that only pip knows of), pip does, and the last line of
# what uv said is printed. uv trusts the certificates of this machine, among which is that of a company's proxy; by default it brings its own.
export UV_SYSTEM_CERTS ?= 1
INSTALL = install() { said=$$($(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python "$$@" 2>&1) || { \
	echo "mirepoix: uv could not install ($$(printf '%s\n' "$$said" | sed 's/^ *//' | tail -n 1)); pip does it, which takes some minutes longer"; \
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "$$@"; }; }; install

.venv/ready: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "mirepoix: Python 3.11 or later is needed; give it as make PYTHON=/path/to/python3.11"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $$(grep -E '^(torch|uv)==' requirements.lock)
	@$(INSTALL) -r requirements.lock
	@$(INSTALL) --no-deps --no-build-isolation -e .
	@touch $@

# What the tests compare with reads pictures and clips by torchvision, which PyPI has only for CUDA: it stays out of the environment.
.venv/vision/ready: .venv/ready
	@$(INSTALL) --no-deps --upgrade --target .venv/vision "torchvision==0.28.0"
	@touch $@

# What late interaction is exported for pins versions other than ours.
.venv/pylate/ready: .venv/ready
	@$(INSTALL) --no-deps --upgrade --target .venv/pylate "pylate==1.6.0" \
		"sentence-transformers==5.3.0" "transformers==5.3.0" "tokenizers==0.22.2" "huggingface-hub==1.33.0" "datasets==5.2.0" \
		"multiprocess==0.70.19" "dill==0.4.0" "ujson==5.12.0"
	@touch $@

# Clients of the endpoint as others have them; what they need beside our own environment is left as their resolver chose it.
.venv/clients/ready: .venv/ready
	@$(INSTALL) --no-deps --upgrade --target .venv/clients "langchain-openai==1.7.4" "llama-index-embeddings-openai==0.7.0" \
		"llama-index-embeddings-openai-like==0.4.0" "langchain-core==1.8.3" "langchain-protocol==0.0.20" "langsmith==0.15.1" \
		"llama-index-core==0.14.25" "llama-index-instrumentation==0.6.0" "llama-index-workflows==2.26.1" "tiktoken==0.14.0" \
		"aiosqlite==0.22.1" "banks==2.5.1" "colorama==0.4.6" "dataclasses-json==0.6.7" "defusedxml==0.7.1" "deprecated==1.3.1" \
		"dirtyjson==1.0.8" "distro==1.9.0" "filetype==1.2.0" "greenlet==3.5.6" "griffe==2.4.1" "griffecli==2.4.1" "griffelib==2.4.1" \
		"marshmallow==3.26.2" "nest-asyncio==1.6.0" "nltk==3.10.4" "orjson==3.13.0" "requests-toolbelt==1.0.0" "tenacity==9.2.1" \
		"tinytag==2.3.2" "typing-inspect==0.9.0" "uuid-utils==0.19.0" "zstandard==0.25.0"
	@touch $@

# mteb, which measures encoders by its tasks, with what it needs beside our own environment.
.venv/mteb/ready: .venv/ready
	@$(INSTALL) --no-deps --upgrade --target .venv/mteb "mteb==2.26.24" "datasets==5.2.0" "dill==0.4.1" "multiprocess==0.70.19" \
		"polars==2.1.0" "polars-runtime-32==2.1.0"
	@touch $@

install: .venv/ready
	@echo "mirepoix is installed in .venv; type \`. .venv/bin/activate\`, then \`mirepoix init DIR\` or \`mirepoix --help\`"

demo: .venv/ready
	@$(BIN)/mirepoix demo quickstart

test: .venv/ready .venv/vision/ready .venv/pylate/ready .venv/clients/ready .venv/mteb/ready
	@$(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadgroup --no-loadscope-reorder

soak: .venv/ready
	@$(BIN)/python -m pytest -m soak

bench: .venv/ready .venv/vision/ready
	@$(BIN)/python bench/startup.py --check
	@$(BIN)/python bench/data.py --check
	@$(BIN)/python bench/memory.py --check
	@$(BIN)/python bench/search.py --check
	@$(BIN)/python bench/add.py --check
	@$(BIN)/python bench/deep_run.py --check
	@$(BIN)/python bench/training.py --check
	@$(BIN)/python bench/allocator.py --check
	@$(BIN)/python bench/serving.py --check

lint: .venv/ready
	@$(BIN)/ruff check .

format-check: .venv/ready
	@$(BIN)/ruff format --check .

# Type checkers do not follow mirepoix.py: they read the four folders linked below one package, as a wheel has them.
types: .venv/ready
	@mkdir -p .types/mirepoix
	@for each in package/__init__.py package/py.typed models serving components workflows; do ln -sfn "../../$$each" .types/mirepoix/; done
	@$(BIN)/mypy

# Writes the locks anew from what pyproject.toml asks for, by resolution alone, for every Python from 3.11 on: nothing is installed, and of
# the CUDA wheels only the metadata is read. Versions of requirements.lock stay where they fit, and the others take them over where they can;
# `make lock UPGRADE=--upgrade` takes the newest. From requirements.lock what torch wants of CUDA is left out: it is for machines without.
RESOLVE := .venv-lock/bin/uv pip compile pyproject.toml --universal --python-version 3.11 --fork-strategy fewest --no-annotate --no-header --quiet
RESOLVED_FOR := python_full_version < '3.14'|platform_machine == 'x86_64'|platform_python_implementation == 'CPython'|sys_platform == 'linux'
SHORTEN := sed -i -E "s/($(RESOLVED_FOR))( and )?//g; s/ and $$//; s/ ; $$//"

lock:
	@rm -rf .venv-lock && $(PYTHON) -m venv .venv-lock
	.venv-lock/bin/python -m pip install --quiet --disable-pip-version-check uv
	$(RESOLVE) $(UPGRADE) --extra cpu --extra dev --extra sentence-transformers --extra traces --output-file requirements.lock
	@$(SHORTEN) requirements.lock && sed -i -E '/^(cuda-|nvidia-|triton=)/d' requirements.lock
	@mkdir -p locks && for name in gpu gpu-cuda13 vllm; do cp requirements.lock locks/$$name.lock; done
	$(RESOLVE) --extra gpu --extra sentence-transformers --extra traces --extra mteb --output-file locks/gpu.lock
	$(RESOLVE) --extra gpu-cuda13 --extra sentence-transformers --extra traces --extra mteb --output-file locks/gpu-cuda13.lock
	$(RESOLVE) --extra gpu --extra vllm --output-file locks/vllm.lock
	@$(SHORTEN) locks/*.lock && rm -rf .venv-lock

clean:
	rm -rf .venv .types storage build dist *.egg-info
