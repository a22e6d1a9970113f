# `make run`: the whole walk, from a fresh checkout to executed notebooks under build/.
# `make test`: the tests. Both set up .venv first; a second call does not install again.
# Another interpreter: `make run PYTHON=python3.12`.
PYTHON ?= python3
VENV := .venv
READY := $(VENV)/.ready
# Loops are compiled, forty times faster. Where no C++ compiler is found, pip brings one.
EXTRAS := test$(shell command -v $(firstword $(CXX)) >/dev/null || command -v clang++ >/dev/null || echo ,compiler)

.PHONY: run test test-all clean

run: $(READY)
	$(VENV)/bin/dyndl run all --jobs 2 --out build

# Two processes, of one thread each: two of two would wait for each other, up to six times as long.
# A file's tests stay together, for they share what was costly to make.
test: $(READY)
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -n 2 --dist loadfile

# With what `make test` leaves out to be shorter: loops that take a compiler long.
test-all: $(READY)
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -n 2 --dist loadfile -m 'slow or not slow'

# The stamp is written last, so an interrupted installation is taken up again.
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("constraints.txt needs Python 3.11 or newer; name one \
	with PYTHON=..." if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --disable-pip-version-check -c constraints.txt -e '.[$(EXTRAS)]'
	touch $@

clean:
	rm -rf $(VENV) build *.egg-info
