# roommeter: `make run` to see it work, `make test` to see it proved.
PYTHON ?= python3
BIN := .venv/bin
# What was compiled once is kept: else each process of the tests compiles all of them.
export PYTHONDONTWRITEBYTECODE :=
READY := .venv/.ready

.DEFAULT_GOAL := help
.PHONY: help setup run test lint check bench anomaly-report mutation simulate screenshots faults faults-long format lock clean

help: ## show this list
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

setup: $(READY) ## make .venv with the `roommeter` command, from the lock file

$(READY): requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12 setup")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	touch $(READY)

run: setup ## start everything, feed it recorded and simulated calls, show the rollups
	$(BIN)/roommeter demo

demo-month: setup ## a month of 50 projects and a million events, from events to invoices that add up
	rm -rf data/demo-month
	$(BIN)/roommeter demo-month

test: setup ## all tests (which broker and store they run on is printed first)
	$(BIN)/pytest --numprocesses 4 --dist loadfile --no-loadscope-reorder

lint: setup ## lint, format, types
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

check: lint test ## what has to hold before a commit

bench: setup ## CPU per event, as ratios to a bare loop on this machine
	$(BIN)/python -m tests.bench
	$(BIN)/python -m tests.bench.cookbook $(if $(SESSIONS),--sessions $(SESSIONS))

anomaly-report: setup ## recall, false alerts and delay of each anomaly detector on simulated months; plots in data/
	$(BIN)/python -m tests.anomaly $(PROJECTS) $(if $(SEED),--first-seed $(SEED))

mutation: setup ## mutation score of the core, a quarter of an hour (MODULES="money anomaly" for some of it)
	$(BIN)/python -m tests.mutation $(MODULES)

simulate: setup ## replay one simulated run under faults (SEED=7), or a range of them (SEEDS=1..1000)
	$(BIN)/python -m tests.simulation $(if $(SEED),--seed $(SEED) --verbose,--seeds $(or $(SEEDS),1..1000))

screenshots: setup ## pictures of every page of the console, light and dark, wide and phone, in data/screenshots (needs chromium)
	ROOMMETER_TEST_BROWSER=required ROOMMETER_SCREENSHOTS=data/screenshots $(BIN)/pytest tests/console/test_browser.py -k looks_right

faults: setup ## real processes under real faults, against the oracle: ten minutes (ONLY="kills store" for some)
	$(BIN)/python -m tests.faults $(if $(ONLY),--only $(ONLY)) $(if $(SEED),--seed $(SEED))

# What only computes runs beside what mostly waits, at the lowest priority.
faults-long: setup ## the same in the published sizes: an hour; renews the rows of tests/faults/RESULTS.md
ifdef ONLY
	$(BIN)/python -m tests.faults --long --only $(ONLY) $(if $(SEED),--seed $(SEED))
else
	nice -n 19 $(BIN)/python -m tests.faults --long --only seeds laws $(if $(SEED),--seed $(SEED)) & beside=$$!; \
	$(BIN)/python -m tests.faults --long --skip seeds laws $(if $(SEED),--seed $(SEED)); code=$$?; \
	wait $$beside && exit $$code
endif

format: setup ## format the code
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

LOCK := uv pip compile --universal --generate-hashes --no-emit-index-url --no-annotate --no-header --quiet

lock: ## renew requirements.lock, and its parts for the image (needs uv)
	$(LOCK) --extra dev pyproject.toml -o requirements.lock
	$(LOCK) --constraint requirements.lock pyproject.toml -o infra/locks/run.txt
	echo hatchling | $(LOCK) --constraint requirements.lock - -o infra/locks/build.txt

clean: ## remove what was built, and the data of `make run`
	rm -rf .venv data dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
