# Short names for what a contributor runs often. `make check` is what a change must pass.

export PYTHON ?= python3

.PHONY: help native check lint format types imports test slow docs wheel clean

help:
	@echo 'native   build the engine into src/earshot for work on the sources'
	@echo 'check    lint, types, import rules and tests'
	@echo 'format   rewrite the Python sources in the project style'
	@echo 'slow     the tests that take minutes (they train a small model)'
	@echo 'docs     the documentation site, into site/'
	@echo 'wheel    the wheel, into dist/'

native:
	scripts/build-native

check: lint types imports test

lint:
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .

format:
	$(PYTHON) -m ruff check --fix .
	$(PYTHON) -m ruff format .

types:
	$(PYTHON) -m mypy

imports:
	cd src && lint-imports --config ../pyproject.toml

test: native
	PYTHONPATH=src $(PYTHON) -m pytest

slow: native
	PYTHONPATH=src $(PYTHON) -m pytest -m slow

docs:
	$(PYTHON) -m mkdocs build --strict

wheel:
	$(PYTHON) -m pip wheel --no-deps --wheel-dir dist .

clean:
	rm -rf build dist site .mypy_cache .pytest_cache .ruff_cache .hypothesis src/earshot/_native*.so
