# `make install`, `make demo`, `make test` on a machine with Python 3.11–3.13 and make.
PYTHON ?= python3
VENV ?= .venv
EXTRAS ?= jax,dev
# Processes that run the tests; each is limited to one thread (tests/conftest.py).
JOBS ?= 2

BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
UNFINISHED := $(VENV)/.installing

.PHONY: help install demo test test-all test-tensorflow test-jax lint docker clean
.DEFAULT_GOAL := help

help:
	@echo "make install   create $(VENV) and install bpfree in it (PYTHON=python3.12 picks the interpreter)"
	@echo "make demo      sweep four rules on the digits into runs/demo, in a few minutes"
	@echo "make test      linter and tests on TensorFlow and on JAX; make test-all: the slow ones as well"
	@echo "make docker    build the GPU image (JAX_CUDA=1: with JAX on the GPU; RAY=1: with Ray)"
	@echo "make clean     remove $(VENV) and caches; runs/ stays"

# A virtual environment that no longer starts is not an installed one.
$(shell $(BIN)/python -c 'import pip' 2>/dev/null || rm -f $(STAMP))

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c '' 2>/dev/null || { echo "bpfree: no Python found as '$(PYTHON)'; name one: make install PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || \
		{ echo "bpfree: needs Python 3.11, 3.12 or 3.13, and '$(PYTHON)' is $$($(PYTHON) -V 2>&1); name another: make install PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
		{ echo "bpfree: '$(PYTHON)' lacks the venv module; install it (Debian, Ubuntu: apt install python3-venv)" >&2; exit 1; }
	@test ! -e $(UNFINISHED) && $(BIN)/python -c 'import pip' 2>/dev/null || $(PYTHON) -m venv --clear $(VENV)
	@rm -f $(STAMP) && touch $(UNFINISHED)
	$(BIN)/python -m pip install --no-compile -c constraints.txt -e '.[$(EXTRAS)]'
	@# On all cores, where pip compiles on one; templates among the packages are no Python, and fail.
	@$(BIN)/python -m compileall -q -j 0 $(VENV)/lib >/dev/null || true
	@mv $(UNFINISHED) $(STAMP)

# Networks this small train for less time than XLA takes to compile them.
demo: install
	./train.bash runs/demo --dataset=digits --algorithm=bp --algorithm=dfa --algorithm=drtp --algorithm=ll \
		--arch=100-100 --activation=tanh --batch_norm=false --bw_init=ortho --reg_rate=0 \
		--lr=0.001 --lr=0.01 --lr=0.1 --num_epochs=15 --executions_per_trial=3 --use_xla=false

PYTEST := $(BIN)/python -m pytest -n $(JOBS)
MARKED ?= not slow
test test-all: lint test-tensorflow test-jax
test-all: MARKED := slow or not slow

test-tensorflow: install
	KERAS_BACKEND=tensorflow $(PYTEST) -m "$(MARKED)"

# What has nothing to do with the backend has run on TensorFlow.
test-jax: install
	KERAS_BACKEND=jax $(PYTEST) -m "($(MARKED)) and not once"

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

docker:
	docker build --build-arg JAX_CUDA=$(or $(JAX_CUDA),0) --build-arg RAY=$(or $(RAY),0) -t bpfree .

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .ruff_cache
	find . -name __pycache__ -not -path './runs/*' -prune -exec rm -rf {} +
