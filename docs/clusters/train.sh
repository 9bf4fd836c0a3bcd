#!/bin/bash
# What a container runs on Kubernetes: training, with the flags given. SIGTERM reaches it, so that it saves. A run that
# was stopped and is saved ends with 75 here, since 0 would tell Kubernetes that the work is done; a new pod goes on.
#
#     docs/clusters/train.sh --config=CONFIG --workdir=WORKDIR [--FLAG=VALUE]

workdir=
for flag in "$@"; do
    [[ $flag == --workdir=* ]] && workdir=${flag#--workdir=}
done
cd "$(dirname "$0")/../.." || exit 1

caught=1
trap 'caught=1; kill -TERM $run' TERM
"${PYTHON:-python}" main.py --mode=train "$@" &
run=$!

while [[ $caught ]]; do  # a signal ends the wait, and the run saves
    caught=
    wait $run
    status=$?
done
[[ $status -eq 0 && ! -d $workdir/model ]] && exit 75
exit $status
