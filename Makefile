PYTHON ?= python3
VENV ?= .venv
STUDY ?= results/quickstart
# Until the batch size that is named costs surely within 25 % of the least, or b* is known to two octaves.
ADAPTIVE := hydra/sweeper=bisect hydra.sweeper.within=0.25 hydra.sweeper.width_octaves=2
# At b = 2 most runs never arrive: 60,000 gradients are three times what the best batch size takes.
WHOLE := target.budget_steps=30000
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help quickstart plots report test bench bench-gpu bench-sweep coverage lint clean

help:  ## show this
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(f"cbs needs Python 3.11 or newer, not {v[0]}.{v[1]}: make PYTHON=python3.12 …" if v < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

quickstart: $(INSTALLED)  ## b* of a small GAN on real digits, adaptively: minutes on two cores (make quickstart GRID=1: the whole grid)
	$(BIN)/python -m cbs.run -m study=quickstart $(if $(GRID),$(WHOLE),$(ADAPTIVE))
	$(BIN)/python -m analysis plots results/quickstart
	$(BIN)/python -m analysis report results/quickstart
	@echo
	@echo "Open results/quickstart/report.html"

plots: $(INSTALLED)  ## fit and draw a study: make plots STUDY=results/<name>
	$(BIN)/python -m analysis plots $(STUDY)

report: $(INSTALLED)  ## one self-contained HTML page: make report STUDY=results/<name>
	$(BIN)/python -m analysis report $(STUDY)

test: $(INSTALLED)  ## the tests (make test SLOW=1 adds those that take minutes)
	$(BIN)/python -m pytest $(if $(SLOW),,-m 'not slow')

bench: $(INSTALLED)  ## speed, as ratios against peers in one run
	$(BIN)/python -m benchmarks.bench

bench-gpu: $(INSTALLED)  ## the same for what a GPU can show
	$(BIN)/python -m benchmarks.gpu

bench-sweep: $(INSTALLED)  ## the adaptive sweep against the grid: simulated, replayed from real runs, then on digits: hours
	OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 $(BIN)/python -m benchmarks.adaptive
	OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 $(BIN)/python -m benchmarks.adaptive --pool
	$(BIN)/python -m benchmarks.sweep

coverage: $(INSTALLED)  ## how often the 95 % set of b* holds the truth, on simulated sweeps: two hours (SWEEPS=60: minutes)
	OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 $(BIN)/python -m benchmarks.coverage $(if $(SWEEPS),--sweeps $(SWEEPS))

lint: $(INSTALLED)  ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:  ## remove what these commands made, except results/ and data/
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
