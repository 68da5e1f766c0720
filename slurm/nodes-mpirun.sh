#!/bin/bash
# 4 ranks on each of 2 nodes, with GPUs, by mpirun.
#   hvd-dqn slurm render --nodes 2 --gpus-per-node 4 --cpus-per-rank 8 --launcher mpirun -- train rainbow
#SBATCH --job-name=rainbow
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=4
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=8
#SBATCH --hint=nomultithread
#SBATCH --time=04:00:00
#SBATCH --signal=B:USR1@300
#SBATCH --requeue
#SBATCH --no-kill
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.out

# shellcheck source=/dev/null
source .venv/bin/activate
set -uo pipefail
join() { local IFS=,; echo "$*"; }

# The run's directory, on a file system that all nodes share. A job that comes back goes on in it.
: "${RUN_DIR:=$PWD/runs/$SLURM_JOB_NAME-$SLURM_JOB_ID}"
mkdir -p "$RUN_DIR/logs" || exit 2

# Since Slurm 22.05 srun does not take --cpus-per-task from the job by itself.
export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK OMP_NUM_THREADS=$SLURM_CPUS_PER_TASK
export NCCL_DEBUG=WARN

# Before the time limit Slurm sends USR1 to this script, which passes it on; where another job takes
# the nodes, the ranks get TERM. They save a checkpoint and exit 75.
asked=0 heard=0 step='' code=75
trap 'asked=1 heard=1; [ -z "$step" ] || kill -USR1 "$step"' USR1 TERM

for ((attempt = 1; attempt <= 4 && !asked; attempt++)); do
  # The nodes that Slurm still has and that pass their own check; bad ones are named and left out.
  mapfile -t nodes < <(sinfo -hN -n "$SLURM_JOB_NODELIST" -t alloc,mix,comp,drng -o %N | sort -u)
  # shellcheck disable=SC2016  # each node says its own name
  bad=$(srun --overlap --immediate=60 --mpi=none -w "$(join "${nodes[@]}")" --ntasks=${#nodes[@]} \
    --ntasks-per-node=1 bash -c 'hvd-dqn doctor --node >&2 || echo "$SLURMD_NODENAME"')
  [ -z "$bad" ] || mapfile -t nodes < <(printf '%s\n' "${nodes[@]}" | grep -vxF "$bad")
  if ((${#nodes[@]} < ${MIN_NODES:-SLURM_NNODES})); then
    echo "left are ${nodes[*]}; the queue may have others"
    asked=1
  fi
  ((asked)) && break

  ranks=$((${#nodes[@]} * SLURM_NTASKS_PER_NODE))
  mpirun -np $ranks -H "$(join "${nodes[@]/%/:$SLURM_NTASKS_PER_NODE}")" \
    --map-by "slot:PE=$SLURM_CPUS_PER_TASK" --bind-to core \
    hvd-dqn train rainbow --run-dir "$RUN_DIR" &
  step=$!
  wait $step; code=$?
  while ((heard)); do heard=0; wait $step; code=$?; done  # the signal had ended the wait
  step=''
  case $code in 0 | 2 | 75) break ;; esac
  echo "attempt $attempt on ${nodes[*]} ended in $code"
done

# Back to the queue, unless it was cancelled; where a job may not be requeued, a new one goes on in
# the same directory.
if ((code == 75 || (asked && code != 0 && code != 2))) && [ "$(squeue -hj "$SLURM_JOB_ID" -o %T)" = RUNNING ]; then
  export RUN_DIR REQUEUES=$((${REQUEUES:-0} + ${SLURM_RESTART_COUNT:-0}))
  if ((REQUEUES >= 20)); then
    echo "requeued $REQUEUES times already: not again"
  elif ! scontrol requeue "$SLURM_JOB_ID"; then
    REQUEUES=$((REQUEUES + 1)) sbatch "$0"
  fi
fi
exit "$code"
