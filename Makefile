# `make demo` and `make test` need Python 3.11 or newer with pip; everything else is set up in .venv.
PYTHON ?= python3
DATA ?=
VENV := .venv
BIN := $(VENV)/bin

.PHONY: setup demo test check docs clean

setup: $(VENV)/ready

$(VENV)/ready: requirements.txt requirements-peers.txt pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "mimzoo needs Python 3.11 or newer; call make PYTHON=python3.12 or the like")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -r requirements-peers.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	touch $@

demo: setup
	$(BIN)/mimzoo demo $(if $(DATA),--data $(DATA)) --out runs/demo$(if $(DATA),-$(notdir $(patsubst %/,%,$(DATA))))

test: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --dist loadfile

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python tools/make_docs.py --check
	$(BIN)/python tools/study.py --check

docs: setup
	$(BIN)/python tools/make_docs.py

clean:
	rm -rf $(VENV)
