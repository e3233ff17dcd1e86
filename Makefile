# make demo   the whole way on images that come with the installation
# make test   style, types and tests: what is checked before a change lands
# make all    the same with the slow tests and four times as many examples, before a release
# make site   the documents as a site, in site/: fails for a broken link
# make dist   wheel and source distribution, in dist/
# make lock   renew the pinned versions after pyproject.toml changed

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
SITE := $(VENV)/site
COMPILE := $(BIN)/uv pip compile --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --no-annotate --no-header --quiet

.PHONY: demo test all fast lint format site dist lock clean

demo: $(READY)
	$(BIN)/masktas demo --out masktas-demo

test: lint
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "not slow"

all: lint site
	$(BIN)/python -m pytest -n 2 --dist worksteal --hypothesis-profile thorough

fast: $(READY)
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "not e2e and not slow"

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Zensical replaces mkdocs-material, which is maintained until May 2027: both build the site.
site: $(SITE)/.ready
	NO_MKDOCS_2_WARNING=1 $(SITE)/bin/mkdocs build --strict --quiet
	$(SITE)/bin/zensical build --strict

$(SITE)/.ready: requirements-docs.lock
	$(PYTHON) -m venv --clear $(SITE)
	$(SITE)/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-docs.lock
	@touch $@

dist: $(READY)
	rm -rf dist
	$(BIN)/python -m hatchling build --directory dist

# Pinned versions with hashes, installed by uv, itself pinned, into an environment of our own.
$(READY): requirements.lock requirements-uv.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "masktas needs Python 3.11 or newer; name one with: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || \
		{ rm -rf $(VENV); echo "Python's venv module is missing; on Debian: apt-get install python3-venv"; exit 2; }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-uv.lock
	$(BIN)/uv pip sync --quiet --require-hashes requirements.lock --python $(BIN)/python
	$(BIN)/uv pip install --quiet --no-deps --no-build-isolation --editable . --python $(BIN)/python
	@touch $@

lock: $(READY)
	$(COMPILE) pyproject.toml --extra dev --output-file requirements.lock --upgrade
	$(COMPILE) --group docs --output-file requirements-docs.lock --upgrade
	printf 'uv\n' | $(COMPILE) - --output-file requirements-uv.lock --upgrade

clean:
	rm -rf $(VENV) masktas-demo site dist
