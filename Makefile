# `make app` runs the page, `make check` tests a change in about a minute, `make test` runs every test. Each sets up .venv first.
SHELL := /bin/bash
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
EMULATOR := .emulator/hf_endpoints_emulator
NODE := node_modules/.package-lock.json
COMPILE ?= --compile-bytecode
UV := $(BIN)/uv pip install $(COMPILE) --python $(BIN)/python

.PHONY: help app check tools test lint docs figures screenshot tour model bench audit lock clean
.DEFAULT_GOAL := help

help:  ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-11s %s\n", $$1, $$2 }' Makefile

app: $(VENV)/.app  ## page and API on the bundled model, http://127.0.0.1:7860
	$(BIN)/python app.py

check: lint  ## before a commit: lint, types and the quick tests, about a minute
	$(BIN)/python -m pytest tests/unit -q -n 2 -m "not slow"
	@if [ -e $(NODE) ]; then npm test --silent; fi

tools: $(VENV)/.dev $(VENV)/.chromium $(EMULATOR) $(NODE)  ## all that the tests need

test: tools  ## every test, in Chromium too
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder  # the slow folders come first
	@if [ -e $(NODE) ]; then npm test --silent; fi

lint: $(VENV)/.dev $(NODE)  ## ruff and mypy; eslint and TypeScript's checks of web/
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	@if [ -e $(NODE) ]; then npm run lint --silent; fi

docs: $(VENV)/.dev  ## documentation as a site in site/; warnings are errors
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

figures: $(VENV)/.dev  ## figures of README and docs/ anew, from model/ and benchmarks/
	$(BIN)/python -m docs.figures

screenshot: $(VENV)/.chromium  ## picture of the page anew, for README and docs/
	$(BIN)/python -m docs.screenshot

tour: $(VENV)/.dev  ## run examples/tour.ipynb anew and keep its results in it
	$(BIN)/jupyter execute --inplace examples/tour.ipynb

# Two seeds in parallel with one core each take half the time of two seeds one after the other with all cores. The
# MALLOC settings keep memory in the process between steps, which is faster still.
DATA =
MASKS =
INIT = imagenet
FLAGS =
RUN = runs/model
SEEDS = 0 1
JOBS = 1
ORIGINALS =
SOURCES = --data $(DATA) $(if $(MASKS),--masks $(MASKS))
model: $(VENV)/.dev  ## train a model: make model DATA='DIR DIR' [MASKS=DIR] [INIT=FILE] [FLAGS=...] [JOBS=cores]
	@test -n "$(DATA)" || { echo "make model: give DATA='DIR ...', folders in the layout of Kaggle's chest_xray"; exit 2; }
	export MALLOC_MMAP_THRESHOLD_=4294967296 MALLOC_TRIM_THRESHOLD_=8589934592 $(if $(filter-out 1,$(JOBS)),OMP_NUM_THREADS=1); \
	printf '%s\n' $(SEEDS) | xargs -P $(JOBS) -I{} bash -c 'if [ -e $(RUN)/seed-{}/config.json ]; then flags=--resume; \
		else flags="$(SOURCES) --init $(INIT) --seed {} --no-calibrate $(FLAGS)"; fi; \
		exec $(BIN)/python -m train.fit --out $(RUN)/seed-{} --workers 1 $$flags'
	$(BIN)/python -m train.average $(SEEDS:%=$(RUN)/seed-%) --out $(RUN)
	$(BIN)/python -m train.evaluate $(RUN)/bundle $(SOURCES) $(if $(ORIGINALS),--originals $(ORIGINALS))

bench: $(VENV)/.dev  ## measure starts, networks and maps; benchmarks/report.md
	$(BIN)/python -m benchmarks

audit: $(VENV)/.dev  ## look for known vulnerabilities of the pinned packages
	$(BIN)/python .ci/audit.py requirements.txt requirements-dev.txt

lock: $(BIN)/uv  ## pin requirements.txt (product) and requirements-dev.txt (training, tests, docs) anew
	$(BIN)/uv pip compile --quiet $(LOCK) --no-emit-index-url --python-version 3.11 --universal \
		-o requirements.txt pyproject.toml
	$(BIN)/uv pip compile --quiet --no-emit-index-url --python-version 3.11 --universal \
		--extra dev -c requirements.txt -o requirements-dev.txt pyproject.toml
LOCK = --upgrade

clean:  ## remove .venv, node_modules, built files and caches
	rm -rf $(VENV) .emulator node_modules .mypy_cache .ruff_cache .pytest_cache build site *.egg-info

# PyTorch's wheels.  cpu: from PyTorch's own index, without CUDA, 1.9 GB installed in all.  pypi: from PyPI, on Linux with
# CUDA, 5.9 GB in all.  auto: uv's choice for this machine's GPU, and pypi where PyTorch's index cannot be reached.
# The pins are constraints, not requirements: they list CUDA's packages, which the wheels for a CPU do not need.
TORCH = auto
define install
	@torch=$(TORCH); if [ $$torch = auto ] && ! UV_HTTP_RETRIES=1 $(UV) --quiet --dry-run --reinstall-package torch \
		--torch-backend auto -c $(1) torch torchvision 2>/dev/null; then \
		echo "PyTorch's package index cannot be reached: using PyPI's wheels (TORCH=pypi)."; torch=pypi; fi; \
	echo "Installing $(2) into $(VENV) with PyTorch for '$$torch': up to 1.9 GB for a CPU, 5.9 GB with CUDA. TORCH=cpu, TORCH=pypi or TORCH=auto decides."; \
	if [ $$torch = pypi ]; then set --; else set -- --torch-backend $$torch; fi; $(UV) "$$@" -c $(1) -e '$(2)'
endef

$(BIN)/uv:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet uv

$(VENV)/.app: requirements.txt pyproject.toml setup.py | $(BIN)/uv
	$(call install,requirements.txt,.)
	@touch $@

$(VENV)/.dev: requirements-dev.txt pyproject.toml setup.py | $(BIN)/uv
	$(call install,requirements-dev.txt,.[dev])
	@touch $@ $(VENV)/.app

# The system's Chromium if there is one; else Debian's package for root, else the build that Playwright brings.
$(VENV)/.chromium: $(VENV)/.dev
	command -v chromium chromium-browser google-chrome >/dev/null \
		|| { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && apt-get update -qq && apt-get install -qq -y chromium >/dev/null; } \
		|| $(BIN)/python -m playwright install --with-deps chromium
	touch $@

# An Inference Endpoint for the tests of handler.py. It runs on the packages in .venv, except for the older Starlette.
$(EMULATOR): | $(VENV)/.dev
	$(UV) --quiet --no-deps --target .emulator hf-endpoints-emulator==0.1.1 starlette==0.46.2

# Tools for JavaScript. Without npm their checks are left out, except where CI is set.
$(NODE): package.json package-lock.json
	@command -v npm >/dev/null || { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null \
		&& apt-get update -qq && apt-get install -qq -y nodejs npm >/dev/null; } || true
	@if command -v npm >/dev/null; then npm ci --ignore-scripts --no-audit --no-fund --loglevel=error && touch $@; \
	else echo "npm is missing: JavaScript is neither checked nor tested. Install Node.js 20.19 or newer."; test -z "$$CI"; fi
