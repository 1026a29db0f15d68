# Every target makes .venv first when it is missing or older than what it is made from.
PYTHON ?= python3
BIN := .venv/bin
DEMO ?= demo
# Tests compute on small arrays, which more threads slow down on a machine that others use too.
ONE_THREAD := OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1}

.PHONY: demo test soak check bench docs clean
.DELETE_ON_ERROR:

.venv/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "understudy needs Python 3.11 or newer, found $$($(PYTHON) --version); set PYTHON=..."; exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: .venv/.installed  ## the whole mission on the built-in toy collections
	$(BIN)/understudy demo --out $(DEMO)

test: .venv/.installed  ## all tests but the long ones
	$(ONE_THREAD) $(BIN)/python -m pytest -m 'not soak'

soak: .venv/.installed  ## the long tests alone
	$(ONE_THREAD) $(BIN)/python -m pytest -m soak --timeout 3600 -o faulthandler_timeout=3700

check: .venv/.installed  ## lint, format, types, import layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports

bench: .venv/.installed  ## speed and memory against what one would otherwise run
	$(BIN)/python -m bench

docs: .venv/.installed  ## API reference from docstrings, into build/api
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev,docs]'
	PYTHONWARNINGS=error $(BIN)/python -m pdoc --docformat google --output-directory build/api understudy '!understudy.hear'

clean:
	rm -rf .venv build $(DEMO) src/*.egg-info
