# Two commands do everything on a fresh machine: each makes its environment, then its job.
#   make demo   train the embedded isoFLOP family, fit it, plan four times its largest budget,
#               train that, and hold the forecast against what came true
#   make assistant   after that: SFT, preferences, a reward model, DPO and PPO, each graded
#   make backtest TABLES=DIR   score forecasting methods on the measured tables in DIR
#   make test   run every test
# A second call finds the environment ready. `make demo PYTHON=python3.13` chooses a Python.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
TORCH := $(shell sed -n 's/^\(torch==.*\)/\1/p' constraints.txt)
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export MLFLOW_DISABLE_TELEMETRY := true
# Some hundred Pythons are started: what one has compiled the next ones need not.
unexport PYTHONDONTWRITEBYTECODE

# The daemons of Slurm for tests/launch/test_slurm.py. Without root or apt-get nothing happens, and those tests skip.
SLURM := slurmctld slurmd munge slurm-client

.PHONY: demo assistant backtest test slurm lint bench clean

demo: $(VENV)/.core
	$(BIN)/scalelab sweep sweeps/isoflop.yaml
	$(BIN)/scalelab fit isoflop
	$(BIN)/scalelab plan isoflop --budget 6.4e12
	$(BIN)/scalelab launch plans/isoflop-6.4e12

assistant: demo
	$(BIN)/scalelab posttrain sweeps/posttrain/assistant.yaml

TABLES ?= tables
backtest: $(VENV)/.core
	$(BIN)/scalelab backtest --tables $(TABLES)

test: $(VENV)/.dev slurm
	$(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder

slurm:
	@if [ -x /usr/sbin/slurmctld ] || [ "$$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then :; else \
	  apt-get -o Acquire::http::Timeout=20 -o Acquire::Retries=1 update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $(SLURM) \
	  || echo "Slurm could not be installed: its tests will be skipped"; fi

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

bench: $(VENV)/.dev
	for f in analysis/bench/*.py; do echo "== $$f"; $(BIN)/python $$f || exit 1; done

# torch by its exact version and first, so that no other requirement chooses another build.
$(VENV)/.core: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet $(TORCH)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e .
	touch $@

$(VENV)/.dev: $(VENV)/.core
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[dev,text,tables,post,eval,data,ray]"
	touch $@

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache
