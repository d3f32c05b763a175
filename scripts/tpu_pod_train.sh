#!/bin/bash
# Train on a TPU pod slice, spot by default, until it is done:
#
#     TPU_NAME=vs ZONE=us-east5-b TYPE=v5litepod-16 bash scripts/tpu_pod_train.sh \
#         --config configs/unext2.py --workdir /mnt/bucket/runs/a --config.data.plates=gs://bucket/P.zarr
#
# Requests the slice, waits for it, copies this repository to every worker, installs it, runs one training over all
# workers; when they were told to stop (status 75) or the slice was taken away, it asks for another and goes on. Any
# other status ends it. --workdir must be one folder that all workers see and that outlives them: a Filestore share, or
# a bucket mounted by SETUP, e.g. SETUP='mkdir -p /mnt/bucket && gcsfuse --implicit-dirs my-bucket /mnt/bucket'.
# Also: PROJECT, VERSION (of the TPU's software), PYTHON, SPOT= (on demand), POLL_S. The slice is deleted at the end.

set -uo pipefail
: "${TPU_NAME:?name of the TPU}" "${ZONE:?zone}" "${TYPE:?accelerator type, such as v5litepod-16}"
VERSION=${VERSION:-v2-alpha-tpuv5-lite}
SPOT=${SPOT---spot}
SETUP=${SETUP:-true}
PYTHON=${PYTHON:-python3.11} # the TPU's own is older; installed where it is missing
POLL_S=${POLL_S:-30}
RESTART=75
FOLDER=vsjax_run
where=(--zone "$ZONE" --quiet ${PROJECT:+--project "$PROJECT"})
tpu=(gcloud compute tpus)

state() {
    "${tpu[@]}" queued-resources describe "$TPU_NAME" "${where[@]}" --format='value(state.state)' 2>/dev/null
}

delete() {
    "${tpu[@]}" queued-resources delete "$TPU_NAME" "${where[@]}" --force
}

# A slice that is ready: the one that is there, or a new one. Spot slices that were taken away are SUSPENDED.
acquire() {
    local now
    while true; do
        now=$(state)
        case $now in
        ACTIVE) return 0 ;;
        SUSPENDED | SUSPENDING | FAILED) delete || return 1 ;;
        "")
            "${tpu[@]}" queued-resources create "$TPU_NAME" --node-id "$TPU_NAME" "${where[@]}" \
                --accelerator-type "$TYPE" --runtime-version "$VERSION" ${SPOT:+"$SPOT"} || return 1
            ;;
        esac
        sleep "$POLL_S"
    done
}

on_all_workers() {
    "${tpu[@]}" tpu-vm ssh "$TPU_NAME" "${where[@]}" --worker=all --command "$1"
}

install() {
    local archive
    archive=$(mktemp -d)/vsjax.tar.gz
    git archive --format=tar.gz -o "$archive" HEAD || return 1
    "${tpu[@]}" tpu-vm scp "$archive" "$TPU_NAME:vsjax.tar.gz" "${where[@]}" --worker=all &&
        on_all_workers "$SETUP && mkdir -p $FOLDER && tar -xzf vsjax.tar.gz -C $FOLDER && cd $FOLDER &&
            ($PYTHON -m venv .venv || (sudo apt-get -qq update && sudo apt-get -qq install -y $PYTHON $PYTHON-venv &&
            $PYTHON -m venv .venv)) && .venv/bin/pip install -q -e '.[tpu]'"
}

# ssh does not tell one worker's status from another's, so each says its own.
train() {
    local arguments output statuses
    arguments=$(printf '%q ' "$@")
    output=$(on_all_workers "cd $FOLDER && .venv/bin/python -m vsjax.train --cluster $arguments; echo vsjax_status=\$?" |
        tee /dev/stderr)
    statuses=$(grep -o 'vsjax_status=[0-9]*' <<<"$output" | cut -d= -f2 | sort -n | uniq)
    case $statuses in
    0) return 0 ;;
    1) return 1 ;;                     # one line said what the user can put right
    "") return $RESTART ;;             # the slice was taken away
    *$RESTART*) return $RESTART ;;     # told to stop; a worker that only noticed that another left says otherwise
    *) [[ $(state) != ACTIVE ]] && return $RESTART || return 1 ;; # a fault, unless the slice was taken away
    esac
}

cd "$(dirname "$0")/.." || exit 1
while true; do
    acquire || exit 1
    if install; then
        train "$@"
        status=$?
        if [[ $status -ne $RESTART ]]; then
            delete
            exit "$status"
        fi
        echo "stopped and saved; going on"
    elif [[ $(state) == ACTIVE ]]; then
        echo "cannot be installed on $TPU_NAME; look at the messages above, or log in and try" >&2
        exit 1
    fi
    sleep "$POLL_S"
done
