#!/bin/bash
# Train in an interactive allocation, with output in this terminal. Ctrl-C saves a checkpoint.
#
#   slurm/interactive.sh --nodes=2 --ntasks-per-node=4 --gpus-per-node=4 --cpus-per-task=8 -- \
#     train rainbow --run-dir runs/try
set -euo pipefail

options=()
while (($#)) && [ "$1" != -- ]; do options+=("$1"); shift; done
if (($# < 2)); then
  echo "usage: $0 [salloc's options] -- train PRESET …" >&2
  exit 2
fi
shift

# srun does not inherit --cpus-per-task, and without --disable-status it swallows the first Ctrl-C.
# shellcheck disable=SC2016  # the shell in the allocation expands these
exec salloc "${options[@]}" bash -c '
  export SRUN_CPUS_PER_TASK=${SLURM_CPUS_PER_TASK:-1} OMP_NUM_THREADS=${SLURM_CPUS_PER_TASK:-1}
  exec srun --disable-status --mpi=pmix --cpu-bind=cores --kill-on-bad-exit=1 hvd-dqn "$@"
' hvd-dqn "$@"
