#!/bin/bash
# The command of a container on Kubernetes: training with the given flags. It passes SIGTERM on, so that the run saves.
# A run that was stopped and saved ends with 75, since Kubernetes takes 0 for complete; a new pod resumes the run.
#
#     docs/clusters/train.sh --config=CONFIG --workdir=gs://BUCKET/RUN [--FLAG=VALUE]

workdir=
for flag in "$@"; do
    [[ $flag == --workdir=* ]] && workdir=${flag#--workdir=}
done
cd "$(dirname "$0")/../.." || exit 1

is_complete() {  # whether the run wrote its model
    case $1 in
        *://*) "${PYTHON:-python}" -c 'import sys; from dualdiff_jax.weights import is_model_folder
sys.exit(not is_model_folder(sys.argv[1]))' "$1/model" ;;
        *) [[ -d $1/model ]] ;;
    esac
}

caught=1
trap 'caught=1; kill -TERM $!' TERM
"${PYTHON:-python}" main.py --mode=train "$@" &
run=$!

while [[ $caught ]]; do  # a signal interrupts the wait while the run saves
    caught=
    wait $run
    status=$?
done
[[ $status -eq 0 ]] && ! is_complete "$workdir" && exit 75
exit $status
