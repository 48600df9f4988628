# The commands of this repository. `make` without a target lists them.
PYTHON ?= python3
# Another Python has a separate environment: make test PYTHON=python3.12 uses .venv-3.12
export VENV := .venv$(if $(findstring command,$(origin PYTHON)),-$(shell $(PYTHON) -c "import sys; print('%d.%d' % sys.version_info[:2])"))
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
RUN_STAMP := $(VENV)/.installed-to-run
CHECK_STAMP := $(VENV)/.installed-to-check
# Index to install torch from, if not the default index of pip, e.g. an index of CPU-only wheels.
export TORCH_INDEX
# Options for `make run`, e.g. make run ARGS="--port 9000 --workers 2"
ARGS ?=
# The script for `make load`; PROFILE=short takes a twentieth of the time.
SCRIPT ?= load
PROFILE ?= full
# Options for `make test`, e.g. make test TESTS="tests/unit -k cache"
TESTS ?=
# Tests mostly wait for processes, so five at a time are faster even on two cores.
TEST_PROCESSES ?= 5

.DEFAULT_GOAL := help

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: install
install: $(STAMP) ## create .venv with everything that tests and checks need (TORCH_INDEX=URL)

$(STAMP): pyproject.toml client/pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	scripts/install-torch
	extras=dev; if $(BIN)/pip show --quiet torch 2>/dev/null; then extras=dev,train; fi; \
	$(BIN)/pip install -c constraints.txt -e ".[$$extras]" -e ./client
	@touch $(RUN_STAMP) $(CHECK_STAMP) $@

