# make venv        the package and its test tools in .venv (does nothing when up to date)
# make quickstart  train, evaluate, export and check a real model, in minutes on a laptop
# make test        lint, types, layering, docs and the whole test suite
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
WORKDIR ?= workdirs/digits

.PHONY: venv quickstart test lint types layers docs unit format bench clean

venv: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "offsites_jax needs Python 3.11 or newer; say make PYTHON=python3.11")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[test,docs]'
	touch $@

quickstart: venv
	$(BIN)/python tools/quickstart.py --workdir $(WORKDIR)

test: lint types layers docs unit

lint: venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: venv
	$(BIN)/mypy

layers: venv
	$(BIN)/lint-imports

docs: venv
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet --site-dir site

unit: venv
	$(BIN)/python -m pytest --numprocesses 2 --dist worksteal

format: venv
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: venv
	for script in tools/bench/*.py; do $(BIN)/python $$script || exit 1; done

clean:
	rm -rf .cache site build dist .mypy_cache .ruff_cache .pytest_cache
