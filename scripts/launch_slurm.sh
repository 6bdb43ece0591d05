#!/usr/bin/env bash
# A study as an array of independent shards: each task takes what no other has begun, and a lost one costs one batch.
#   sbatch scripts/launch_slurm.sh study.yaml /shared/runs/study
#   DRY=1 bash scripts/launch_slurm.sh study.yaml /shared/runs/study      prints what a task would run
#SBATCH --job-name=vatjax
#SBATCH --array=1-16              # CHANGE: how many shards
#SBATCH --ntasks=1
#SBATCH --gpus-per-task=1         # CHANGE: what one shard has; more are used as copies of the model, or with --mesh.fsdp
#SBATCH --cpus-per-task=8
#SBATCH --mem=64G
#SBATCH --time=08:00:00           # CHANGE
#SBATCH --requeue
#SBATCH --signal=TERM@120         # two minutes before the end: a shard finishes the batch of answers that it is at
set -euo pipefail
export VATJAX_STOP_SECONDS=110    # of these two minutes; without it a shard ends after 4 s

study="${1:?a study file}"
out="${2:?a folder that all nodes share}"
venv="${VENV:-$HOME/vatjax}"      # CHANGE: where vatjax is installed, with its cuda extra

shard="${SLURM_ARRAY_TASK_ID:-1}/${SLURM_ARRAY_TASK_COUNT:-1}"
run=("$venv/bin/vatjax" run "$study" --out "$out" --shard "$shard")
if [ -n "${DRY:-}" ]; then
  printf '%q ' "${run[@]}" && echo
  exit
fi
status=0
srun "${run[@]}" || status=$?
if [ "$status" = 75 ]; then       # asked to go: this task takes its place in the queue again
  scontrol requeue "${SLURM_ARRAY_JOB_ID}_${SLURM_ARRAY_TASK_ID}"
  exit 0
fi
exit "$status"
