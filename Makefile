# Gesso. `make help` lists the targets; each is idempotent and sets up what it needs.
SHELL := bash
.DEFAULT_GOAL := help
.PHONY: help install run test lint screenshots up down airflow env images lock clean

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
DATASET ?=
PRESET ?=
PARAMS ?=
MARKS ?= not faults and not browser
VERSION := 0.1.0
VARIANT ?= trainer-cpu
export DATASET PRESET PARAMS

# Processes side by side whose BLAS threads spin until the other's turn come to a tenth of their speed.
test: export OPENBLAS_NUM_THREADS ?= 1

help:  ## this list
	@grep -hE '^[a-z%-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /|/' | awk -F'|' '{ printf "make %-18s %s\n", $$1, $$2 }'

install: $(READY)  ## make .venv and install the locked requirements

$(READY): requirements.txt requirements-dev.txt pyproject.toml
	@python3 -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || { echo "Gesso needs CPython 3.11 as python3; this is $$(python3 --version)."; exit 1; }
	@echo "Installing the locked requirements into $(VENV) (4.5 GB; once)…"
	@test -x $(BIN)/python || python3 -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	@$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python -r requirements.txt -r requirements-dev.txt
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --editable .
	@touch $@

run: $(READY)  ## run the workflow once: make run [DATASET=folder or s3://…] [PRESET=quick] [PARAMS='{"epochs": 5}']
	@$(BIN)/python -m include.run --dataset "$$DATASET" --preset "$$PRESET" --params "$$PARAMS"

# The tests of a file go to one worker, so that what they share is made once.
test: lint  ## lint, types and tests
	@$(BIN)/pytest -n 2 --dist loadfile -m "$(MARKS)"

lint: $(READY)  ## ruff and mypy alone
	@$(BIN)/ruff check --quiet . && $(BIN)/ruff format --quiet --check . && $(BIN)/mypy --no-error-summary

bench-%: $(READY)  ## a benchmark: make bench-separation DATA=folder with images/ and truth.csv
	@$(BIN)/python -m benchmarks.$* $(if $(DATA),--data "$(DATA)")

screenshots: $(READY)  ## take the pictures of the UI in docs/ui anew; wants chromium
	@$(BIN)/python -m tests.browser.screenshots docs/ui

up: $(READY)  ## start Airflow's UI, scheduler, DAG processor and triggerer on http://localhost:8080
	@$(BIN)/python -m include.serve up

down: $(READY)  ## stop what `make up` started
	@$(BIN)/python -m include.serve down

airflow: $(READY)  ## Airflow's command line for what `make up` started: make airflow RUN="dags list"
	@$(BIN)/python -m include.serve airflow $(RUN)

env:  ## make .env: the secrets that docker compose needs
	@python3 -m include.make_env .env

images:  ## build the images airflow and trainer-cpu; VARIANT=trainer: also the one with CUDA
	@for target in airflow trainer-cpu $(filter-out trainer-cpu,$(VARIANT)); do \
	  docker build --target $$target --tag gesso/$$target:$(VERSION) . || exit 1; done

lock: $(READY)  ## compile requirements*.in into requirements*.txt
	@$(BIN)/uv pip compile --quiet --no-header --no-annotate requirements.in --output-file requirements.txt
	@for name in dev trainer trainer-cuda; do $(BIN)/uv pip compile --quiet --no-header --no-annotate \
	  requirements-$$name.in --output-file requirements-$$name.txt || exit 1; done

clean:  ## remove .venv and all of .gesso: the store with its models, Airflow's database, passwords
	@$(BIN)/python -m include.serve down 2>/dev/null || true
	@rm -rf $(VENV) .gesso
