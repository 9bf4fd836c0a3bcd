#!/bin/bash
# Trains on all hosts of a Cloud TPU slice, from a machine that has gcloud:
#
#     TPU=my-slice ZONE=us-east5-a CONFIG=configs/dual_diff_pretrain_256.py WORKDIR=gs://BUCKET/pretrain_256 \
#         docs/clusters/tpu_pod.sh --config.train.remat=dots
#
# Prepare once: the repository in ~/dualdiff_jax of every host, with .venv (pip install "jax[tpu]" gcsfs -r
# requirements.txt), and a bucket that the TPU's service account may read and write (docs/buckets.md). Each host finds its number
# through the machine's metadata server; after a stop the same command resumes the run.
set -euo pipefail
: "${TPU:?is not set: the name of the TPU}" "${ZONE:?is not set: its zone}"
: "${CONFIG:?is not set: a config file}" "${WORKDIR:?is not set: the folder of the run}"

command="cd ~/dualdiff_jax && .venv/bin/python main.py --mode=train"
command+=$(printf ' %q' --config="$CONFIG" --workdir="$WORKDIR" "$@")
gcloud compute tpus tpu-vm ssh "$TPU" --zone="$ZONE" --worker=all --command="$command"
