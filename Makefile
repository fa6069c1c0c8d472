# Two commands set everything up on a fresh machine with Python 3.11 or newer: `make quickstart` and `make test`.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: quickstart test fuzz test-gpu test-lowest install format static-checks docs notebook build smoke check-tag gpu benchmarks \
	clean

quickstart: $(INSTALLED)  ## Install, and pre-train with a curriculum on embedded data, with three seeds.
	$(BIN)/python benchmarks/quickstart.py

# One thread for each process of the tests, and as many of these as there are cores, but each takes a gigabyte.
test: $(INSTALLED)  ## Install, and run every test, on all cores.
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n logical --maxprocesses 8 --dist worksteal

# In one process, so that the tests share the device and its memory.
test-gpu: $(INSTALLED)  ## Run the tests that need a GPU.
	HPM_TEST_GPU=1 $(BIN)/python -m pytest tests/gpu

# Draws thousands of cases: bindings, texts, damaged runs, studies, and kills at random moments.
fuzz: $(INSTALLED)  ## Install, and look for input that ends in a traceback; `make fuzz CASES=5000` for an hour of it.
	HPM_FUZZ_CASES=$(or $(CASES),300) OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/fuzz -n logical --maxprocesses 8

test-lowest:  ## Install the lowest versions that pyproject.toml allows in .venv-lowest, and run every test there.
	PIP_CONSTRAINT=tests/lowest.txt $(MAKE) test VENV=.venv-lowest

install: $(INSTALLED)  ## Create .venv and install the project with its development tools.

$(INSTALLED): pyproject.toml
	$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if v >= (3, 11) else f"Python 3.11 or newer is needed, this is {v[0]}.{v[1]}; call make with PYTHON=python3.11")'
	$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@

format: $(INSTALLED)  ## Format the code.
	$(BIN)/ruff check --fix-only --quiet .
	$(BIN)/ruff format .

static-checks: $(INSTALLED)  ## Lint, formatting and types.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(INSTALLED)  ## Build the documentation into site/, and refuse links and names that lead nowhere.
	$(BIN)/zensical build --strict --clean

notebook: $(INSTALLED)  ## Run examples/notebook.py, and keep it with its outputs as examples/notebook.ipynb.
	folder=$$(mktemp -d) \
	    && $(BIN)/jupytext --quiet --to ipynb --set-kernel python3 --output $$folder/notebook.ipynb examples/notebook.py \
	    && PYTHONWARNINGS=ignore $(BIN)/jupyter-execute --inplace $$folder/notebook.ipynb \
	    && mv $$folder/notebook.ipynb examples/notebook.ipynb && rm -r $$folder

build: $(INSTALLED)  ## Build sdist and wheel into dist/, and check what PyPI will show of them.
	rm -rf dist
	$(BIN)/python -m build
	$(BIN)/python -m twine check --strict dist/*

smoke: build  ## Install the wheel into a fresh environment, and train, export and load an encoder there.
	PYTHON=$(PYTHON) .ci/smoke

check-tag:  ## Whether a tag may be released; `make check-tag TAG=v0.1.0`.
	$(PYTHON) .ci/check_tag.py $(TAG)

gpu: $(INSTALLED)  ## Everything that only a GPU can tell, in nine minutes; `make gpu OUT=FILE` for another file.
	$(BIN)/python benchmarks/gpu.py --out $(or $(OUT),gpu.json)

benchmarks: $(INSTALLED)  ## Print the benchmarks' JSON.
	$(BIN)/python benchmarks/mask.py
	$(BIN)/python benchmarks/step.py --model vit_small --batch-size 4 --rounds 6 --threads 1 --device cpu

clean:  ## Remove what make installed.
	rm -rf $(VENV) .venv-lowest dist site
