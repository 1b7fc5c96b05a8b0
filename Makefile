# FleetOps has two commands: `make up` runs it, `make test` tests it. Settings: docs/settings.md.

# The first of these that is 3.11 or newer; PYTHON=/path/to/python make up chooses another.
PYTHON ?= $(shell for name in python3 python3.14 python3.13 python3.12 python3.11; do \
	command -v $$name >/dev/null 2>&1 && $$name -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	&& { command -v $$name; break; }; done)
VENV := .venv/bin

.DEFAULT_GOAL := help
.PHONY: help up test test-long lint build clean python

help:
	@echo "make up         start FleetOps on this machine: http://127.0.0.1:8080"
	@echo "make test       run the tests (ARGS='tests/wire -x' chooses some)"
	@echo "make test-long  run the tests that take long"
	@echo "make lint       check style, types and migrations"
	@echo "make build      make .venv and the front end, and start nothing"
	@echo "make clean      remove .venv, the built front end and caches; keeps .fleetops, where the state is"

python:
	@test -n "$(PYTHON)" || { echo "FleetOps needs Python 3.11 or newer, and finds $$(python3 --version 2>/dev/null || echo none)." \
	"Install it (Debian, Ubuntu: apt install python3 python3-venv), or name it: PYTHON=/path/to/python3.12 make up" >&2; exit 1; }

up: python
	@$(PYTHON) -m fleetops.bootstrap embedded front-end
	@exec $(VENV)/python -m fleetops.supervisor

build: python
	@$(PYTHON) -m fleetops.bootstrap embedded front-end

# All of them by four workers (tests/support/workers.py), since most wait for processes; a few are sooner done by one.
# Whoever fails among them all is run once more, alone: see tests/support/alone.py.
test: python
	@$(PYTHON) -m fleetops.bootstrap dev front-end
	@$(if $(ARGS),exec $(VENV)/python -m pytest -m "not long" $(ARGS),exec $(VENV)/python -m tests.support.alone -m "not long" -n 4)

test-long: python
	@$(PYTHON) -m fleetops.bootstrap dev front-end
	@exec $(VENV)/python -m pytest -m long --timeout 1800 $(ARGS)

lint: python
	@$(PYTHON) -m fleetops.bootstrap dev
	$(VENV)/ruff check .
	$(VENV)/ruff format --check .
	$(VENV)/mypy
	$(VENV)/python manage.py makemigrations --check --dry-run

clean:
	rm -rf .venv static/dist static/node_modules .pytest_cache .mypy_cache .ruff_cache .hypothesis test-results
	find . -name __pycache__ -type d -not -path './.fleetops/*' -prune -exec rm -rf {} +
	@echo "kept: .fleetops (database, recordings, the endpoint's state). To begin anew, remove it: rm -rf .fleetops"
