# The two commands: make demo, make test. Both build .venv when it is missing.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: help demo test check format bench bench-quick compare-segmentation clean
.DEFAULT_GOAL := help

help:
	@echo "make demo    reproduce the experiments, train, write runs/demo/report.html"
	@echo "make test    run all tests"
	@echo "make check   formatting, lint, types"
	@echo "make format  put the formatting right"
	@echo "make bench-quick  ours against the peers, a subset, in minutes"
	@echo "make bench   ours against the peers, the whole map (hours; anew: move benchmarks/results away)"
	@echo "make compare-segmentation  ours, controls and peers trained on the same tumours (hours; goes on where it was)"
	@echo "make clean   remove the environments and what demo and bench-quick wrote; other runs stay"

$(VENV)/ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "keelnet needs Python 3.11 or newer, but $(PYTHON) is $$($(PYTHON) --version 2>&1); run make PYTHON=python3.11 $(MAKECMDGOALS)"; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: $(VENV)/ready
	$(BIN)/python -m keelnet demo --out runs/demo --overwrite

test: $(VENV)/ready
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

check: $(VENV)/ready
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(VENV)/ready
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(VENV)/ready
	$(BIN)/python benchmarks/compare.py --out benchmarks/results

bench-quick: $(VENV)/ready
	$(BIN)/python benchmarks/compare.py --quick --out runs/bench-quick --overwrite

compare-segmentation: $(VENV)/ready
	$(BIN)/python benchmarks/segmentation/compare.py --out benchmarks/results/segmentation

clean:
	rm -rf $(VENV) .bench runs/demo runs/bench-quick
