# make demo and make test are all the set-up there is: both make the virtual environment first.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
PEERS := .venv/.peers
OLD_SPIKINGJELLY := .venv/spikingjelly-0.0.0.0.14

.PHONY: demo paper test test-quick check format bench golden frameworks fuzz zoo gpu train-demo ablation train-cifar10 report-cifar10 wheel clean

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet torch==2.13.0 -c constraints.txt
	$(BIN)/python -m pip install --quiet --editable '.[dev]' -c constraints.txt
	touch $(STAMP)

# Frameworks that the tests profile networks of, and other counters that they compare with. Those ask for other
# versions of what is installed, so they come without their dependencies; one version of a package has one folder.
$(PEERS): $(STAMP) tests/networks/peers.txt
	$(BIN)/python -m pip install --quiet --editable '.[dev,frameworks]' -c constraints.txt
	$(BIN)/python -m pip install --quiet --no-deps -r tests/networks/peers.txt
	rm -rf $(OLD_SPIKINGJELLY)
	$(BIN)/python -m pip install --quiet --no-deps --target $(OLD_SPIKINGJELLY) spikingjelly==0.0.0.0.14
	touch $(PEERS)

demo: $(STAMP)
	$(BIN)/snn-energy demo -o reports/demo
	$(BIN)/snn-energy break-even reports/demo/dts-spikformer-2-64.json reports/demo/vit-2-64.json \
	  --hardware dts-paper-fpga -o reports/break-even
	mkdir -p reports/audit
	$(BIN)/snn-energy audit reports/demo/spikformer-2-64.json --hardware dts-paper-fpga \
	  --csv reports/audit/spikformer-2-64.csv --markdown reports/audit/spikformer-2-64.md

paper: $(STAMP)
	$(BIN)/snn-energy reproduce -o reports/paper

# Two files of tests at a time, one thread each: half the time on two cores.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

test: $(PEERS)
	$(PYTEST)

# What a change breaks first: rules, formulas, formats, layout. Under a minute.
test-quick: $(PEERS)
	$(PYTEST) $(addprefix tests/,contract core counts hardware running pricing/test_energy.py profiler/rules \
	  profiler/tracking profiler/values profiler/test_timesteps.py)

check: $(PEERS)
	$(BIN)/ruff format --check snn_energy tests
	$(BIN)/ruff check snn_energy tests
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(PYTEST)

# Random networks against a brute-force count, e.g. make fuzz N=3000 SEED=1000; failures are shrunk and printed.
N ?= 3000
SEED ?= 1000
FLOWS ?= 0
fuzz: $(PEERS)
	OMP_NUM_THREADS=1 $(BIN)/python tests/differential/fuzz.py --networks $(N) --flows $(FLOWS) --seed $(SEED)

REF ?= HEAD
golden: $(PEERS)
	$(BIN)/python tests/golden/make_golden.py --ref $(REF)

frameworks: $(PEERS)
	PYTHONPATH=tests/networks $(BIN)/python -m pytest -p frameworks_table $(addprefix tests/,profiler/test_frameworks.py \
	  profiler/test_inspection.py checkpoints/test_nir.py models/test_public_spikformer.py checkpoints/test_real_checkpoints.py)

format: $(STAMP)
	$(BIN)/ruff format snn_energy tests
	$(BIN)/ruff check --fix snn_energy tests

bench: $(PEERS)
	$(BIN)/python tests/bench/bench_training.py
	PYTHONPATH=tests/oracles:tests/networks $(BIN)/python tests/bench/bench.py
	PYTHONPATH=tests/oracles:tests/networks:tests/bench $(BIN)/python tests/bench/first_call.py

# Writes docs/zoo.md: what is found, what is equal, what it costs.
zoo: $(PEERS)
	PYTHONPATH=tests/oracles:tests/networks:tests/zoo OMP_NUM_THREADS=1 $(BIN)/python tests/zoo/table.py

gpu: $(PEERS)
	$(BIN)/python tests/bench/gpu.py -o reports/gpu --device cuda $(if $(DATA),--data $(DATA)) $(CHECKPOINTS)

train-demo: $(STAMP)
	$(BIN)/python -m snn_energy.studies.train_demo

ablation: $(STAMP)
	$(BIN)/snn-energy ablate digits -o reports/ablation-digits --device cpu --processes 2

# Both need DATA=cifar10:PATH or DATA=packed-jpeg:PATH; the training takes some two hours on two CPU cores.
CIFAR := checkpoints/cifar10
RUNS := runs/cifar10
train-cifar10: $(STAMP)
	test -n "$(DATA)"
	mkdir -p $(RUNS) $(CIFAR)
	$(BIN)/snn-energy train cifar10-2-128-vit --data $(DATA) --device cpu -o $(RUNS)/vit-2-128.safetensors
	$(BIN)/snn-energy train cifar10-2-128-t1 --data $(DATA) --device cpu -o $(RUNS)/cifar10-2-128-t1.safetensors
	for name in spikformer dts; do \
	  $(BIN)/snn-energy train cifar10-2-128-$$name --data $(DATA) --device cpu \
	    --start-from $(RUNS)/cifar10-2-128-t1.safetensors -o $(RUNS)/$$name-2-128.safetensors || exit 1; \
	done
	$(BIN)/snn-energy half $(RUNS)/vit-2-128.safetensors --data $(DATA) -o $(CIFAR)/vit-2-128.safetensors
	$(BIN)/snn-energy half $(RUNS)/spikformer-2-128.safetensors --data $(DATA) -o $(CIFAR)/spikformer-2-128.safetensors
	$(BIN)/snn-energy half $(RUNS)/dts-2-128.safetensors --data $(DATA) -o $(CIFAR)/dts-spikformer-2-128.safetensors

report-cifar10: $(STAMP)
	test -n "$(DATA)"
	mkdir -p reports/cifar10
	for name in vit spikformer dts-spikformer; do \
	  $(BIN)/snn-energy profile $(CIFAR)/$$name-2-128.safetensors --data $(DATA) -o reports/cifar10/$$name-2-128.json || exit 1; \
	done
	$(BIN)/snn-energy compare $(foreach n,vit spikformer dts-spikformer,reports/cifar10/$(n)-2-128.json) --hardware dts-paper-fpga --baseline dts-spikformer-2-128 \
	  --folder reports/cifar10

wheel: $(STAMP)
	$(BIN)/python -m build --wheel --no-isolation

clean:
	rm -rf .venv dist build .pytest_cache .mypy_cache .ruff_cache .hypothesis
