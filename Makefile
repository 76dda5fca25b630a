# Two commands on a new machine: `make demo` and `make test`. Each sets up what it needs.
#
# PYTHON=/path/to/python uses an existing environment (conda, a module, a container) instead of .venv;
# nothing is installed into it.

VENV := .venv
ifdef PYTHON
PY := $(PYTHON)
SETUP :=
else
PY := $(VENV)/bin/python
SETUP := $(VENV)/.installed
endif

.PHONY: help install demo demo-quick test test-long test-slurm test-netns lint format bench clean
help:
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

install: $(SETUP)                       ## set up .venv (uv if present, else venv and pip)

$(VENV)/.installed: pyproject.toml launch/install.sh
	bash launch/install.sh $(VENV)

demo: $(SETUP)                          ## the whole pipeline on the demo city: IoU table and pictures (about 10 minutes)
	$(PY) launch/demo.py --run-dir demo/full

demo-quick: $(SETUP)                    ## the same path in about 3 minutes
	$(PY) launch/demo.py --quick --run-dir demo/quick

test: $(SETUP) lint                     ## everything but the tests marked slow and long
	$(PY) -m pytest -n 2 --dist loadfile -m "not slow and not long and not annotation_tools" -q --durations 15

test-long: $(SETUP) lint                ## all tests: with 20 kills per trainer, 10 000 damaged files, ...
	$(PY) -m pytest -n 2 --dist loadfile -q --durations 15

test-slurm: $(SETUP)                    ## batch scripts on a real Slurm of two virtual nodes (root on Debian; about 10 minutes)
	bash tests/slurm/install.sh
	SEGADAPT_TEST_SLURM=1 $(PY) -m pytest -m slurm -q --durations 0 tests/slurm

test-netns: $(SETUP)                    ## two nodes in network namespaces, one is cut off (root; about 3 minutes)
	SEGADAPT_TEST_NETNS=1 $(PY) -m pytest -m netns -q -rs tests/netns

lint: $(SETUP)                          ## ruff: format and lint
	$(PY) -m ruff format --check .
	$(PY) -m ruff check .

format: $(SETUP)
	$(PY) -m ruff format .
	$(PY) -m ruff check --fix .

bench: $(SETUP)                         ## side-by-side timings of the hot paths
	OMP_NUM_THREADS=1 $(PY) -m benchmarks

clean:
	rm -rf $(VENV) demo runs .pytest_cache .ruff_cache
