#!/usr/bin/env bash
# One study on all hosts of a TPU slice, as one run. Spot machines come back: the same command goes on where it was.
#   scripts/launch_tpu.sh study.yaml gs://my-bucket/runs/study
#   DRY=1 scripts/launch_tpu.sh ...        prints the commands and runs none
# The study's items and models must be reachable from the hosts: bundled, on the Hub, or gs:// addresses.
set -euo pipefail

study="${1:?a study file}"
out="${2:?a gs:// address for the results}"

name="${NAME:-vatjax}"                         # CHANGE: of the machine
zone="${ZONE:-us-west4-a}"                     # CHANGE: where you have quota
kind="${KIND:-v5litepod-16}"                   # CHANGE: v5litepod-256, v5p-128, v6e-64 ...
runtime="${RUNTIME:-v2-alpha-tpuv5-lite}"      # CHANGE: what belongs to that kind
wheel="${WHEEL:-vatjax[tpu,gcs]}"              # CHANGE: what pip installs on the hosts
mesh="${MESH:-}"                               # CHANGE for models larger than a chip: "--mesh.fsdp 16"

say() { if [ -n "${DRY:-}" ]; then printf '%q ' "$@" && echo; else "$@"; fi; }
on_all() { say gcloud compute tpus tpu-vm ssh "$name" --zone "$zone" --worker=all --command "$1"; }

if ! say gcloud compute tpus queued-resources describe "$name" --zone "$zone" >/dev/null 2>&1 || [ -n "${DRY:-}" ]; then
  say gcloud compute tpus queued-resources create "$name" --node-id "$name" --zone "$zone" \
    --accelerator-type "$kind" --runtime-version "$runtime" --spot
fi
until [ -n "${DRY:-}" ] ||
  gcloud compute tpus queued-resources describe "$name" --zone "$zone" --format 'value(state.state)' | grep -q ACTIVE; do
  sleep 30
done
say gcloud compute tpus tpu-vm scp "$study" "$name:study.yaml" --zone "$zone" --worker=all
on_all "python3 -m pip install -q -U '$wheel'"
# The processes find each other (--distributed auto); status 75 is a machine that was asked to go.
on_all "\$HOME/.local/bin/vatjax run study.yaml --out '$out' $mesh"
