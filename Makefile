# `make serve` and `make test` set up everything they need in .venv; `make help` names the rest.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

HOST ?= $(or $(EMMR_HOST),127.0.0.1)
PORT ?= $(or $(EMMR_PORT),8000)
DEVICE ?= $(or $(EMMR_DEVICE),auto)
WEIGHTS ?= $(or $(EMMR_WEIGHTS),weights/default)
# torch's build: what pip finds if empty, which on Linux is the CUDA build unless pip is configured otherwise; `cpu` for the
# small one, from the index (an address) or the folder TORCH_INDEX where pip's configuration names none.
TORCH ?=
TORCH_INDEX ?=
DATA ?= ../shared/data
OUT ?= weights/default
# Of the load and fuzz tests: duration, seed, and whether figures are written to docs/development/resilience.md (RECORD=1).
SEED ?= 1
CASES ?= 1500
SECONDS ?= 60
RECORD ?=
# Processes of the tests. Many tests wait for a service to start, so one more than two processors is not too many.
WORKERS ?= 3

VENV := .venv
BIN := $(VENV)/bin
SOURCES := app emmr model tests tools docker/healthcheck.py $(patsubst %/,%,$(sort $(dir $(wildcard benchmarks/*.py docs/*.py examples/*.py))))
# The first interpreter that is new enough; PYTHON=… on the command line overrides the search.
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3 python; do \
	"$$p" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo "$$p"; break; }; done)

TORCH_VERSION = $(shell sed -n 's/^torch==//p' constraints.txt)
TORCH_CPU = $(if $(filter cpu,$(TORCH)),'torch==$(TORCH_VERSION)+cpu' \
	$(if $(TORCH_INDEX),$(if $(wildcard $(TORCH_INDEX)),--find-links,--extra-index-url) '$(TORCH_INDEX)'))
GPU := [ -e /proc/driver/nvidia/version ] || command -v nvidia-smi > /dev/null
# Sizes: docs/operations.md.
define NO_GPU
This machine has no NVIDIA GPU. Unless pip is configured for CPU builds, torch's CUDA build is downloaded: 3.0 GB in all
instead of 0.5 GB. The CPU build: make serve TORCH=cpu TORCH_INDEX=(address of PyTorch's index of CPU builds, or a folder)
endef
export NO_GPU

# Packages are installed when pyproject.toml or constraints.txt has changed, and not otherwise. The project itself is
# installed editable: its own code needs no second installation.
SERVE_STAMP := $(VENV)/.installed-serve
DEV_STAMP := $(VENV)/.installed-dev
FUZZ_STAMP := $(VENV)/.installed-fuzz
AUDIT_STAMP := $(VENV)/.installed-audit
RESULTS = $(if $(RECORD),--record) --json .cache/benches
BENCH_STAMP := $(VENV)/.installed-bench

.PHONY: help
help:  ## Say what can be made
	@echo "make …"
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo "variables: HOST=$(HOST) PORT=$(PORT) DEVICE=$(DEVICE) WEIGHTS=$(WEIGHTS) TORCH=$(TORCH) DATA=$(DATA) OUT=$(OUT) PYTHON=$(PYTHON)"

.PHONY: serve
serve: $(SERVE_STAMP)  ## Serve the shipped weights on HOST:PORT (sets up .venv on the first run)
	@EMMR_WEIGHTS='$(WEIGHTS)' EMMR_HOST='$(HOST)' EMMR_PORT='$(PORT)' EMMR_DEVICE='$(DEVICE)' exec $(BIN)/emmr serve

.PHONY: up
up:  ## Serve in a container, on the GPU where there is one (docker compose; builds the image on the first run)
	@if $(GPU); then exec docker compose --profile gpu up; fi; \
	echo 'This machine has no NVIDIA GPU: docker compose --profile cpu up'; exec docker compose --profile cpu up

.PHONY: image-test
image-test:  ## Build and run the image TARGET=cpu (or cuda, ray) with podman, as docker-compose.yml does (root on Debian)
	docker/image_test $(or $(TARGET),cpu)

.PHONY: test
test: $(DEV_STAMP)  ## Check style, types, import directions and container files, and run the tests
	@$(MAKE) --no-print-directory style
	@$(MAKE) --no-print-directory --jobs=2 types pytest

# Types are checked beside the tests, many of which wait for a service to start.
.PHONY: checks style types pytest
checks: style types

style: $(DEV_STAMP)
	$(BIN)/ruff check
	$(BIN)/ruff format --check

types: $(DEV_STAMP)
	$(BIN)/mypy $(SOURCES)
	$(BIN)/lint-imports
	$(MAKE) --no-print-directory docker-lint

# Tests on Ray share one cluster and so run in one process, after the others. `make test-ray` runs those beside the core.
PYTEST = $(BIN)/pytest --numprocesses=$(WORKERS) --dist=worksteal -m 'not ray'
pytest: $(DEV_STAMP)
	$(PYTEST)
	$(BIN)/pytest -m ray_core tests/app/ray

.PHONY: coverage
coverage: $(DEV_STAMP)  ## Run the tests with coverage, which takes a quarter longer
	$(PYTEST) --cov --cov-report=term

.PHONY: test-ray
test-ray: $(DEV_STAMP)  ## Test serving, scoring and training on a Ray cluster of this machine
	$(BIN)/pytest tests/app/ray

.PHONY: docker-lint
docker-lint: $(DEV_STAMP)  ## Lint the Dockerfile and hold docker-compose.yml against the Compose Specification
	$(BIN)/hadolint --config docker/hadolint.yaml docker/Dockerfile docker/ray/Dockerfile
	$(BIN)/check-jsonschema --builtin-schema vendor.compose-spec docker-compose.yml

.PHONY: kubernetes-lint
kubernetes-lint:  ## Render docker/kubernetes (needs kubectl), validate it and check its policies
	test -x .venv-kubernetes/bin/checkov || { '$(PYTHON)' -m venv .venv-kubernetes \
		&& .venv-kubernetes/bin/python -m pip install --quiet kubernetes-validate==1.37.0 checkov==3.3.30; }
	mkdir -p build/kubernetes
	for variant in base gpu; do \
		kubectl kustomize docker/kubernetes/$$variant > build/kubernetes/$$variant.yaml; \
		.venv-kubernetes/bin/kubernetes-validate --strict --kubernetes-version 1.31 build/kubernetes/$$variant.yaml; \
	done
	.venv-kubernetes/bin/checkov --config-file docker/kubernetes/checkov.yaml --directory build/kubernetes

.PHONY: weights
weights: $(DEV_STAMP)  ## Train the shipped weights again, from DATA into OUT
	$(BIN)/python -m model.training.weights --data '$(DATA)' --out '$(OUT)'

.PHONY: examples
examples: $(DEV_STAMP)  ## Make the sample inputs in examples/ again
	$(BIN)/python -m examples.make

.PHONY: readme
readme: $(DEV_STAMP)  ## Write answers, results and figures of the README and docs/ again, from a service and the weights
	$(BIN)/python -m docs.refresh_readme
	$(BIN)/python -m docs.figures

.PHONY: configuration
configuration: $(DEV_STAMP)  ## Write docs/configuration.md again, from the service's settings
	$(BIN)/python -m docs.configuration

.PHONY: api-examples
api-examples: $(DEV_STAMP)  ## Write the examples of the OpenAPI document again, from answers of the shipped weights
	$(BIN)/python -m docs.api_examples

.PHONY: lint-api
lint-api: $(DEV_STAMP)  ## Lint the OpenAPI document with Redocly and Spectral (needs npx, which installs them)
	@mkdir -p build
	$(BIN)/python -c 'import json; from app.main import create_app; print(json.dumps(create_app().openapi()))' > build/openapi.json
	npx --yes @redocly/cli@2 lint build/openapi.json
	npx --yes @stoplight/spectral-cli@6 lint --ruleset tools/openapi/spectral.yaml --fail-severity warn build/openapi.json

.PHONY: docs-check
docs-check: $(DEV_STAMP)  ## Run the commands of the README and the documentation against a running service
	$(BIN)/python -m docs.check

.PHONY: docs
docs: $(DEV_STAMP)  ## Build the documentation site into build/site, offline, with every warning an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

.PHONY: limits
limits: $(DEV_STAMP)  ## Write docs/limits.md again, from the responses of a service at each limit
	$(BIN)/python -m docs.limits

.PHONY: bench
bench: $(BENCH_STAMP)  ## Run every benchmark beside its peers; figures and a plot go to benchmarks/results/
	$(BIN)/python -m benchmarks

.PHONY: device-report
device-report: $(BENCH_STAMP)  ## Test and measure a CUDA device (DEVICE=cuda:1 …); the table goes to docs/development/performance.md
	$(BIN)/python -m benchmarks.device --device '$(if $(filter auto,$(DEVICE)),cuda,$(DEVICE))' \
		--json benchmarks/results/device.json --document docs/development/performance.md

.PHONY: fuzz
fuzz: $(FUZZ_STAMP)  ## Fuzz the service: OpenAPI (CASES), raw HTTP and sequences (MINUTES=10 each), readers (MINUTES each)
	@status=0; \
	$(BIN)/python -m tools.fuzz.run_schemathesis --cases $(CASES) --seed $(SEED) $(RESULTS)/schemathesis.json || status=1; \
	$(BIN)/python -m tools.fuzz.run_http --minutes $(or $(MINUTES),10) --seed $(SEED) $(RESULTS)/http.json || status=1; \
	$(BIN)/python -m tools.fuzz.run_sequences --minutes $(or $(MINUTES),10) --seed $(SEED) $(RESULTS)/sequences.json || status=1; \
	$(BIN)/python -m tools.fuzz.run_atheris --minutes $(or $(MINUTES),10) --seed $(SEED) $(RESULTS)/atheris.json || status=1; \
	exit $$status

.PHONY: chaos
chaos: $(DEV_STAMP)  ## Inject faults into a running service under background traffic (CASE="…")
	$(BIN)/python -m tools.load.chaos $(CASE) $(RESULTS)/chaos.json

.PHONY: soak
soak: $(DEV_STAMP)  ## Load the service at 70 % of its capacity for MINUTES=20 and measure what grows
	$(BIN)/python -m tools.load.soak --minutes $(or $(MINUTES),20) $(RESULTS)/soak.json

.PHONY: overload
overload: $(DEV_STAMP)  ## Load the service at four times its capacity for SECONDS
	$(BIN)/python -m tools.load.overload --seconds $(SECONDS) $(RESULTS)/overload.json

.PHONY: constraints
constraints:  ## Write constraints.txt again, from the newest allowed versions
	rm -rf .venv-constraints
	'$(PYTHON)' -m venv .venv-constraints
	.venv-constraints/bin/python -m pip install --editable '.[audit,bench,dev,fuzz,ray-dev]'
	{ grep '^#' constraints.txt; .venv-constraints/bin/python -m pip freeze --all --exclude-editable --exclude pip \
		| sed -E 's/\+[a-z0-9.]+$$//'; } > .venv-constraints/new
	mv .venv-constraints/new constraints.txt
	rm -rf .venv-constraints

.PHONY: hashes
hashes:  ## Write the image's requirement files and docs/licenses.md again, from constraints.txt (CPU_WHEEL=… for a new torch)
	rm -rf .venv-constraints
	'$(PYTHON)' -m venv .venv-constraints
	.venv-constraints/bin/python -m pip install --quiet --upgrade pip
	.venv-constraints/bin/python -m tools.supply_chain.lock $(if $(CPU_WHEEL),--cpu-wheel '$(CPU_WHEEL)')
	rm -rf .venv-constraints

.PHONY: sbom
sbom: $(DEV_STAMP)  ## Write bills of materials of the images (CycloneDX) to build/sbom
	$(BIN)/python -m tools.supply_chain.sbom

.PHONY: audit
audit: $(AUDIT_STAMP)  ## Look up known vulnerabilities of the image's packages; a warning where no database answers
	$(BIN)/python -m tools.supply_chain.audit $(if $(GITHUB_ACTIONS),--annotate)

.PHONY: clean
clean:  ## Remove .venv and everything the tools left behind
	rm -rf $(VENV) .venv-constraints .venv-kubernetes build *.egg-info .coverage .coverage.* htmlcov .mypy_cache \
		.pytest_cache .ruff_cache .import_linter_cache
	find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +

$(BIN)/python:
	@test -n '$(PYTHON)' || { echo 'Python 3.11 or newer is needed; none was found. Name one: make PYTHON=…' >&2; exit 1; }
	'$(PYTHON)' -m venv $(VENV) || { rm -rf $(VENV); exit 1; }

$(SERVE_STAMP): pyproject.toml constraints.txt | $(BIN)/python
ifeq ($(TORCH),)
	@[ "$$(uname)" != Linux ] || compgen -G '$(VENV)/lib/*/site-packages/torch' > /dev/null || $(GPU) || echo "$$NO_GPU"
endif
	$(BIN)/python -m pip install --quiet --constraint constraints.txt $(TORCH_CPU) --editable .
	@touch $@

# Compiled by all processors, pip uses one, and without most of what nothing imports: the tests of packages, the models of
# Transformers and Ray's libraries of training. Files for a newer Python do not compile, hence "|| true".
$(DEV_STAMP): pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --no-compile --constraint constraints.txt $(TORCH_CPU) \
		--editable '.[dev,ray-dev]'
	$(BIN)/python -m compileall -qq -j 0 -x '/(tests|models|rllib|tune)/' $(VENV)/lib || true
	@touch $@ $(SERVE_STAMP)

$(BENCH_STAMP): $(DEV_STAMP)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[bench,dev]'
	@touch $@

$(AUDIT_STAMP): $(DEV_STAMP)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[audit,dev]'
	@touch $@

$(FUZZ_STAMP): $(DEV_STAMP)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev,fuzz]'
	@touch $@
