# Everything starts from `make setup`, which every other target runs by itself when it is needed.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet
STAMP := $(VENV)/.installed

.PHONY: setup demo test lint docs package verify release-check clean

setup: $(STAMP) ; @:

# The package itself is built with the locked setuptools, so nothing outside the lock is ever installed.
$(STAMP): requirements.lock pyproject.toml
	@echo "installing into $(VENV) (minutes the first time)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@# torch first and alone: the largest download fails early, and the rest finds it installed.
	@$(PIP) "$$(grep '^torch==' requirements.lock)"
	@$(PIP) -r requirements.lock
	@$(PIP) --no-deps --no-build-isolation -e .
	@touch $@

demo: setup
	@$(BIN)/wsram demo

test: setup
	@$(BIN)/python -m pytest -q -n 2 --dist loadgroup

lint: setup
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

docs: setup
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	@echo "open site/index.html"

# Built, installed into a fresh environment, used there; PYTHONS="python3.12 python3.13" tries others, all anew.
package: setup
	@$(BIN)/python -m tests.package $(PYTHONS)

# Every released network measured anew against its card: needs MNIST, $$WSRAM_DATA or ../shared/data/mnist.
verify: setup
	@$(BIN)/python -m tests.verify

release-check: lint test package docs verify
	@echo "now: version and date (CHANGELOG.md, CITATION.cff, pyproject.toml), a tag"

clean:
	rm -rf $(VENV) site build dist .pytest_cache .ruff_cache .mypy_cache .hypothesis src/*.egg-info
	find src tests docs -name __pycache__ -type d -prune -exec rm -rf {} +
