# make run   set up what is missing and run the default scenario
# make test  set up what is missing, then lint, types and tests
# make bench measure, and say which targets hold
# make fuzz   a longer hunt for bytes that break a decoder
VENV ?= .venv
BIN := $(VENV)/bin
# A CPU build of torch, for instance: make run TORCH_INDEX=<address of the index of that build>
TORCH_INDEX ?=
PIP := $(BIN)/python -m pip --disable-pip-version-check

.PHONY: run test bench fuzz clean

run: $(VENV)/.ready
	$(BIN)/fedquant run wearables --out runs/wearables

test: $(VENV)/.ready
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q

$(VENV)/.ready: pyproject.toml
	python3 -m venv $(VENV)
	$(if $(TORCH_INDEX),$(PIP) install -q --index-url $(TORCH_INDEX) torch torchvision)
	$(PIP) install -q -e '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) build dist

# Kernels, codecs and peers against memcpy and each other; writes docs/benchmarks.
bench: $(VENV)/.ready
	$(PIP) install -q -e '.[bench]'
	$(BIN)/fedquant bench

# Ten million damaged and forged payloads; make test reads a hundred thousand.
fuzz: $(VENV)/.ready
	$(BIN)/python -m tests.fuzz --cases 10000000
