#!/usr/bin/env bash
# A sweep as a Slurm job array: one task per learning rate and seed, and one report of all runs.
#
#   sbatch examples/sweep.sh
#   SLURM_ARRAY_TASK_ID=0 examples/sweep.sh cartpole --total-env-steps 5000     one task, by hand
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
number=${SLURM_ARRAY_TASK_ID:?"this script is one task of a Slurm array; run sbatch $0"}
rate=${rates[$((number % 3))]}
seed=$((number / 3))

# The directory is the same after a requeue, so the run resumes.
hvd-dqn train "${@:-cartpole}" --optimizer.learning-rate "$rate" --seed "$seed" \
  --run-dir "runs/sweep/rate-$rate-seed-$seed" &
job=$!
trap 'kill -USR1 $job' USR1 TERM   # Slurm warns before the time limit: save a checkpoint, exit 75
while kill -0 "$job" 2> /dev/null; do wait "$job" && code=0 || code=$?; done
[ "$code" != 75 ] || scontrol requeue "${SLURM_JOB_ID:-}" 2> /dev/null || true
exit "$code"
