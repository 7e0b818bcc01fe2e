# Every target does its own set-up: it needs a Python from 3.11 to 3.14, and make. `make help` lists them.
#
# The environment is .venv, with the exact versions of constraints.txt. On Linux torch brings CUDA along (gigabytes).
# Where there is no GPU the CPU build does: set PIP_EXTRA_INDEX_URL to the index that PyTorch's start page names for it.

.DEFAULT_GOAL := help
.PHONY: help setup reproduce lab test bench bench-gpu lint format pins clean
.DELETE_ON_ERROR:

PROFILE ?= quick
JOBS ?= auto
RUN := .venv/bin/python -m

# FRESH=0 and YES=no mean no.
override FRESH := $(filter-out 0 no false,$(FRESH))
override YES := $(filter-out 0 no false,$(YES))

# The first of these that runs and is of a version we support makes .venv; `make test PYTHON=/path/to/python` overrides.
PYTHONS := $(or $(PYTHON),python3.13 python3.12 python3.11 python3.14 python3 python)

# The name holds the folder's path, because an environment copied along with the project still points to the old folder.
STAMP := .venv/.installed-$(shell pwd | cksum | cut -d' ' -f1)

# Shipped records and measured times come from this release, so `make pins` does not move it: change it here.
TORCH := 2.13.0

help: ## List the targets (this)
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))
	@echo
	@echo "  PROFILE=quick                      how much \`make reproduce\` runs: smoke, quick, course, night or paper"
	@echo "  NOTEBOOK=04                        one notebook of it only"
	@echo "  DEVICE=auto|cpu|cuda|cuda:1        where it trains (auto: a GPU where torch sees one)"
	@echo "  FRESH=1                            train anew; the old record is kept as record.before.sqlite"
	@echo "  YES=1                              begin even what is forecast to take more than a night"
	@echo "  MINUTES=9                          stop after so many, at the next checkpoint; the same command goes on"
	@echo "  JOBS=2                             how many processes run the tests (auto: one per core, 4 at most)"
	@echo "  PYTHON=/path/to/python             the Python that makes .venv"

setup: $(STAMP) ## Create .venv with the exact pinned versions (the other targets do this themselves)

reproduce: $(STAMP) ## Make every table and figure, each beside the paper's number, in results/PROFILE/
	$(RUN) nasrepro reproduce --profile "$(PROFILE)" $(if $(NOTEBOOK),--notebook "$(NOTEBOOK)") \
		$(if $(DEVICE),--device "$(DEVICE)") $(if $(FRESH),--fresh) $(if $(YES),--yes) \
		$(if $(MINUTES),--minutes "$(MINUTES)")

lab: $(STAMP) ## Open JupyterLab on the notebooks
	$(RUN) nasrepro lab

# The tests of a file run in one process, one after the other, because they share fixtures. The processes share the
# cores: what they start takes one thread, and threads that wait do not keep a core busy meanwhile.
PYTEST := OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive $(RUN) pytest tests \
	--numprocesses $(JOBS) --dist loadfile --no-loadscope-reorder

# SHIP=1, for maintainers, writes the seconds that this took into results/records/ and the README.
test: $(STAMP) ## Check style and types, then run all tests and, at PROFILE=smoke, all notebooks
	@start=$$(date +%s) && $(MAKE) --no-print-directory lint && echo '$(PYTEST)' && $(PYTEST) && \
	seconds=$$(( $$(date +%s) - start )) && echo "make test took $$seconds s" && \
	if [ -n "$(SHIP)" ]; then $(RUN) nasrepro ship --tests-seconds $$seconds; fi

# SHIP=1, for maintainers, writes the new table into the README.
bench: $(STAMP) ## Time the fused cells on this machine's processor, into results/benchmarks/ (about 10 minutes)
	.venv/bin/python benchmarks/fast_cells.py --out results/benchmarks
	$(if $(SHIP),$(RUN) nasrepro ship --benchmarks)

bench-gpu: $(STAMP) ## Check, time and train on a GPU, into results/benchmarks/gpu/ (9 minutes; again for the rest)
	.venv/bin/python benchmarks/on_gpu.py --out results/benchmarks/gpu
	$(if $(SHIP),$(RUN) nasrepro ship --benchmarks)

lint: $(STAMP) ## Check style and types
	$(RUN) ruff check .
	$(RUN) ruff format --check .
	$(RUN) mypy

format: $(STAMP) ## Put the code into the project's style
	$(RUN) ruff check --fix .
	$(RUN) ruff format .

# Every Python gets the same releases where one serves all. networkx 3.6.1, the newest for 3.11, refuses Python 3.14.1.
pins: .venv/bin/python ## Remake constraints.txt from the newest releases (needs the network)
	$(RUN) venv build/pins
	build/pins/bin/python -m pip install --quiet uv
	printf '%s\n' setuptools 'torch==$(TORCH)' 'networkx>=3.7; python_version >= "3.12"' > build/pins/also.in
	build/pins/bin/uv pip compile pyproject.toml build/pins/also.in --extra dev --universal --python-version 3.11 \
		--fork-strategy fewest --upgrade --quiet --no-header --no-annotate --output-file build/pins/pins.txt
	sed -n '/^#/p' constraints.txt | cat - build/pins/pins.txt > build/pins/constraints.txt
	mv build/pins/constraints.txt constraints.txt
	rm -rf build/pins

clean: ## Remove .venv and what tools leave behind; data/ and results/ stay
	rm -rf .venv build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis .coverage
	find nasrepro tests notebooks -name __pycache__ -prune -exec rm -rf {} + 2>/dev/null || true

# Without build isolation, because pip would fetch an unpinned setuptools into its throw-away environment.
$(STAMP): pyproject.toml constraints.txt | .venv/bin/python
	@echo "Installing the pinned packages into .venv; the first time this takes some minutes."
	$(RUN) pip install --disable-pip-version-check --constraint constraints.txt setuptools
	$(RUN) pip install --disable-pip-version-check --constraint constraints.txt --no-build-isolation --editable ".[dev]"
	@rm -f .venv/.installed-*
	@touch $@

.venv/bin/python:
	@for python in $(PYTHONS); do \
		if "$$python" -c 'import ensurepip, sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 14))' 2>/dev/null; then \
			echo "Creating .venv with $$("$$python" --version) ($$(command -v "$$python"))"; \
			exec "$$python" -m venv .venv; \
		fi; \
	done; \
	echo "No Python from 3.11 to 3.14 with its venv module was found; looked for: $(PYTHONS)." >&2; \
	echo "Install one (Debian and Ubuntu: apt install python3 python3-venv; macOS: brew install python@3.13)," >&2; \
	echo "or name one that you have: make $(or $(MAKECMDGOALS),setup) PYTHON=/path/to/python" >&2; \
	exit 1
