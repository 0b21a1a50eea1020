# Each target does all of its own set-up; an environment of your own is used with `make test VENV=path`.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DEMO_STAMP := $(VENV)/.installed-demo
OLDEST := .venv-oldest
RELEASE := .venv-release
INSTALLED := .venv-installed
PROGRAMS := .venv-integrations
PINS ?= constraints.txt
WORKERS ?= 2

.PHONY: help demo test test-oldest check kernels integrations chaos soak dist sbom audit coverage mutants reference docs docs-serve clean

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

kernels: $(STAMP)  ## run the Triton kernels in its interpreter and compile them, without a GPU (installs Triton, 1 GB)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,kernels]'
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -q tests/propulsion/test_kernels.py tests/propulsion/test_triton_launch.py \
		-k 'interpreter or compiles or test_triton_launch'

$(PROGRAMS)/.installed: pyproject.toml constraints.txt constraints-integrations.txt
	test -x $(PROGRAMS)/bin/python || $(PYTHON) -m venv $(PROGRAMS)
	$(PROGRAMS)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test,kernels]'
	$(PROGRAMS)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -r constraints-integrations.txt
	touch $@

integrations: $(PROGRAMS)/.installed  ## run the plug-ins in axolotl, ms-swift and LLaMA-Factory themselves (7 GB)
	HF_HUB_OFFLINE=1 $(PROGRAMS)/bin/python -m pytest -q tests/propulsion/integrations

check: $(STAMP)  ## lint, types, import rules, spelling, the site, the fast tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/codespell
	$(BIN)/mkdocs build --strict --quiet
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -q -n 2 -m 'not slow'

chaos: $(STAMP)  ## read a million hostile files, kill a thousand runs, damage what they left (an hour)
	$(BIN)/python benchmarks/fuzz.py --inputs 1000000 --output benchmarks/results/fuzz.json
	HF_HUB_OFFLINE=1 $(BIN)/python benchmarks/chaos.py --trials 1400 --output benchmarks/results/chaos.json
	$(BIN)/python benchmarks/reliability.py

$(RELEASE)/.installed:
	test -x $(RELEASE)/bin/python || $(PYTHON) -m venv $(RELEASE)
	$(RELEASE)/bin/python -m pip install --quiet --disable-pip-version-check build cyclonedx-bom pip-audit
	touch $@

dist: $(RELEASE)/.installed  ## build wheel and sdist, and try the wheel in an empty environment (PINS=constraints-oldest.txt)
	rm -rf dist build src/*.egg-info $(INSTALLED)
	$(RELEASE)/bin/python -m build --outdir dist .
	$(RELEASE)/bin/python -m build --wheel --outdir build/from-tree .
	$(RELEASE)/bin/python release/contents.py dist build/from-tree
	$(PYTHON) -m venv --without-pip $(INSTALLED)
	$(RELEASE)/bin/python -m pip --python $(INSTALLED)/bin/python install --quiet --disable-pip-version-check \
		-c $(PINS) "$$(echo dist/*.whl)[train]"
	$(INSTALLED)/bin/python -I release/smoke.py

$(INSTALLED)/bin/propulsion:
	$(MAKE) dist

sbom: $(INSTALLED)/bin/propulsion  ## list what `make dist` installed as a CycloneDX SBOM, dist/sbom.json
	$(RELEASE)/bin/cyclonedx-py environment --pyproject pyproject.toml --output-reproducible \
		--output-file dist/sbom.json $(INSTALLED)/bin/python

audit: $(INSTALLED)/bin/propulsion  ## ask for known vulnerabilities of what `make dist` installed (needs the network)
	mkdir -p build
	$(RELEASE)/bin/python -m pip --python $(INSTALLED)/bin/python freeze --exclude propulsion-peft \
		| sed 's/+.*//' > build/installed.txt  # torch 2.13.0+cpu is known as 2.13.0
	$(RELEASE)/bin/pip-audit --strict --no-deps --disable-pip --progress-spinner off -r build/installed.txt

coverage: $(STAMP)  ## run the whole suite and say which lines of src no test runs (installs Triton, 1 GB)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,kernels]'
	$(BIN)/coverage erase
	HF_HUB_OFFLINE=1 $(BIN)/coverage run -m pytest -q -n $(WORKERS)
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report --include='src/propulsion/*' --format=total --fail-under=98
	$(BIN)/coverage report --show-missing --skip-covered --fail-under=92

mutants: $(STAMP)  ## mutate the gains and the poolings, and list the mutants that no test notices (half an hour, and Triton)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,kernels]'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check 'mutmut>=3.8,<4'
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 TRITON_INTERPRET=1 $(BIN)/mutmut run
	$(BIN)/mutmut results

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
	rm -rf $(VENV) $(OLDEST) $(RELEASE) $(INSTALLED) $(PROGRAMS) mutants .coverage* .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist site src/*.egg-info
