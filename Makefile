# Every target makes what it needs in .venv first, so each works as the first command on a clone.
VENV ?= .venv
BIN := $(VENV)/bin
ARGS ?=
export VENV

.PHONY: help setup demo test oldest docs bench lint format clean

help: ## Say what there is
	@grep -E '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /\1\t/' | expand -t 10

setup: $(VENV)/.stamp-dev $(VENV)/.stamp-docs ## All that development needs, in .venv

demo: $(VENV)/.stamp-demo ## Train on digits: progress, figures, files in runs/digits (ARGS=--fresh)
	@$(BIN)/treadle demo $(ARGS)

test: $(VENV)/.stamp-dev ## The tests (ARGS="-k scan -x", ARGS="-n 0" for one process)
	@$(BIN)/python -m pytest -n auto --maxprocesses 4 $(ARGS)

oldest: ## The tests on the oldest versions that are supported, in .venv-oldest
	@$(MAKE) test VENV=.venv-oldest CONSTRAINTS=tools/oldest.txt

lint: $(VENV)/.stamp-dev ## Linter, formatter, type checker, import layers
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/pyright
	@$(BIN)/lint-imports

format: $(VENV)/.stamp-dev ## Mend what the linter and the formatter can mend
	@$(BIN)/ruff check --fix
	@$(BIN)/ruff format

docs: $(VENV)/.stamp-docs ## Build the site into site/, strictly
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

bench: $(VENV)/.stamp-bench ## All benchmarks against the peers (ARGS=--smoke for the smallest form)
	@$(BIN)/python -m benchmarks all $(ARGS)

clean: ## Remove .venv, the site and caches
	rm -rf .venv .venv-oldest site .pytest_cache .ruff_cache .import_linter_cache

# A stamp is as new as the last install with that extra; pyproject.toml makes it stale.
$(VENV)/.stamp-%: pyproject.toml tools/setup.sh
	@CONSTRAINTS=$(CONSTRAINTS) tools/setup.sh $*
	@touch $@
