# `make demo` and `make test` do all set-up themselves; only Python 3.10 or newer is needed.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed

# Several programs share the cores: waiting threads must not spin.
export OMP_WAIT_POLICY := PASSIVE
export HF_HUB_DISABLE_PROGRESS_BARS := 1

.PHONY: demo test lint site setup conformance-1024 soak clean

demo: setup
	$(BIN)/sam2edge export samples/nano out/nano --frames samples/clip.mp4
	$(BIN)/python samples/demo.py out/nano out

# Two processes for two cores, with a thread each; a file's tests stay together, since they share what they export.
test: setup lint
	OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses 2 --dist loadfile

# The last numpy for Python 3.10 says less of its types than mypy needs here.
lint: setup
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/python -c 'import sys; sys.exit(sys.version_info >= (3, 11))' || $(BIN)/mypy

# The documentation as a site in out/site.
site: setup
	$(BIN)/mkdocs build

# The randomly initialised tiny at its full size: 20 minutes of processor time, 10 GiB.
conformance-1024: setup
	SAM2EDGE_TINY_SIZE=1024 $(BIN)/pytest tests/conformance -k random_tiny

# 20,000 frames: ten minutes on an idle machine, which the comparison of times asks for.
soak: setup
	SAM2EDGE_SOAK_FRAMES=20000 $(BIN)/pytest -s tests/unit/runtime/video/test_soak.py tests/unit/runtime/video/test_faults.py

setup: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt torch
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[export,dev,docs]'
	touch $@

clean:
	rm -rf .venv build dist out src/sam2edge.egg-info
