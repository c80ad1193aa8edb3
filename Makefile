# Needs Python >= 3.11 and make. The first target that is run makes .venv from requirements.txt.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo demo-readmission evidence audit test check format bench bench-accuracy chaos clean

demo: .venv/installed
	$(BIN)/python -m federated_health demo

demo-readmission: .venv/installed
	$(BIN)/python -m federated_health demo --task readmission

evidence: .venv/installed
	$(BIN)/python create_dataset.py --out runs/evidence/data --force
	$(BIN)/python -m federated_health evidence --data runs/evidence/data

audit: .venv/installed
	$(BIN)/python create_dataset.py --out runs/audit/data --force
	$(BIN)/python -m federated_health audit --data runs/audit/data

# A worker a core, but no more than memory has room for: each holds TensorFlow, and starts processes that do.
test: .venv/installed
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 4

check: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: .venv/installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: .venv/installed
	$(BIN)/python benchmarks/results.py

bench-accuracy: .venv/installed
	$(BIN)/python benchmarks/accuracy.py
	$(BIN)/python benchmarks/flamby.py
	$(BIN)/python benchmarks/readmission.py

# Runs with a fault each, 200 hospitals' streams, malformed messages, and whatever strangers and bad inputs there are.
STRANGERS := $(foreach what,intruders messages stream replies checkpoint egress security strangers,$(wildcard tests/test_$(what)*.py tests/integration/test_$(what)*.py))

chaos: .venv/installed
	$(BIN)/python benchmarks/chaos.py
	$(BIN)/python benchmarks/streams.py
	$(BIN)/python benchmarks/decoder.py
	$(BIN)/python -m pytest $(STRANGERS) -k "intruders or refused or malformed or damaged or problem or stranger or left_out or no_message"

clean:
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .hypothesis

.venv/installed: requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "needs Python >= 3.11; name one with: make PYTHON=python3.11"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --requirement requirements.txt
	@touch $@
