# Everything works on a fresh machine with Python 3.11, make, a compiler and a package registry.
PYTHON ?= python3.11
BIN := .venv/bin
STAMP := .venv/installed
export OMP_NUM_THREADS ?= 1

.DEFAULT_GOAL := help
.PHONY: help demo test lint fmt slow readers faults bench corpus clean

help: ## say what there is
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/'

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt pip setuptools
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt --editable '.[dev]'
	touch $(STAMP)

demo: $(STAMP) ## the whole path on the bundled corpus: shards, report, training step
	$(BIN)/interloom demo --out demo

test: $(STAMP) ## the quick suite
	$(BIN)/python -m pytest -m "not slow" -n 2

slow: $(STAMP) ## engines, faults, training, the browser
	$(BIN)/python -m pytest -m slow -n 2 --dist loadfile

readers: ## Energon and Hugging Face datasets read our shards, in an environment that is thrown away
	$(PYTHON) -m venv --clear build/readers
	build/readers/bin/python -m pip install --quiet --disable-pip-version-check -r tests/other_readers.txt --editable .
	build/readers/bin/python -c 'import datasets, megatron.energon, webdataset'
	build/readers/bin/python -m pytest -rs tests/e2e/test_other_readers.py
	rm -rf build/readers

faults: $(STAMP) ## 100 kills on each engine, 30 on a cluster of two nodes; KILLS=5 SEED=7 for less
	for engine in local beam ray; do \
	  $(BIN)/python -m tests.faults.run --engine $$engine --kills $(or $(KILLS),100) --seed $(or $(SEED),7) || exit 1; \
	done
	$(BIN)/python -m tests.faults.run --engine ray --cluster --kills $(or $(KILLS),30) --seed $(or $(SEED),7)

lint: $(STAMP) ## ruff, mypy strict, import-linter
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

fmt: $(STAMP) ## format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(STAMP) ## cost of each stage, overhead of each engine, memory
	$(BIN)/python -m benchmarks.run

clean: ## remove what was made
	rm -rf demo build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
