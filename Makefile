# Everything happens in .venv, which each target makes when it is missing or older than pyproject.toml.
PYTHON ?= python3
PYTEST_ARGS ?=
bin := .venv/bin
constraints := $(wildcard constraints.txt)

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL: # the targets share the engine and the terminal
.PHONY: help setup demo test lint clean

help: ## say what there is to make
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 10

setup: .venv/.made ## make .venv with call-ledger and its tools

# pip reports errors only: the line above it says what is going on.
.venv/.made: pyproject.toml $(constraints)
	@echo "setting up .venv: installing call-ledger and its tools takes a minute"
	@$(PYTHON) -m venv .venv
	@$(bin)/python -m pip install -qq --disable-pip-version-check $(addprefix -c ,$(constraints)) -e '.[dev]'
	@touch $@

demo: .venv/.made ## record calls in ./demo.db and look at them
	@scripts/with-engine scripts/demo

test: .venv/.made ## run the tests (PYTEST_ARGS="-k word" for some)
	@scripts/with-engine $(bin)/python -m pytest -n 3 --dist loadscope $(PYTEST_ARGS)

lint: .venv/.made ## check style, types and who imports whom
	$(bin)/ruff check
	$(bin)/ruff format --check
	$(bin)/mypy
	$(bin)/lint-imports

clean: ## remove all that make made
	rm -rf .venv build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	rm -f demo.db demo.db-wal demo.db-shm
	find . -name .git -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +
