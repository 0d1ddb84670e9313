# `make run` and `make test` need Python ≥ 3.11 and nothing else; both make the virtual environment first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --no-input

.PHONY: setup setup-dev run demo test lint bench bench-page soak laboratory long-tests backfill-soak several fuzz prism lock clean

# The lock files have all that is needed, so pip is to look for nothing else.
setup: $(VENV)/.runtime
setup-dev: $(VENV)/.dev

$(VENV)/.python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Kvit needs Python 3.11 or newer; set PYTHON=… to one." >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.runtime: requirements.lock pyproject.toml | $(VENV)/.python
	$(PIP) install --quiet --no-deps --require-hashes --requirement requirements.lock
	$(PIP) install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/.dev: requirements-dev.lock $(VENV)/.runtime
	$(PIP) install --quiet --no-deps --require-hashes --requirement requirements-dev.lock
	@touch $@

$(VENV)/.fuzz: requirements-fuzz.lock $(VENV)/.dev
	@$(PIP) install --quiet --only-binary :all: --no-deps --require-hashes --requirement requirements-fuzz.lock || { \
		echo "fuzz: atheris can't be installed for this Python; it has wheels for CPython 3.11 to 3.14 on Linux x86-64." >&2; \
		exit 2; }
	@touch $@

# Everything on this machine, with the sample shop; stays up until Ctrl-C.
run: setup
	@exec $(BIN)/kvit up --sample

# The same main job in a temporary folder; ends by itself.
demo: setup
	@$(BIN)/kvit demo

# make test ARGS=tests/rules for a part. A file's tests stay together, since they share what they have started. Files are
# taken in their order: sorted by how many tests they have, the laboratory's few and long ones would come last and alone.
test: setup-dev
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder -m "not long" $(ARGS)

lint: setup-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-cache
	$(BIN)/pyright

# make bench ONLY=latency,burst for a part; BENCH="--database sqlite --payments 200" for a short run, BENCH=--full for a
# backfill of 100 000 orders too. JSON comes on standard output: make bench > bench.json.
bench: setup-dev
	@$(BIN)/python tests/bench/bench.py $(if $(ONLY),--only $(ONLY)) $(BENCH)

# Makes docs/benchmarks.md, with its pictures, of what make bench has printed: kept in docs/measured, or FROM=bench.json.
FROM ?= $(wildcard docs/measured/bench-*.json)
bench-page: setup-dev
	@$(BIN)/python tests/bench/bench.py --page $(FROM)

# Breaks things until 10 000 faults were injected, and counts what was lost or doubled; takes about an hour. Then fuzzes.
# make soak ARGS="--seed 17 --experiments 1" repeats one experiment, and does nothing else.
soak: laboratory $(if $(ARGS),,long-tests backfill-soak several fuzz)

# Tests that take a minute or more each.
long-tests: setup-dev
	$(BIN)/python -m pytest -m long

laboratory: setup-dev
	@$(BIN)/python tests/faults/soak.py $(ARGS)

# Carries 10 000 orders on in bulk, kills that three times, goes on each time, and counts what was done twice or never.
# make backfill-soak BACKFILL="--orders 500 --age" for a short one.
backfill-soak: setup-dev
	@$(BIN)/python tests/faults/backfill.py $(BACKFILL)

# Several dispatchers and web processes on one PostgreSQL, of which one after the other is cut off; takes some minutes.
several: setup-dev
	@$(BIN)/python tests/faults/several.py $(SEVERAL)

# Gives every parser of untrusted input, for a minute each, what a coverage-guided fuzzer makes up.
# make fuzz ARGS="--only camt,rules --seconds 600 --corpus FOLDER" for a part, at length, kept for the next run.
fuzz: $(VENV)/.fuzz
	@$(BIN)/python tests/faults/fuzz.py $(ARGS)

# Lets YooKassa's own specification judge what the connector asks and what the stand-in answers. Needs Node.js.
# make prism SPEC=FILE, where FILE is the OpenAPI document that YooKassa publishes in its documentation.
prism: setup-dev
	@test -f "$(SPEC)" || { echo "prism: set SPEC=… to YooKassa's OpenAPI document." >&2; exit 2; }
	KVIT_PRISM="npx --yes @stoplight/prism-cli@5.14.2" KVIT_YOOKASSA_SPEC="$(SPEC)" \
		$(BIN)/python -m pytest tests/contract/test_yookassa_specification.py

# Needs uv; writes versions and hashes only.
lock:
	uv pip compile pyproject.toml --generate-hashes --no-emit-index-url --universal --python-version 3.11 \
		--no-header --no-annotate --quiet -o requirements.lock
	uv pip compile pyproject.toml --extra dev --generate-hashes --no-emit-index-url --universal --python-version 3.11 \
		--no-header --no-annotate --quiet -c requirements.lock -o requirements-dev.lock
	uv pip compile pyproject.toml --extra traces --generate-hashes --no-emit-index-url --universal --python-version 3.11 \
		--no-header --no-annotate --quiet -c requirements.lock -o requirements-traces.lock
	uv pip compile pyproject.toml --extra several --extra traces --generate-hashes --no-emit-index-url --universal \
		--python-version 3.11 --no-header --no-annotate --quiet -c requirements.lock -o requirements-several.lock
	uv pip compile pyproject.toml --extra fuzz --generate-hashes --no-emit-index-url --universal --python-version 3.11 \
		--no-header --no-annotate --quiet -c requirements.lock -o requirements-fuzz.lock

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache .hypothesis
