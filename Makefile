# Everything runs in environments of this checkout's own: .venv, and .venv-3.12 and .venv-3.13 where those are present.
#   make demo         four stand-in engines, round-robin next to the default policy; ends within a minute
#   make test         lint, types, layers, tests; on every supported Python that is found
#   make redis-server a Redis server for the tests, in ~/.cache, where none is on PATH
#   make test-vllm    the end-to-end suite on the real engine (first run: 3.5 GB and some minutes)
#   make wheel-check  builds the wheel, checks what is in it, and runs it
#   make bench        router CPU per request, next to its peers
# Another interpreter for .venv: make PYTHON=/path/to/python3 test

PYTHON ?=
VENV := .venv
BIN := $(VENV)/bin
OTHER_VERSIONS := 3.12 3.13
PYTEST := -m pytest --ignore=tests/vllm

.PHONY: demo test test-here test-others test-vllm redis-server redis-tried lint wheel-check bench clean
.DELETE_ON_ERROR:

demo: $(VENV)/.installed
	$(BIN)/kvroute demo

test: lint redis-tried test-here test-others

test-here: $(VENV)/.installed-dev
	$(BIN)/python $(PYTEST)

redis-server: $(VENV)/.installed-dev
	@./.ci/redis-server $(BIN)/python

# Without one the tests that need it are skipped, and say so.
redis-tried: $(VENV)/.installed-dev
	@./.ci/redis-server $(BIN)/python || echo "no Redis server could be fetched: tests that need one are skipped"

# A version that is missing, or that .venv has already run, is passed over. What whole processes do is tried once.
test-others: $(VENV)/.installed-dev
	@set -e; for version in $(OTHER_VERSIONS); do \
	    if $(BIN)/python --version | grep -q "^Python $$version\."; then continue; fi; \
	    if ! ./.ci/find-python $$version >/dev/null 2>&1; then echo "Python $$version: not here, skipped"; continue; fi; \
	    $(MAKE) --no-print-directory .venv-$$version/.installed-dev; \
	    echo "Python $$version:"; \
	    .venv-$$version/bin/python $(PYTEST) --ignore=tests/system; \
	done

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	MYPYPATH=src:. $(BIN)/mypy -p kvroute -p tests
	$(BIN)/lint-imports

# The engine has an environment of its own; the suite and the router run from .venv.
test-vllm: $(VENV)/.installed-dev
	$(BIN)/python tests/vllm/environment.py
	$(BIN)/python -m pytest tests/vllm -v -o log_cli=true -o log_cli_level=INFO

wheel-check: $(VENV)/.installed-dev
	$(BIN)/python .ci/wheel_check.py

bench: $(VENV)/.installed-dev
	$(BIN)/python -m bench

# The environments and what the tools left behind; the real engine's environment is kept (see tests/vllm/environment.py).
clean:
	rm -rf .venv .venv-* .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache dist build
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Stamps: an environment is installed again only when pyproject.toml changed. One that was left half-made is made anew.
.venv/.made:
	@python=$${PYTHON:-$$(./.ci/find-python)} || exit 1; $(MAKE_VENV)

.venv-%/.made:
	@python=$$(./.ci/find-python $*) || exit 1; $(MAKE_VENV)

define MAKE_VENV
{ $(@D)/bin/python -m pip --version >/dev/null 2>&1 || "$$python" -m venv --clear $(@D); } && touch $@
endef

%/.installed: %/.made pyproject.toml
	$(@D)/bin/python -m pip install -q --disable-pip-version-check -e .
	@touch $@

%/.installed-dev: %/.made pyproject.toml
	$(@D)/bin/python -m pip install -q --disable-pip-version-check -e '.[dev]'
	@touch $@ $(@D)/.installed
