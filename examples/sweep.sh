#!/usr/bin/env bash
# A sweep as an array of Slurm jobs, one for each learning rate and seed; one report of them all.
#
#   sbatch examples/sweep.sh
#   SLURM_ARRAY_TASK_ID=0 examples/sweep.sh cartpole --total_env_steps 5000     one of them, by hand
#   hvd-dqn report runs/sweep/*
#
#SBATCH --job-name=sweep
#SBATCH --array=0-8
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=2
#SBATCH --time=01:00:00
#SBATCH --output=sweep-%A-%a.log
#SBATCH --signal=B:USR1@120
#SBATCH --requeue
set -euo pipefail

rates=(3e-4 1e-3 3e-3)
number=${SLURM_ARRAY_TASK_ID:?"this is one task of a Slurm array: sbatch $0"}
rate=${rates[$((number % 3))]}
seed=$((number / 3))

# The same directory after a requeue: the run goes on where it was.
hvd-dqn train "${@:-cartpole}" --optimizer.learning_rate "$rate" --seed "$seed" \
  --run-dir "runs/sweep/rate-$rate-seed-$seed" &
job=$!
trap 'kill -USR1 $job' USR1 TERM   # Slurm's warning before the time limit: a checkpoint, and exit 75
while kill -0 "$job" 2> /dev/null; do wait "$job" && code=0 || code=$?; done
[ "$code" != 75 ] || scontrol requeue "${SLURM_JOB_ID:-}" 2> /dev/null || true
exit "$code"
