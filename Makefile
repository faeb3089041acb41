# Everything runs from an environment that is built from requirements/dev.txt: wheels only, each with its hash.
# `make` alone lists the targets.

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-builtin-rules

# The first Python that is new enough; `make PYTHON=/path/to/python demo` chooses another.
PYTHON ?= $(shell for python in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$python; break; }; done)

# Files of tests that run at once.
JOBS ?= auto

# `make VENV=.venv-3.13 PYTHON=python3.13 test` tests on another Python, beside the usual environment.
VENV ?= .venv
BIN := $(VENV)/bin
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check
LOCKED := --no-deps --require-hashes --only-binary :all:
UV := .venv-lock/bin/uv
COMPILE = $(UV) pip compile pyproject.toml --quiet --no-header --universal --python-version 3.11 \
	--generate-hashes --no-emit-index-url --no-emit-find-links $(UPGRADE)

.PHONY: help $(VENV) demo test test-deps check format soak bench lock clean

help:  ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1\t\2/p' $(MAKEFILE_LIST) | expand -t 12

$(VENV): $(VENV)/.installed  ## the environment, from the hashed lock

demo: $(VENV)  ## the main job on the real model
	$(BIN)/ksi demo

test-deps: $(VENV)  ## what the tests need beyond .venv: TypeScript and a parser of AsyncAPI (npm), PostgreSQL (apt)
	@command -v npm >/dev/null && $(MAKE) -s $(VENV)/node/.installed || \
		echo "test-deps: no npm, or nothing to install from: the tests that need it are skipped"
	@ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || command -v initdb >/dev/null || \
		DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends postgresql >/dev/null 2>&1 || \
		echo "test-deps: no PostgreSQL, and not root on a Debian that could install it: its tests are skipped"

test: $(VENV)  ## all tests but the long ones; ARGS=… goes to pytest, JOBS=0 runs one after the other
	$(BIN)/python -m pytest --numprocesses $(JOBS) --dist loadfile $(ARGS)

soak: $(VENV)  ## the long tests: kills and power loss by the hundred
	$(BIN)/python -m pytest -m soak --timeout 3600 $(ARGS)

check: $(VENV)  ## format, lint, types, floors, docs
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/python tools/check_docs.py

format: $(VENV)  ## let ruff format and fix what it can
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(VENV)/.bench  ## the speed table beside its peers; ARGS="wire store" chooses rows
	$(BIN)/ksi bench $(ARGS)

lock: $(UV)  ## regenerate requirements/*.txt; UPGRADE=--upgrade takes newer releases
	$(COMPILE) --extra dev -o requirements/dev.txt
	$(COMPILE) --extra local -c requirements/dev.txt -o requirements/demo.txt
	$(COMPILE) --extra bench -c requirements/dev.txt -o requirements/bench.txt

clean:  ## remove what was built here; homes and the model's cache stay
	rm -rf .venv .venv-* build dist .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	find src tests tools examples -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true

# The stamp is a copy of the lock, so a checkout that only touches the file rebuilds nothing.
$(VENV)/.locked: requirements/dev.txt
	@$(or $(PYTHON),false) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
		{ echo "KSI needs Python 3.11 or later: make PYTHON=/path/to/python"; exit 1; }
	@cmp -s $< $@ || { echo "building $(VENV) from $< (wheels, about 100 MB)"; $(PYTHON) -m venv --clear $(VENV) && $(PIP_INSTALL) $(LOCKED) -r $<; }
	@cp $< $@

$(VENV)/.installed: $(VENV)/.locked pyproject.toml
	@$(PIP_INSTALL) --no-deps --no-build-isolation --no-index -e .
	@touch $@

# Scripts of packages are not run: none of these needs one.
$(VENV)/node/.installed: tests/codegen/node/package-lock.json tests/codegen/node/package.json
	@mkdir -p $(@D) && cp $^ $(@D)
	@cd $(@D) && npm ci --ignore-scripts --no-audit --no-fund --silent
	@touch $@

$(VENV)/.bench: requirements/bench.txt $(VENV)/.installed
	$(PIP_INSTALL) $(LOCKED) -r $<
	@touch $@

$(UV):
	@$(PYTHON) -m venv .venv-lock
	@.venv-lock/bin/python -m pip install --quiet --only-binary :all: uv==0.13.9
