# Everything starts from `make setup`, which every other target runs by itself when it is needed.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet
STAMP := $(VENV)/.installed
TOOLS := build/tools

.PHONY: setup demo test lint docs tutorials figures package verify fuzz torture audit lock release-check clean

setup: $(STAMP) ; @:

# The package itself is built with the locked setuptools, so nothing outside the lock is ever installed.
$(STAMP): torch.lock requirements.lock pyproject.toml
	@echo "installing into $(VENV) (minutes the first time)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@# torch first and alone: the largest download fails early, and the rest finds it installed.
	@$(PIP) -r torch.lock
	@$(PIP) --require-hashes -r requirements.lock
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
	@NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict
	@echo "open site/index.html"

# The tutorials run as notebooks, and their pages made of what came out.
tutorials: setup
	@$(BIN)/python docs/hooks/tutorials.py

# The pages' pictures (of MNIST, see verify), what commands print, and all parts that are made of code and files.
figures: setup
	@$(BIN)/python docs/hooks/figures.py
	@$(BIN)/python docs/hooks/outputs.py
	@$(BIN)/python docs/hooks/parts.py

# Built, installed into a fresh environment, used there; PYTHONS="python3.12 python3.13" tries others, all anew.
package: setup
	@$(BIN)/python -m tests.package $(PYTHONS)

# Every released network measured anew against its card: needs MNIST, $$WSRAM_DATA or ../shared/data/mnist, and of
# captions $$WSRAM_FLICKR8K and $$WSRAM_FEATURES.
verify: setup
	@$(BIN)/python -m tests.verify

# Every reader on thousands of damaged files; and where atheris is installed, on bytes that coverage chooses.
fuzz: setup
	@WSRAM_EXAMPLES=fuzz $(BIN)/python -m pytest -q tests/test_fuzz.py
	@if $(BIN)/python -c "import atheris" 2>/dev/null; then $(BIN)/python -m tests.guided -max_total_time=300; \
	else echo "atheris is not installed here, so no bytes were chosen by coverage: pip install atheris"; fi

# Fifty `kill -9` at random moments, of one process and of two; what is resumed must end like what never stopped.
torture: setup
	@$(BIN)/python -m tests.torture

# Known vulnerabilities of what the lock names, and its bill of materials, build/sbom.json; by tools of their own.
audit: $(TOOLS)
	@$(TOOLS)/bin/python tests/audit.py

# The hashes of every file of the versions that are installed; to choose others, install them into a fresh $(VENV) first.
lock: setup $(TOOLS)
	@{ grep '^#' requirements.lock; $(BIN)/python -m pip freeze --all --exclude pip --exclude wsram --exclude torch \
		| grep -Ev '^(cuda|nvidia|triton)' \
		| $(TOOLS)/bin/uv pip compile - --quiet --no-deps --generate-hashes --no-header --no-annotate; } > build/new.lock
	@mv build/new.lock requirements.lock

$(TOOLS):
	@$(PYTHON) -m venv $(TOOLS)
	@$(TOOLS)/bin/python -m pip --disable-pip-version-check install --quiet cyclonedx-bom pip-audit uv

release-check: lint test package tutorials docs verify
	@echo "now: version and date (CHANGELOG.md, CITATION.cff, pyproject.toml), a tag"

clean:
	rm -rf $(VENV) site build dist .pytest_cache .ruff_cache .mypy_cache .hypothesis src/*.egg-info
	find src tests docs -name __pycache__ -type d -prune -exec rm -rf {} +
