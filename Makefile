# make help lists the targets. The environment in .venv is made, and made again when the pins change.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DATA ?= ../shared/realdata
REAL := .gazeflow/realdata
TARS := osie nus_scene nus_crowd tinyimagenet50

.DEFAULT_GOAL := help
.PHONY: help install demo trial test check servers system golden kill-loop clean

help: ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 14

install: $(STAMP) ## create .venv and install gazeflow with all it needs

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11), "gazeflow needs Python 3.11 or newer"'
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test]'
	@touch $@

demo: $(STAMP) ## the whole DAG on procedural data, about 4 minutes on 2 cores
	$(BIN)/gazeflow run demo.toml

trial: $(STAMP) ## the trial on real images, about an hour on 2 cores: make trial DATA=folder-of-tars
	@mkdir -p $(REAL)
	@for t in $(TARS); do \
	  test -f $(DATA)/$$t.tar || { echo "trial: $(DATA)/$$t.tar is missing; give DATA=<folder>"; exit 2; }; \
	  test -f $(REAL)/.$$t || { rm -rf $(REAL)/$$t && tar -xf $(DATA)/$$t.tar -C $(REAL) && touch $(REAL)/.$$t; } || exit 1; \
	done
	$(BIN)/gazeflow run trial.toml

test: $(STAMP) ## the tests that need no server and no other process tree
	$(BIN)/python -m pytest -m "not system"

CEPHS := .servers/ceph20/.built .servers/ceph16/.built
servers: $(CEPHS) ## build the S3 servers that make system tests against, each a minute, once

.servers/%/.built: tests/servers/build.sh
	tests/servers/build.sh $*

system: $(STAMP) ## the tests marked system: real servers (see make servers), whole runs, kill loops
	$(BIN)/python -m pytest -m system

check: $(STAMP) ## ruff, mypy, import-linter
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

golden: $(STAMP) ## record which code makes which result, after a change to a stage
	$(BIN)/python tests/golden/golden.py

kill-loop: $(STAMP) ## ten stores, each killed once at a random moment of the demo
	$(BIN)/python tests/benchmarks/kill_loop.py --runs 10

clean: ## remove what runs and tests left, the environment too
	rm -rf $(VENV) .gazeflow .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
