#!/bin/bash
# The command of a container on Kubernetes: training with the given flags. It passes SIGTERM on, so that the run saves.
# A run that was stopped and saved ends with 75, since Kubernetes takes 0 for complete; a new pod resumes the run.
#
#     docs/clusters/train.sh --config=CONFIG --workdir=WORKDIR [--FLAG=VALUE]

workdir=
for flag in "$@"; do
    [[ $flag == --workdir=* ]] && workdir=${flag#--workdir=}
done
cd "$(dirname "$0")/../.." || exit 1

caught=1
trap 'caught=1; kill -TERM $!' TERM
"${PYTHON:-python}" main.py --mode=train "$@" &
run=$!

while [[ $caught ]]; do  # a signal interrupts the wait while the run saves
    caught=
    wait $run
    status=$?
done
[[ $status -eq 0 && ! -d $workdir/model ]] && exit 75
exit $status
