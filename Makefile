# `make app` runs the page, `make test` runs every test; each sets up .venv by itself.
SHELL := /bin/bash
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
EMULATOR := .emulator/hf_endpoints_emulator
JS_CLIENT := 2.7.0
UV := $(VENV)/bin/uv pip install --quiet --compile-bytecode --python $(VENV)/bin/python

.PHONY: help app test lint audit tour screenshot bench model lock clean
.DEFAULT_GOAL := help

help:  ## this list
	@grep -E '^[a-z]+:.*##' Makefile | sed -E 's/:.*## /\t/' | expand -t 8

app: $(VENV)/.app  ## run the page on the bundled model, http://127.0.0.1:7860
	$(VENV)/bin/python app.py

test: $(VENV)/.dev $(VENV)/.chromium $(EMULATOR) .node/$(JS_CLIENT)  ## run every test
	$(VENV)/bin/python -m pytest -n 2 --dist loadfile

lint: $(VENV)/.dev  ## ruff and mypy
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

audit: $(VENV)/.dev  ## look the pinned packages up among the known vulnerabilities
	$(VENV)/bin/python .ci/audit.py requirements.txt requirements-dev.txt

tour: $(VENV)/.dev  ## run examples/tour.ipynb anew and keep its results in it
	$(VENV)/bin/jupyter execute --inplace examples/tour.ipynb

screenshot: $(VENV)/.chromium  ## take docs/page.jpg, the README's picture of the page, anew
	$(VENV)/bin/python -m docs.screenshot

bench: $(VENV)/.dev  ## what an answer and its overlay cost, against plain Captum
	$(VENV)/bin/python benchmarks/saliency.py

# Seeds side by side, a core each, are nearly twice as fast as one after the other on all cores; and so is memory that
# is kept instead of being given back to the system after every step.
DATA =
INIT = imagenet
RUN = runs/model
SEEDS = 0 1
JOBS = 1
ORIGINALS =
model: $(VENV)/.dev  ## train the bundled model anew: make model DATA='DIR DIR' [INIT=FILE] [JOBS=2, on a CPU as many as cores] [ORIGINALS=CSV]
	@test -n "$(DATA)" || { echo "make model: give DATA='DIR ...', folders in the layout of Kaggle's chest_xray"; exit 2; }
	export MALLOC_MMAP_THRESHOLD_=4294967296 MALLOC_TRIM_THRESHOLD_=8589934592 $(if $(filter-out 1,$(JOBS)),OMP_NUM_THREADS=1); \
	printf '%s\n' $(SEEDS) | xargs -P $(JOBS) -I{} bash -c 'if [ -e $(RUN)/seed-{}/config.json ]; then flags=--resume; \
		else flags="--data $(DATA) --init $(INIT) --seed {} --no-calibrate"; fi; \
		exec $(VENV)/bin/python -m train.fit --out $(RUN)/seed-{} --workers 1 $$flags'
	$(VENV)/bin/python -m train.average $(SEEDS:%=$(RUN)/seed-%) --out $(RUN)
	$(VENV)/bin/python -m train.evaluate $(RUN)/bundle --data $(DATA) $(if $(ORIGINALS),--originals $(ORIGINALS))

lock: $(VENV)/bin/uv  ## pin requirements.txt (the Space) and requirements-dev.txt (training and tests) anew
	$(VENV)/bin/uv pip compile --quiet --upgrade --no-emit-index-url --python-version 3.11 --universal \
		--extra app -o requirements.txt pyproject.toml
	$(VENV)/bin/uv pip compile --quiet --no-emit-index-url --python-version 3.11 --universal \
		--extra dev -c requirements.txt -o requirements-dev.txt pyproject.toml

clean:  ## remove .venv and caches
	rm -rf $(VENV) .emulator .node .mypy_cache .ruff_cache .pytest_cache build *.egg-info

$(VENV)/bin/uv:
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet uv

$(VENV)/.app: requirements.txt pyproject.toml | $(VENV)/bin/uv
	$(UV) -r requirements.txt -e .
	touch $@

$(VENV)/.dev: requirements-dev.txt pyproject.toml | $(VENV)/bin/uv
	$(UV) -r requirements-dev.txt -e '.[dev]'
	touch $@ $(VENV)/.app

# The system's Chromium if there is one; else Debian's package for root, else the build that Playwright brings.
$(VENV)/.chromium: $(VENV)/.dev
	command -v chromium chromium-browser google-chrome >/dev/null \
		|| { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && apt-get update -qq && apt-get install -qq -y chromium >/dev/null; } \
		|| $(VENV)/bin/python -m playwright install --with-deps chromium
	touch $@

# An Inference Endpoint for the tests of handler.py: on the packages in .venv, but for the older Starlette it needs.
$(EMULATOR): | $(VENV)/.dev
	$(UV) --no-deps --target .emulator hf-endpoints-emulator==0.1.1 starlette==0.46.2

# Gradio's client for the JavaScript in README.md; where there is no npm, the test of it is skipped.
.node/$(JS_CLIENT):
	if command -v npm >/dev/null; then npm install --prefix .node --no-save --no-package-lock --ignore-scripts --no-audit \
		--no-fund --loglevel=error @gradio/client@$(JS_CLIENT) && touch $@; fi
