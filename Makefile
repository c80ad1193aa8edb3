# Needs Python 3.11, 3.12 or 3.13. The first target makes .venv: what runs the program needs requirements.txt,
# what checks it requirements-dev.txt, too.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo demo-readmission evidence audit test test-fast coverage check format bench bench-accuracy chaos clean

demo: .venv/installed
	$(BIN)/python -m federated_health demo

demo-readmission: .venv/installed
	$(BIN)/python -m federated_health demo --task readmission-30d

evidence: .venv/installed
	$(BIN)/python create_dataset.py --out runs/evidence/data --force
	$(BIN)/python -m federated_health evidence --data runs/evidence/data

audit: .venv/installed
	$(BIN)/python create_dataset.py --out runs/audit/data --force
	$(BIN)/python -m federated_health audit --data runs/audit/data

# One worker per core, but no more than memory has room for: each holds TensorFlow, and starts processes that do.
PYTEST := -m pytest --numprocesses auto --maxprocesses 4

test: .venv/installed-dev
	$(BIN)/python $(PYTEST)

test-fast: .venv/installed-dev
	$(BIN)/python $(PYTEST) -m "not slow"

# Without the test that limits the size of every file, coverage's own included.
coverage: .venv/installed-dev
	rm -f .coverage*
	$(BIN)/coverage run $(PYTEST) --deselect tests/test_checkpoint_crashes.py::test_a_limit_on_file_sizes_leaves_the_last_checkpoint_intact
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report

check: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: .venv/installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: .venv/installed-dev
	$(BIN)/python benchmarks/results.py

bench-accuracy: .venv/installed-dev
	$(BIN)/python benchmarks/accuracy.py
	$(BIN)/python benchmarks/flamby.py
	$(BIN)/python benchmarks/readmission.py
	$(BIN)/python benchmarks/readmission_generated.py
	$(BIN)/python benchmarks/row_split.py
	$(BIN)/python benchmarks/coverage.py

# Runs with one injected fault each, the streams of 500 hospitals, malformed messages to server and hospital, and the
# tests of hostile input. benchmarks/soak.py, which takes half an hour, is not part of it.
HOSTILE := $(foreach what,intruders connection announcements messages server_messages server_proof proxies liveness silent suspicious power stream replies checkpoint security strangers fuzz,$(wildcard tests/test_$(what)*.py tests/integration/test_$(what)*.py))

chaos: .venv/installed-dev
	$(BIN)/python benchmarks/chaos.py
	$(BIN)/python benchmarks/streams.py
	$(BIN)/python benchmarks/streams.py --hospitals 100 --rounds 11 --kind threads --idle-sockets 2600
	$(BIN)/python benchmarks/decoder.py & replies=$$!; $(BIN)/python benchmarks/decoder.py --requests && wait $$replies
	$(BIN)/python $(PYTEST) $(HOSTILE)

clean:
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .hypothesis .coverage* build dist *.egg-info

INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.venv/installed: requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' || \
		{ echo "needs Python 3.11, 3.12 or 3.13; name one with: make PYTHON=python3.13"; exit 1; }
	$(PYTHON) -m venv --clear .venv
	$(INSTALL) --requirement requirements.txt
	@touch $@

.venv/installed-dev: .venv/installed requirements-dev.txt
	$(INSTALL) --requirement requirements-dev.txt
	@touch $@
