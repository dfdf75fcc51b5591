#!/bin/sh
# From nothing to an exported encoder: installs, simulates a market, trains the index encoder, scores it beside its
# baselines, exports it and writes the report. With FJQ_DATA set it trains on the real index files there instead.
set -eu
. "$(dirname "$0")/environment.sh"
install eval,plot
export JAX_PLATFORMS="${JAX_PLATFORMS:-cpu}"

if [ -n "${FJQ_DATA:-}" ]; then
    config=configs/tcn_index.py:cpu,sample
    workdir=runs/quickstart_sample
else
    config=configs/tcn_index.py:simulated
    workdir=runs/quickstart
fi
fjq() { .venv/bin/python -m fjq.launch --config="$config" --workdir="$workdir" "$@"; }

fjq --job=train
fjq --job=evaluate
fjq --job=export
fjq --job=report

cat <<END

Where things lie:
  weights for PyTorch   $workdir/checkpoints/tcn_index_encoder.pt
  weights for JAX       $workdir/export/model.safetensors   (fjq.load('$workdir') reads the run)
  program without fjq   $workdir/export/predict.stablehlo
  scores                $workdir/evaluation.json
  report                $workdir/report.html
END
