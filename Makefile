# Every target makes what it needs in .venv first, so each works as the first command on a clone.
BIN := .venv/bin
ARGS ?=

.PHONY: help setup demo test docs bench lint format clean

help: ## Say what there is
	@grep -E '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /\1\t/' | expand -t 10

setup: .venv/.stamp-dev .venv/.stamp-docs ## All that development needs, in .venv

demo: .venv/.stamp-demo ## Train on digits: progress, figures, files in runs/digits (ARGS=--fresh)
	@$(BIN)/treadle demo $(ARGS)

test: .venv/.stamp-dev ## The tests (ARGS="-k scan -x")
	@$(BIN)/python -m pytest $(ARGS)

lint: .venv/.stamp-dev ## Linter, formatter, type checker, import layers
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/pyright
	@$(BIN)/lint-imports

format: .venv/.stamp-dev ## Mend what the linter and the formatter can mend
	@$(BIN)/ruff check --fix
	@$(BIN)/ruff format

docs: .venv/.stamp-docs ## Build the site into site/, strictly
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

bench: .venv/.stamp-bench ## All benchmarks against the peers (ARGS=--smoke for the smallest form)
	@$(BIN)/python -m benchmarks all $(ARGS)

clean: ## Remove .venv, the site and caches
	rm -rf .venv site .pytest_cache .ruff_cache .import_linter_cache

# A stamp is as new as the last install with that extra; pyproject.toml makes it stale.
.venv/.stamp-%: pyproject.toml tools/setup.sh
	@tools/setup.sh $*
	@touch $@
