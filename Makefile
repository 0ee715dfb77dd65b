# Every target does all its own set-up and is quick the second time. PYTHON chooses the
# interpreter, VENV the folder it installs into, JOBS the number of test processes, ISAS the kernels
# to compile: those of this machine, or all.

PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11 python3.10; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null && echo $$p && break; done)
VENV ?= .venv
JOBS ?= auto
ISAS ?= native

bin := $(VENV)/bin
install := $(bin)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
# An editable install sees changed Python files by itself; only these ask for a new one.
built := pyproject.toml constraints.txt CMakeLists.txt $(wildcard graphkit/ops/cpu/*.cpp graphkit/ops/cpu/*.h)

.PHONY: run test fuzz lint types docs bench clean dev
.DEFAULT_GOAL := run

run: $(VENV)/.installed
	$(bin)/graphkit run demo/mpnn_vn --seeds 3

# Two test processes with one thread each use two cores better than one with two.
test: $(VENV)/.installed-test
	OMP_NUM_THREADS=1 $(bin)/python -m pytest -n $(JOBS) --maxprocesses 8 $(PYTEST_ARGS)

# Random and corrupt input against the kernels under AddressSanitizer; FUZZ_SECONDS of it.
FUZZ_SECONDS ?= 45
fuzz: $(VENV)/.installed
	@$(bin)/cmake -S . -B build/asan -G Ninja -DCMAKE_BUILD_TYPE=None -DGRAPHKIT_SANITIZE=ON \
	  -DPython_EXECUTABLE=$(abspath $(bin)/python) -DCMAKE_MAKE_PROGRAM=$(abspath $(bin)/ninja) \
	  -Dnanobind_DIR=$$($(bin)/python -m nanobind --cmake_dir) > /dev/null
	@$(bin)/cmake --build build/asan
	LD_PRELOAD="$$(echo $$(for l in asan stdc++; do $${CXX:-c++} -print-file-name=lib$$l.so; done))" ASAN_OPTIONS=detect_leaks=0 \
	  $(bin)/python tests/fuzz/fuzz_kernels.py --module build/asan/_cpu*.so --seconds $(FUZZ_SECONDS) \
	  --case build/asan/case.txt || { echo "to repeat it:" && cat build/asan/case.txt; exit 1; }

lint: $(VENV)/.installed-dev
	$(bin)/ruff check .
	$(bin)/ruff format --check .

types: $(VENV)/.installed-dev
	$(bin)/mypy

docs: $(VENV)/.installed-docs
	$(bin)/python -m sphinx -W --keep-going -q -b html docs docs/_build/html
	@echo "docs/_build/html/index.html"

bench: $(VENV)/.installed
	$(bin)/graphkit bench $(BENCH_ARGS)

dev: $(VENV)/.installed-test $(VENV)/.installed-dev

clean:
	rm -rf $(VENV) build dist docs/_build .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(bin)/python:
	@test -n "$(PYTHON)" || { echo "graphkit needs Python 3.10 or newer: make PYTHON=/path/to/python"; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
	  echo "$(PYTHON) cannot make a virtual environment; on Debian and Ubuntu: apt install python3-venv"; exit 1; }

# Other kernels asked for than last time: install anew.
$(VENV)/.isas-%: | $(bin)/python
	@rm -f $(VENV)/.isas-*
	@touch $@

# The build tools live in the environment, so that after a change only what changed is compiled.
$(VENV)/.installed: $(built) $(VENV)/.isas-$(ISAS) | $(bin)/python
	@echo "installing graphkit and what it needs into $(VENV); the first time takes minutes"
	@$(install) scikit-build-core nanobind cmake ninja
	@GRAPHKIT_ISAS=$(ISAS) $(install) --no-build-isolation --editable .
	@touch $@

$(VENV)/.installed-%: $(VENV)/.installed
	@echo "installing what '$*' needs into $(VENV)"
	@$(bin)/python -c 'import sys; from importlib.metadata import requires; \
	  from packaging.requirements import Requirement as R; \
	  print(*[str(r).partition(";")[0] for r in map(R, requires("graphkit")) \
	  if r.marker and "extra" in str(r.marker) and r.marker.evaluate({"extra": "$*"})], sep="\n")' \
	  > $(VENV)/$*.txt
	@$(install) -r $(VENV)/$*.txt
	@touch $@
