# A fresh machine needs python3 (3.10 or newer) with venv, make and pip:
#   make quickstart    a real classifier, its learning rate found
#   make test          the whole suite
# Every target sets up .venv by itself, once; pyproject.toml is what makes it stale.

PYTHON ?= python3
VENV ?= .venv
RUN := $(VENV)/bin/python

.DEFAULT_GOAL := help
.PHONY: help quickstart test lint types docs examples bench clean
# A recipe that fails leaves no stamp behind.
.DELETE_ON_ERROR:

help:
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "%-12s %s\n", $$1, $$2 }' Makefile

$(RUN):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Expected Python 3.10 or newer, got " + sys.version.split()[0] + ". Name one: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv $(VENV)

# $(RUN) is order-only: a newer interpreter link does not make what is installed stale.
$(VENV)/.ready-%: pyproject.toml | $(RUN)
	$(RUN) -m pip install --disable-pip-version-check --quiet --editable ".[$*]"
	@touch $@

quickstart: $(VENV)/.ready-examples ## train a real classifier with a found learning rate
	$(RUN) examples/quickstart.py

test: $(VENV)/.ready-dev ## run the suite: tests, doctests, README and docs snippets
	$(RUN) -m pytest --numprocesses=2 --dist=worksteal

lint: $(VENV)/.ready-dev ## check rules and format
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .

types: $(VENV)/.ready-dev ## check types, strictly
	$(RUN) -m mypy

docs: $(VENV)/.ready-dev ## build the documentation, strictly, into site/
	NO_MKDOCS_2_WARNING=1 $(RUN) -m mkdocs build --strict --quiet

examples: $(VENV)/.ready-dev ## run every example
	@set -e; for example in examples/[!_]*.py; do echo "$$example"; $(RUN) "$$example"; done

bench: $(VENV)/.ready-bench ## measure beside the peers and write the results into docs/
	$(RUN) -m benchmarks

clean: ## remove what the targets made
	rm -rf $(VENV) site build dist .mypy_cache .pytest_cache .ruff_cache
