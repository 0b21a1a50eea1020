# Each target does all of its own set-up; an environment of your own is used with `make test VENV=path`.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DEMO_STAMP := $(VENV)/.installed-demo
OLDEST := .venv-oldest
WORKERS ?= 2

.PHONY: help demo test test-oldest check kernels chaos soak reference docs docs-serve clean

help:  ## show the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

$(STAMP): EXTRAS := dev
$(DEMO_STAMP): EXTRAS := demo
$(STAMP) $(DEMO_STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Propulsion needs Python 3.10 or newer: make PYTHON=python3.x ...")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[$(EXTRAS)]'
	touch $@

demo: $(DEMO_STAMP)  ## train the packaged MiniLM on sentences of docstrings, head only against Propulsion
	HF_HUB_OFFLINE=1 $(BIN)/propulsion demo

test: $(STAMP)  ## run the whole suite, without network
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -q -n 2

$(OLDEST)/.installed: pyproject.toml constraints-oldest.txt
	test -x $(OLDEST)/bin/python || $(PYTHON) -m venv $(OLDEST)
	$(OLDEST)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints-oldest.txt -e '.[test]'
	touch $@

test-oldest: $(OLDEST)/.installed  ## run the fast tests with the oldest versions that we allow (7 GB, Python 3.11)
	HF_HUB_OFFLINE=1 $(OLDEST)/bin/python -m pytest -q -n $(WORKERS) -m 'not slow'

kernels: $(STAMP)  ## run the Triton kernels in Triton's interpreter, without a GPU (installs Triton, 1 GB)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,kernels]'
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -q tests/propulsion/test_kernels.py -k interpreter

check: $(STAMP)  ## lint, types, import rules, spelling, the site, the fast tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/codespell
	$(BIN)/mkdocs build --strict --quiet
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -q -n 2 -m 'not slow'

chaos: $(STAMP)  ## feed a million damaged and hostile files to what reads a user's files (ten minutes)
	$(BIN)/python benchmarks/fuzz.py --inputs 1000000 --output benchmarks/results/fuzz.json

soak: $(STAMP)  ## 64 clients against a server while adapters come and go (ten minutes)
	$(BIN)/python benchmarks/soak.py --minutes 10

reference: $(STAMP)  ## write docs/cli.md and docs/architectures.md, which tests compare with the code
	$(BIN)/python -m propulsion_tools.cli.reference > docs/cli.md
	$(BIN)/python -m website.architectures > docs/architectures.md

docs: $(STAMP)  ## build the documentation as a site, in site/
	$(BIN)/mkdocs build --strict

docs-serve: $(STAMP)  ## show the site at http://127.0.0.1:8000 while you write it
	$(BIN)/mkdocs serve

clean:  ## remove the environment and what the tools left
	rm -rf $(VENV) $(OLDEST) .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist site src/*.egg-info
