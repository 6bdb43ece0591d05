#!/usr/bin/env bash
# One study on all hosts of a TPU slice, as one run. A spot slice that was taken away is asked for anew, and the study goes on.
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

queued() { gcloud compute tpus queued-resources "$1" "$name" --zone "$zone" "${@:2}"; }

machine() { # there and ready; one that was taken away does not come back by itself
  if [ -n "${DRY:-}" ]; then state=""; else state="$(queued describe --format 'value(state.state)' 2>/dev/null || true)"; fi
  case "$state" in
    SUSPENDED | FAILED) say queued delete --force --quiet ;;&
    "" | SUSPENDED | FAILED)
      say gcloud compute tpus queued-resources create "$name" --node-id "$name" --zone "$zone" \
        --accelerator-type "$kind" --runtime-version "$runtime" --spot || exit 1
      ;;
  esac
  until [ -n "${DRY:-}" ] || [ "$state" = ACTIVE ]; do
    sleep 30
    state="$(queued describe --format 'value(state.state)')"
    case "$state" in SUSPENDED | FAILED) return 1 ;; esac
  done
  say gcloud compute tpus tpu-vm scp "$study" "$name:study.yaml" --zone "$zone" --worker=all
  on_all "python3 -m pip install -q -U '$wheel'"
}

status=75
while [ "$status" != 0 ]; do
  machine || continue
  # The processes find each other (--distributed auto). 75 is a machine that was asked to go, 255 one that is gone.
  status=0
  on_all "\$HOME/.local/bin/vatjax run study.yaml --out '$out' $mesh" || status=$?
  case "$status" in 0 | 75 | 255) ;; *) exit "$status" ;; esac
done
