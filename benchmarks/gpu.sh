#!/usr/bin/env bash
# All that is claimed of GPUs, measured on the first one in at most ten minutes, without a network. A line a result.
# Usage: benchmarks/gpu.sh DATA OUTPUT [PART ...]    (DATA holds hippocampus/ and brain_miccai2012/; for PART see gpu.py)
# Trial on a computer without a GPU: benchmarks/gpu.sh DATA OUTPUT --device cpu --small
set -euo pipefail
here=$(dirname "$(realpath "$0")")
export PYTHONUNBUFFERED=1 PYTHONPATH="$(dirname "$here")${PYTHONPATH:+:$PYTHONPATH}"
exec timeout "${SECONDS_IN_ALL:-600}" "${PYTHON:-python3}" "$here/gpu.py" "$@"
