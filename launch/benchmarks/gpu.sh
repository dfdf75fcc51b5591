#!/bin/sh
# Every GPU figure: each family's training step and inference beside PyTorch in one process, the TCN end to end from the
# chunk bank, the scan and attention by every implementation, parity. Rows go to launch/results/ (and to $OUT where that
# is set). Each part has a time limit of its own, so that one that hangs costs no other; together under ten minutes.
# Usage: sh launch/benchmarks/gpu.sh          PYTHON names the interpreter, python3 by default
set -u
cd "$(dirname "$0")/../.." || exit 1
python=${PYTHON:-python3}
export PYTHONUNBUFFERED=1 PYTHONPATH=".${PYTHONPATH:+:$PYTHONPATH}"
export XLA_PYTHON_CLIENT_PREALLOCATE=false  # PyTorch and JAX share the card in one process
status=0
part() {
    seconds=$1
    shift
    echo "== $*"
    timeout "$seconds" "$python" "$@" || { echo "== failed: $*"; status=1; }
}

part 45 -c 'import jax; print(jax.__version__, jax.devices(), jax.devices()[0].memory_stats()["bytes_limit"])'
part 90 launch/benchmarks/tcn_step.py --device=gpu --chunks=1500
part 45 launch/benchmarks/tcn_step.py --device=gpu --chunks=200
part 60 launch/benchmarks/scan.py --device=gpu --attention
for micro in 2 8; do
    part 60 launch/benchmarks/tcn_train.py --config=configs/tcn_index.py:h200,simulated --width=512 --dtype=bfloat16 \
        --rows=256 --micro_batches=$micro --cache=/tmp/fjq-gpu-cache
done
part 75 launch/benchmarks/migt_step.py --device=gpu --rounds=3
part 60 launch/benchmarks/gpt_step.py --device=gpu --rows=512 --length=256
part 45 launch/benchmarks/gpt_generate.py --device=gpu --rounds=3
golden=${FJQ_GOLDEN:-../shared/golden}
part 45 -m interop.parity "$golden/tcn_tiny" "$golden/mamba_tiny" "$golden/migt_tiny" "$golden/microchat_gpt_tiny"
[ -z "${OUT:-}" ] || cp launch/results/*.csv "$OUT"/
exit $status
