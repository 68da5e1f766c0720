#!/bin/bash
# 4 ranks on each of 2 nodes, with GPUs, by mpirun.
#   hvd-dqn slurm render --nodes 2 --gpus-per-node 4 --cpus-per-rank 8 --launcher mpirun -- train rainbow
#SBATCH --job-name=rainbow
#SBATCH --nodes=2
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

# The run's directory, on a file system that all nodes share. A job that comes back goes on in it.
job=$SLURM_JOB_ID
export RUN_DIR=${RUN_DIR:-$PWD/runs/$SLURM_JOB_NAME-$SLURM_JOB_ID}

export OMP_NUM_THREADS=$SLURM_CPUS_PER_TASK
export NCCL_DEBUG=${NCCL_DEBUG:-WARN}

# Before the time limit Slurm sends USR1 to this script, which passes it on; where another job takes
# the nodes, the ranks get TERM. They save a checkpoint and exit 75.
asked=0 heard=0 step='' code=75 ill=()
trap 'asked=1 heard=1; [ -z "$step" ] || kill -USR1 "$step"' USR1 TERM
await() {  # a signal ends a wait, but not the process
  wait "$1"; code=$?
  while ((heard)); do heard=0; wait "$1"; code=$?; done
}

for ((attempt = 1; attempt <= 4 && !asked; attempt++)); do
  logs=$RUN_DIR/logs/$job.${SLURM_RESTART_COUNT:-0}.$attempt
  mkdir -p "$logs" || exit 2
  ((attempt == 1)) || { sleep $((10 * (attempt - 1))) & await $!; }

  # The nodes that Slurm still has and that find nothing wrong with themselves.
  mapfile -t all < <(sinfo -rhN -n "$SLURM_JOB_NODELIST" -t alloc,mix,comp,drng -o %N | sort -u)
  ((${#all[@]})) || mapfile -t all < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
  # shellcheck disable=SC2016  # each node says its own name
  timeout -k 10 300 srun --overlap --immediate=60 --mpi=none --kill-on-bad-exit=0 \
    -w "$(join "${all[@]}")" --ntasks=${#all[@]} --ntasks-per-node=1 \
    bash -c 'hvd-dqn doctor --node --gpus 4 >&2 && state=well || state=ill; echo "$state $SLURMD_NODENAME"' \
    > "$logs/nodes" &
  await $!
  ((asked)) && { code=75; break; }
  mapfile -t nodes < <(sed -n 's/^well //p' "$logs/nodes" | sort -V)
  mapfile -t ill < <(sed -n 's/^ill //p' "$logs/nodes" | sort -V)
  before=$(cat "$RUN_DIR/logs/well" 2> /dev/null)
  echo "${nodes[*]:-none}" > "$RUN_DIR/logs/well"
  if [ "${nodes[*]:-none} $before" = "none none" ]; then
    echo "no node is well, and none was before: ${all[*]}"; code=1; break
  elif ((${#nodes[@]} < SLURM_NNODES)); then
    echo "well of ${all[*]}: ${nodes[*]:-none}; the queue may have others"; code=75; break
  fi

  ranks=$((${#nodes[@]} * SLURM_NTASKS_PER_NODE))
  hosts=$(join "${nodes[@]/%/:$SLURM_NTASKS_PER_NODE}")
  start=(mpirun --map-by slot:PE="$SLURM_CPUS_PER_TASK" --bind-to core -np "$ranks" -H "$hosts"
    -x PATH)

  # All ranks together, for some seconds: where each is, whether they see one directory, and a sum.
  if ((ranks > 1)); then
    timeout -k 10 300 "${start[@]}" hvd-dqn doctor --shared "$RUN_DIR" > "$logs/doctor.txt" 2>&1 &
    await $!
    ((asked)) && { code=75; break; }
    if ((code)); then
      cat "$logs/doctor.txt"
      echo "attempt $attempt: the ranks on ${nodes[*]} are not well together ($code)"
      continue
    fi
  fi

  hvd-dqn launch -np $ranks -H "$hosts" --max-restarts 0 \
    --launcher "mpirun --map-by slot:PE=$SLURM_CPUS_PER_TASK --bind-to core" \
    -- train rainbow --run-dir "$RUN_DIR" &
  step=$!
  ((heard)) && kill -USR1 "$step"
  await $step
  step=''
  # What is wrong with the command is so at once; later, another attempt may still be dying.
  ((code == 0 || code == 75 || (code == 2 && attempt + ${SLURM_RESTART_COUNT:-0} == 1))) && break
  echo "attempt $attempt on ${nodes[*]} ended in $code"
done

# Back to the queue, unless it was cancelled, and away from nodes that are ill, where Slurm has others.
# Where a job may not be requeued, a new one goes on in the same directory.
if ((code == 75 || (asked && code != 0 && code != 2))); then
  trap '' TERM  # with which Slurm ends this script, and what it calls, once the job is requeued
  for _ in 1 2 3; do state=$(squeue -hj "$job" -o %T) && break; sleep 5; done
  REQUEUES=$((${REQUEUES:-0} + ${SLURM_RESTART_COUNT:-0}))
  avoid=''
  if ((${#ill[@]})); then
    known=$(scontrol show job -o "$job" | sed -n 's/.* ExcNodeList=\([^ ]*\).*/\1/p' | grep -v null)
    avoid=${known:+$known,}$(join "${ill[@]}")
    sbatch --test-only --exclude="$avoid" "$0" || avoid=$known
  fi
  if [ "$state" != RUNNING ]; then
    echo "not requeued: the job is ${state:-unknown to squeue}"
  elif ((REQUEUES >= 20)); then
    echo "not requeued: it came back $REQUEUES times already"
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
