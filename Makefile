# The commands of this repository. `make` alone lists them.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# Where torch comes from, when not from the index that pip uses anyway, e.g. an index of CPU-only wheels.
TORCH_INDEX ?=
TORCH := torch==2.13.0
# Options for `make run`, e.g. make run ARGS="--port 9000 --workers 2"
ARGS ?=
# Which load test `make load` runs, and PROFILE=short for a twentieth of its time.
SCRIPT ?= load
PROFILE ?= full
# Options for `make test`, e.g. make test TESTS="tests/unit -k cache"
TESTS ?=
# Most of the suite waits for processes: two at a time are faster even on two cores.
TEST_PROCESSES ?= 2

.DEFAULT_GOAL := help

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: install
install: $(STAMP) ## make .venv with everything, .venv/bin/millrace included

# Torch goes first and pinned: a looser range would choose other builds, gigabytes larger.
$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) -c constraints.txt $(TORCH)
	$(BIN)/pip install -c constraints.txt -e ".[dev]"
	@touch $@

.PHONY: run
run: $(STAMP) ## start Redis, API and worker on http://127.0.0.1:8000 (ARGS="--port 9000 --workers 2")
	@exec $(BIN)/millrace up $(if $(REDIS_URL)$(MILLRACE_REDIS_URL)$(findstring --redis-url,$(ARGS)),,--data-dir data) $(ARGS)

.PHONY: test
test: $(STAMP) ## run the whole test suite (TESTS="tests/unit -k cache" for a part)
	$(BIN)/python -m pytest -n $(TEST_PROCESSES) --dist worksteal $(TESTS)

.PHONY: pythons
pythons: ## unit and integration tests on each other Python that the README promises and this machine has
	@TEST_PROCESSES=$(TEST_PROCESSES) scripts/other-pythons

# How often, and beside how many busy processes, e.g. make repeat TESTS=tests/faults TIMES=20 BUSY=2
TIMES ?= 20
BUSY ?= 0

.PHONY: repeat
repeat: $(STAMP) ## the same tests again and again (TESTS=tests/faults TIMES=20, BUSY=2 beside busy processes)
	@PYTHON=$(BIN)/python BUSY=$(BUSY) scripts/repeat-tests $(TIMES) $(TESTS)

# Which benchmarks `make bench` runs, e.g. make bench BENCH="idle miss"; all by default.
BENCH ?=

.PHONY: test-fast
test-fast: $(STAMP) ## run the tests that start no service: unit, integration on fakeredis, repository
	$(BIN)/python -m pytest -n $(TEST_PROCESSES) --dist worksteal -m "not redis and not e2e" tests/unit tests/integration tests/repo

# Options for `make chaos`, e.g. make chaos CHAOS="--minutes 1 --seed 7 8"
CHAOS ?=

.PHONY: bench
bench: $(STAMP) ## every benchmark, about fifteen minutes; tables here, JSON under bench-results/; fails where a goal is missed
	$(BIN)/python -m benchmarks $(BENCH)

# Options for `make proof`, e.g. make proof PROOF="--models default --levels AVX2"
PROOF ?=

.PHONY: proof
proof: $(STAMP) ## every engine, precision and layout under each instruction set of this processor (PROOF="--models default")
	$(BIN)/python -m tests.proof $(PROOF)

.PHONY: chaos
chaos: $(STAMP) ## kill, freeze, cut and fill a whole mill under traffic for 3 minutes (CHAOS="--minutes 1 --seed 7 8")
	$(BIN)/python -m tests.chaos $(CHAOS)

.PHONY: check
check: $(STAMP) ## the one definition of clean: lint, format, types, import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

.PHONY: manifests
manifests: $(STAMP) ## check the Kubernetes manifests, images and workflow files
	$(BIN)/python -m pytest -q tests/repo/test_manifests.py tests/repo/test_images.py

.PHONY: load
load: $(STAMP) ## run a load test (SCRIPT=load, PROFILE=short, ARGS="-e RATE=50"; BASE_URL for a running mill)
	@PROFILE=$(PROFILE) scripts/load $(SCRIPT) $(ARGS)

.PHONY: images
images: ## build both container images where there is docker or podman (TAG=...)
	scripts/build-images

.PHONY: format
format: $(STAMP) ## put the code in form
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

.PHONY: clean
clean: ## remove what was built and cached; .venv and data stay
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -path ./$(VENV) -prune -o -name __pycache__ -type d -exec rm -rf {} +
