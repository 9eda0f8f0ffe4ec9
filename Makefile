# Every target first sets up what it needs in $(VENV), and needs only make and Python from 3.10 on with
# venv and pip. Nothing is installed or set outside this folder. `make test VENV=path` uses another
# environment.

VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
# One file per set of extras, newer than pyproject.toml when that set is installed.
CORE := $(VENV)/.installed-core
BOOK := $(VENV)/.installed-book
DEV := $(VENV)/.installed-dev
BASELINES := $(VENV)/.installed-baselines

SUITABLE := import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 10))

.PHONY: help demo test lint lab book site tables links clean

help:
	@echo 'make demo    a photo through the codec and back, beside JPEG, WebP and AVIF'
	@echo 'make test    all tests, notebooks included'
	@echo 'make lab     the notebooks in JupyterLab'
	@echo 'make book    the book, in _build/html'
	@echo 'make lint    ruff, types, and who imports whom'
	@echo 'make site    the book, then every page of it opened in a browser'
	@echo 'make tables  tables, figures and the numbers in README, book and cards, from results/'
	@echo 'make links   REPO=owner/name: carry the address of the repository to where it is used'
	@echo 'make clean   remove what was built; the environment $(VENV) and runs/ stay'

demo: $(CORE)
	$(BIN)/blurlib demo --force

test: $(DEV)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder \
	  -m 'not site' --nbval-lax --nbval-current-env tests notebooks

lint: $(DEV)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/mypy

lab: $(BOOK)
	$(BIN)/jupyter lab notebooks/00_quickstart.ipynb

# --all: Sphinx says nothing about pages that it does not build again.
book: $(BOOK)
	$(BIN)/jupyter-book build . --toc book/_toc.yml --all -W --keep-going
	for page in notebooks/*.ipynb; do test -s _build/html/$${page%.ipynb}.html || exit 1; done

tables: $(BASELINES)
	$(BIN)/python tools/tables.py
	$(BIN)/python tools/sheets.py
	$(BIN)/python tools/front.py

# In Chromium, without a network; skipped where there is no browser.
site: $(DEV) book
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -rs tests/test_site.py

links: | $(BIN)/python
	@test -n '$(REPO)' || { echo 'make links: say which repository, as in REPO=owner/name' >&2; exit 2; }
	$(BIN)/python tools/links.py --set '$(REPO)'

clean:
	rm -rf _build build dist demo *.egg-info .pytest_cache .mypy_cache .ruff_cache
	find blurlib tests tools notebooks experiments -name __pycache__ -prune -exec rm -rf {} +

$(CORE): pyproject.toml | $(BIN)/python
	$(PIP) install -e .
	@touch $(CORE)

$(BOOK): pyproject.toml | $(BIN)/python
	$(PIP) install -e '.[book]'
	@touch $(BOOK) $(CORE)

$(DEV): pyproject.toml | $(BIN)/python
	$(PIP) install -e '.[dev,baselines]'
	@touch $(DEV) $(BOOK) $(BASELINES) $(CORE)

$(BASELINES): pyproject.toml | $(BIN)/python
	$(PIP) install -e '.[baselines]'
	@touch $(BASELINES) $(CORE)

# Each name is tried by running it: a version manager's stub exists without its Python.
$(BIN)/python:
	@for python in python3 python3.14 python3.13 python3.12 python3.11 python3.10; do \
	  if $$python -c '$(SUITABLE)' 2>/dev/null; then \
	    echo "$$python -m venv $(VENV)"; exec $$python -m venv $(VENV); \
	  fi; \
	done; \
	echo 'make: found no Python from 3.10 on that has venv and pip; install one of them' >&2; \
	exit 1
