# make demo and make test are all the set-up there is: both make the virtual environment first.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed

.PHONY: demo test check format bench train-demo wheel clean

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet torch==2.13.0 -c constraints.txt
	$(BIN)/python -m pip install --quiet --editable '.[dev]' -c constraints.txt
	touch $(STAMP)

demo: $(STAMP)
	$(BIN)/snn-energy demo -o reports/demo

test: $(STAMP)
	$(BIN)/python -m pytest

check: $(STAMP)
	$(BIN)/ruff format --check snn_energy tests
	$(BIN)/ruff check snn_energy tests
	$(BIN)/mypy
	$(BIN)/python -m pytest

format: $(STAMP)
	$(BIN)/ruff format snn_energy tests
	$(BIN)/ruff check --fix snn_energy tests

bench: $(STAMP)
	$(BIN)/python tests/bench.py

train-demo: $(STAMP)
	$(BIN)/python -m snn_energy.training.train_demo

wheel: $(STAMP)
	$(BIN)/python -m build --wheel --no-isolation

clean:
	rm -rf .venv dist build .pytest_cache .mypy_cache .ruff_cache .hypothesis