# What running needs, a fifth of the rest.
$(RUN_STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -c constraints.txt -e ".[worker,cli]"
	@touch $@

# What checking needs: no torch and no OpenVINO.
$(CHECK_STAMP): pyproject.toml client/pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -c constraints.txt -e ".[check]" -e ./client
	@touch $@

.PHONY: run
run: $(if $(wildcard $(STAMP)),$(STAMP),$(RUN_STAMP)) ## start Redis, API and worker on http://127.0.0.1:8000 (ARGS="--port 9000 --workers 2")
	@exec $(BIN)/millrace up $(if $(REDIS_URL)$(MILLRACE_REDIS_URL)$(findstring --redis-url,$(ARGS)),,--data-dir data) $(ARGS)

# Tests start hundreds of processes, each of which would compile what it imports.
test test-fast: export PYTHONDONTWRITEBYTECODE =

.PHONY: test
test: $(STAMP) ## run the whole test suite, and what fails once more alone (TESTS="tests/unit -k cache" runs a part, PYTHON=python3.12 another Python)
	$(BIN)/python -m tests -n $(TEST_PROCESSES) --dist worksteal $(TESTS)

.PHONY: pythons
pythons: ## run unit and integration tests on the other supported Pythons that this machine has
	@TEST_PROCESSES=$(TEST_PROCESSES) scripts/other-pythons

# Number of runs, and of busy processes next to them, e.g. make repeat TESTS=tests/faults TIMES=20 BUSY=2
TIMES ?= 20
BUSY ?= 0

.PHONY: other-clients
other-clients: $(STAMP) ## install clients of other services and tools for OpenAPI that conflict with our packages, and run their tests
	scripts/other-clients
	ALL_CLIENTS=1 $(BIN)/python -m pytest -n 0 tests/compat

.PHONY: repeat
repeat: $(STAMP) ## run the same tests repeatedly (TESTS=tests/faults TIMES=20; BUSY=2 adds busy processes)
	@PYTHON=$(BIN)/python BUSY=$(BUSY) scripts/repeat-tests $(TIMES) $(TESTS)

# Benchmarks for `make bench`, e.g. make bench BENCH="idle miss"; all by default.
BENCH ?=

.PHONY: test-fast
test-fast: $(STAMP) ## run the tests that start no service: unit, integration on fakeredis, repository
	$(BIN)/python -m pytest -n $(TEST_PROCESSES) --dist worksteal -m "not redis and not e2e" tests/unit tests/integration tests/repo

# Options for `make chaos`, e.g. make chaos CHAOS="--minutes 1 --seed 7 8 --shards 3"
CHAOS ?=

# Options for `make jobs`, e.g. make jobs JOBS="--minutes 2 --texts 200000"
JOBS ?=

.PHONY: jobs
jobs: $(STAMP) ## run jobs of many clients beside a large one for ten minutes, while processes are killed (JOBS="--minutes 2 --texts 200000")
	$(BIN)/python -m tests.e2e.jobs_together $(JOBS)

# Options for `make crossings`, e.g. make crossings CROSSINGS="--minutes 60 --seed 7", or CROSSINGS=--planted
CROSSINGS ?=

.PHONY: crossings
crossings: $(STAMP) ## draw services, routes and what happens meanwhile for ten minutes, and check every promise (CROSSINGS="--minutes 60 --seed 7")
	$(BIN)/python -m tests.crossings $(CROSSINGS)

# How much of what is drawn `make long` tries, e.g. make long HOSTILE_CASES=2000 ROLLING_ANSWERS=40
HOSTILE_CASES ?= 100
ROLLING_ANSWERS ?= 8
LONG := faults/test_hostile_input.py faults/test_hostile_heads.py faults/test_rolling_update.py faults/test_memory.py \
	e2e/test_jobs_chaos.py proof/test_levels.py unit/model_store/engines/test_families.py

.PHONY: long
long: $(STAMP) ## run the long forms of hostile input, rolling updates, kills during a job, memory, instruction sets and int8 (HOSTILE_CASES=2000)
	HOSTILE_CASES=$(HOSTILE_CASES) ROLLING_ANSWERS=$(ROLLING_ANSWERS) \
		$(BIN)/python -m pytest -n 2 --dist loadfile -m "long or not long" $(addprefix tests/,$(LONG))

.PHONY: page
page: $(STAMP) ## run the long forms of the page's tests: 200 presses of a button, five seconds at rest, and pictures of all states in build/page
	$(BIN)/python -m pytest -n 0 -m long tests/e2e/test_page.py tests/e2e/test_page_states.py

.PHONY: bench
bench: $(STAMP) ## run all benchmarks (fifteen minutes), print tables, write JSON to bench-results/; fails if a goal is missed
	$(BIN)/python -m benchmarks $(BENCH)

# Options for `make proof`, e.g. make proof PROOF="--models default --levels AVX2"
PROOF ?=

.PHONY: proof
proof: $(STAMP) ## check every engine, precision and layout under each instruction set (PROOF="--models default")
	$(BIN)/python -m tests.proof $(PROOF)

# Options for `make families`, e.g. make families FAMILIES="gpt2 bart", or FAMILIES="--slice 1/8"
FAMILIES ?=

.PHONY: families
families: $(STAMP) ## compare a small checkpoint of every architecture with transformers' pipeline (an hour; FAMILIES="gpt2 bart --precision bf16 int8", FAMILIES=--write)
	$(BIN)/python -m tests.families $(FAMILIES)

# Options for `make search`, e.g. make search SEARCH="--machine jobs --minutes 5 --seed 7", or SEARCH=--planted
SEARCH ?=

.PHONY: search
search: $(STAMP) ## search for an hour for histories of the queue, of jobs, or of hubs and workers that break a promise (SEARCH="--minutes 5 --seed 7")
	$(BIN)/python -m tests.search $(SEARCH)

# Options for `make mutants`, e.g. make mutants MUTANTS="--sample 20 --seed 7"
MUTANTS ?=

.PHONY: mutants
mutants: $(STAMP) ## edit the code in 300 small ways and list the edits that no test notices (MUTANTS="--sample 20 --fields jobs client")
	$(BIN)/python -m tests.mutation $(MUTANTS)

.PHONY: tests-of
tests-of: $(STAMP) ## run the tests whose imports reach a file, nearest first (FILE=batcher/hub/hub.py)
	$(BIN)/python -m tests.mutation.tests_of $(FILE)

.PHONY: model-report
model-report: $(STAMP) ## measure bias and robustness of the embedded model for its card; fails if a limit is broken
	PYTHONPATH=packaging/model $(BIN)/python -m default_model.model_report --write model_store/default/README.md

.PHONY: chaos
chaos: $(STAMP) ## break a whole service under load for 3 minutes (CHAOS="--minutes 1 --seed 7 8")
	$(BIN)/python -m tests.chaos $(CHAOS)

# Options for `make partitions`, e.g. make partitions PARTITIONS="--topology cluster --cuts 50 --seed 7"
PARTITIONS ?=

.PHONY: partitions
partitions: $(STAMP) ## cut links between clients, Redis and sentinels 200 times; needs root (PARTITIONS="--topology cluster")
	$(BIN)/python -m tests.partitions $(PARTITIONS)

# Options for `make cost`: COST=--planted takes out each repair, COST="--planted record" some of them.
COST ?=

.PHONY: cost
cost: $(STAMP) ## send the worst bodies of every route in all sizes, and fail where one costs more than it weighs (COST=--planted)
	$(BIN)/python -m tests.cost $(COST)

# Options for `make soak`, e.g. make soak SOAK="--minutes 20 --limits"
SOAK ?=

.PHONY: soak
soak: $(STAMP) ## run light traffic of every kind for an hour; fails if anything grows (SOAK="--minutes 20 --limits")
	$(BIN)/python -m tests.soak $(SOAK)

.PHONY: shards
shards: $(STAMP) ## kill shards, move slots and fail over under load, twenty times each
	ROUNDS=20 $(BIN)/python -m pytest tests/faults/test_shards.py -n 0 --timeout 1800

.PHONY: check
check: $(if $(wildcard $(STAMP)),$(STAMP),$(CHECK_STAMP)) ## run lint, format, type and import checks, and check sizes and wording
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/python scripts/style

.PHONY: manifests
manifests: $(STAMP) ## check the Kubernetes manifests, images and workflow files
	$(BIN)/python -m pytest -q tests/repo/test_manifests.py tests/repo/test_images.py

.PHONY: load
load: $(STAMP) ## run a load test (SCRIPT=load, PROFILE=short, ARGS="-e RATE=50"; BASE_URL for a running service)
	@PROFILE=$(PROFILE) scripts/load $(SCRIPT) $(ARGS)

.PHONY: load-table
load-table: $(STAMP) ## run the acceptance load for cache rates 0.95 and 0.5 with one and two workers, and print a table (PROFILE=short)
	@scripts/load-table $(if $(filter file,$(origin PROFILE)),short,$(PROFILE))

.PHONY: wheels
wheels: $(RUN_STAMP) ## build the wheels of the service and of its default model in dist/
	rm -rf build packaging/model/build
	$(BIN)/pip wheel --no-deps --wheel-dir dist . ./packaging/model

# Steps for `make deliver`, e.g. make deliver STEPS="workflows distributions"; all by default.
STEPS ?=

.PHONY: deliver
deliver: $(STAMP) ## run every step of a release that can run here; publishes nothing (STEPS="workflows sbom")
	@scripts/deliver $(STEPS)

# Options for `make peers`, e.g. make peers PEERS="mosec plain --seconds 5"
PEERS ?=

.PHONY: peers
peers: $(STAMP) ## load Millrace and seven other services with the same model and print the table (PEERS="plain mosec", "--write")
	$(BIN)/python -m benchmarks.peers $(PEERS)

.PHONY: images
images: ## build both container images with docker or podman (TAG=...)
	scripts/build-images

.PHONY: format
format: $(if $(wildcard $(STAMP)),$(STAMP),$(CHECK_STAMP)) ## format the code
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

.PHONY: clean
clean: ## remove build outputs and caches; keeps .venv and data
	rm -rf build dist *.egg-info client/build client/*.egg-info packaging/model/build packaging/model/*.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -path './.venv*' -prune -o -name __pycache__ -type d -exec rm -rf {} +
