#!/bin/bash
# Trains on TPU slices of a GKE cluster that XPK made, from a machine that has xpk:
#
#     CLUSTER=my-cluster ZONE=us-east5-a PROJECT=my-project IMAGE=REGISTRY/dualdiff:tpu TPU_TYPE=v5p-128 SLICES=2 \
#         CONFIG=configs/dual_diff_pretrain_256.py WORKDIR=gs://BUCKET/pretrain_256 \
#         docs/clusters/tpu_xpk.sh dualdiff-1 --config.train.remat=dots
#
# Build the image from the Dockerfile with JAX=tpu; the nodes' service account may read and write the bucket
# (docs/buckets.md). GKE gives each host its number in the environment. A slice that is preempted saves; XPK starts the workload again.
set -euo pipefail
: "${CLUSTER:?is not set}" "${ZONE:?is not set}" "${PROJECT:?is not set}" "${IMAGE:?is not set}"
: "${TPU_TYPE:?is not set, such as v5p-128}"
: "${CONFIG:?is not set: a config file}" "${WORKDIR:?is not set: the folder of the run}"
name=${1:?is missing: a name for the workload}
shift

xpk workload create --workload="$name" --cluster="$CLUSTER" --zone="$ZONE" --project="$PROJECT" \
    --tpu-type="$TPU_TYPE" --num-slices="${SLICES:-1}" --docker-image="$IMAGE" \
    --max-restarts=20 --restart-on-user-code-failure --termination-grace-period-seconds=300 \
    --command="bash docs/clusters/train.sh$(printf ' %q' --config="$CONFIG" --workdir="$WORKDIR" "$@")"
