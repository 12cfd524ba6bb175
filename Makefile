# Needs python3 (3.10 or newer) with venv, make and pip:
#   make quickstart    train a classifier with a found learning rate
#   make test          run all tests
# Every target creates .venv if it is missing, and updates it when pyproject.toml changes.

PYTHON ?= python3
VENV ?= .venv
RUN := $(VENV)/bin/python

.DEFAULT_GOAL := help
.PHONY: help quickstart test gpu lint types docs examples bench clean
# A failed recipe leaves no stamp.
.DELETE_ON_ERROR:

help:
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "%-12s %s\n", $$1, $$2 }' Makefile

$(RUN):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Expected Python 3.10 or newer, got " + sys.version.split()[0] + ". Name one: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv $(VENV)

# $(RUN) is order-only: a newer link to the interpreter does not cause a new installation.
$(VENV)/.ready-%: pyproject.toml | $(RUN)
	$(RUN) -m pip install --disable-pip-version-check --quiet --editable ".[$*]"
	@touch $@

quickstart: $(VENV)/.ready-examples ## train a classifier with a found learning rate
	$(RUN) examples/quickstart.py

test: $(VENV)/.ready-dev ## run tests, doctests, and the code of README and docs
	$(RUN) -m pytest --numprocesses=2 --dist=worksteal

gpu: $(VENV)/.ready-dev ## run the tests and benchmarks that need a CUDA device, and write the results to docs/
	$(RUN) -m pytest -m gpu --accelerator-json docs/benchmarks/accelerator.json
	$(RUN) -m benchmarks.accelerator_report

lint: $(VENV)/.ready-dev ## check lint rules and format
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .

types: $(VENV)/.ready-dev ## check types
	$(RUN) -m mypy

docs: $(VENV)/.ready-dev ## build the documentation into site/; warnings are errors
	NO_MKDOCS_2_WARNING=1 $(RUN) -m mkdocs build --strict --quiet

examples: $(VENV)/.ready-dev ## run every example
	@set -e; for example in examples/[!_]*.py; do echo "$$example"; $(RUN) "$$example"; done

bench: $(VENV)/.ready-bench ## compare with other libraries and write the results to docs/
	$(RUN) -m benchmarks

clean: ## remove everything that the targets create
	rm -rf $(VENV) site build dist .mypy_cache .pytest_cache .ruff_cache
