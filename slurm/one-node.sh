#!/bin/bash
# 4 ranks on one node, with GPUs, started by srun with PMIx.
#   hvd-dqn slurm render --gpus-per-node 4 --cpus-per-rank 8 -- train rainbow
#SBATCH --job-name=rainbow
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=4
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=8
#SBATCH --threads-per-core=1
#SBATCH --time=04:00:00
#SBATCH --signal=B:USR1@300
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.out

# shellcheck source=/dev/null
source .venv/bin/activate || exit 2
set -uo pipefail
join() { local IFS=,; echo "$*"; }

# The run directory, on a file system that all nodes share. A requeued job resumes the run in it.
job=$SLURM_JOB_ID
export RUN_DIR=${RUN_DIR:-$PWD/runs/$SLURM_JOB_NAME-$SLURM_JOB_ID}

export OMP_NUM_THREADS=$SLURM_CPUS_PER_TASK
# Since Slurm 22.05, srun does not inherit --cpus-per-task from the job.
export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK
export NCCL_DEBUG=${NCCL_DEBUG:-WARN}

# Before the time limit, Slurm sends USR1 to this script, which forwards it to the ranks. If the job
# is preempted, the ranks get TERM. In both cases they save a checkpoint and exit with 75.
asked=0 heard=0 step='' code=75 bad=()
trap 'asked=1 heard=1; [ -z "$step" ] || kill -USR1 "$step"' USR1 TERM
await() {  # a signal interrupts `wait`, but not the process: wait again
  wait "$1"; code=$?
  while ((heard)); do heard=0; wait "$1"; code=$?; done
}

for ((attempt = 1; attempt <= 4 && !asked; attempt++)); do
  logs=$RUN_DIR/logs/$job.${SLURM_RESTART_COUNT:-0}.$attempt
  mkdir -p "$logs" || exit 2
  ((attempt == 1)) || { sleep $((10 * (attempt - 1))) & await $!; }

  # The nodes that are still allocated and pass a health check.
  mapfile -t all < <(sinfo -rhN -n "$SLURM_JOB_NODELIST" -t alloc,mix,comp,drng -o %N | sort -u)
  ((${#all[@]})) || mapfile -t all < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
  # shellcheck disable=SC2016  # each node expands its own name
  timeout -k 10 300 srun --overlap --immediate=60 --mpi=none --kill-on-bad-exit=0 \
    -w "$(join "${all[@]}")" --ntasks=${#all[@]} --ntasks-per-node=1 \
    bash -c 'hvd-dqn doctor --node --gpus 4 >&2 && state=healthy || state=bad; echo "$state $SLURMD_NODENAME"' \
    > "$logs/nodes" &
  await $!
  ((asked)) && { code=75; break; }
  mapfile -t nodes < <(sed -n 's/^healthy //p' "$logs/nodes" | sort -V)
  mapfile -t bad < <(sed -n 's/^bad //p' "$logs/nodes" | sort -V)
  before=$(cat "$RUN_DIR/logs/well" 2> /dev/null)
  echo "${nodes[*]:-none}" > "$RUN_DIR/logs/well"
  if [ "${nodes[*]:-none} $before" = "none none" ]; then
    echo "no healthy node, twice in a row: ${all[*]}"; code=1; break
  elif ((${#nodes[@]} < SLURM_NNODES)); then
    echo "healthy nodes: ${nodes[*]:-none} of ${all[*]}; requeueing for others"; code=75; break
  fi

  ranks=$((${#nodes[@]} * SLURM_NTASKS_PER_NODE))
  start=(srun --overlap --mpi=pmix -w "$(join "${nodes[@]}")" --nodes=${#nodes[@]}
    --ntasks="$ranks" --threads-per-core=1 --cpu-bind=cores --kill-on-bad-exit=1 --wait=60)

  # Check all ranks together, for some seconds: devices, the shared directory, an allreduce.
  if ((ranks > 1)); then
    timeout -k 10 300 "${start[@]}" hvd-dqn doctor --shared "$RUN_DIR" > "$logs/doctor.txt" 2>&1 &
    await $!
    ((asked)) && { code=75; break; }
    if ((code)); then
      cat "$logs/doctor.txt"
      echo "attempt $attempt: the check of all ranks on ${nodes[*]} failed ($code)"
      continue
    fi
  fi

  "${start[@]}" --output="$logs/rank-%t.txt" hvd-dqn train rainbow --run-dir "$RUN_DIR" &
  step=$!
  ((heard)) && kill -USR1 "$step"
  tail -qn+1 -F "$logs/rank-0.txt" --pid=$step 2> /dev/null &
  tail=$!
  await $step
  step=''
  wait $tail
  # Exit code 2, invalid input, is final on the first attempt only. Later it may mean that the run
  # directory is still locked by the attempt before.
  ((code == 0 || code == 75 || (code == 2 && attempt + ${SLURM_RESTART_COUNT:-0} == 1))) && break
  echo "attempt $attempt on ${nodes[*]} failed with exit code $code"
  grep -h '^hvd-dqn: ' "$logs"/rank-*.txt | tail -n 3
done

# Requeue the job unless it was cancelled, and exclude bad nodes if Slurm has others. If the cluster
# does not allow requeueing, submit a new job that resumes the run in the same directory.
if ((code == 75 || (asked && code != 0 && code != 2))); then
  trap '' TERM  # Slurm sends TERM to this script and its commands once the job is requeued
  for _ in 1 2 3; do state=$(squeue -hj "$job" -o %T) && break; sleep 5; done
  REQUEUES=$((${REQUEUES:-0} + ${SLURM_RESTART_COUNT:-0}))
  avoid=''
  if ((${#bad[@]})); then
    known=$(scontrol show job -o "$job" | sed -n 's/.* ExcNodeList=\([^ ]*\).*/\1/p' | grep -v null)
    avoid=${known:+$known,}$(join "${bad[@]}")
    sbatch --test-only --exclude="$avoid" "$0" || avoid=$known
  fi
  if [ "$state" != RUNNING ]; then
    echo "not requeued: the job is ${state:-unknown to squeue}"
  elif ((REQUEUES >= 20)); then
    echo "not requeued: already requeued $REQUEUES times"
  else
    if said=$(scontrol requeue "$job" 2>&1); then
      [ -z "$avoid" ] || scontrol update JobId="$job" ExcNodeList="$avoid"
    else
      echo "$said"
      [[ $said != *disabled* ]] || REQUEUES=$((REQUEUES + 1)) \
        sbatch --begin=now+2minutes --partition="$SLURM_JOB_PARTITION" ${avoid:+--exclude="$avoid"} \
        "$0"
    fi
  fi
fi
exit "$code"
