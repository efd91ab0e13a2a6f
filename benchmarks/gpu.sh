#!/usr/bin/env bash
# Everything that needs a GPU, in one command of under ten minutes: build, tests marked gpu, the
# ahead-of-time check of the kernels, the benchmarks. Installs nothing.
#
#   benchmarks/gpu.sh [--device cuda|cpu] [--quick] [--results DIR] [--archive FILE.tar.gz]
#
# Needs python3 with torch, triton, pytest, pytest-benchmark, setuptools, ninja and pybind11, and
# nvcc. Writes DIR/<group>/cuda.json, the logs DIR/gpu/*.txt and, if DIR is benchmarks/results, the
# tables. `--device cpu --quick --results DIR` tries the script without a GPU. Every part runs even
# if one before it failed; the exit status is 1 if any did.
set -uo pipefail
cd "$(dirname "$0")/.."

device=cuda quick="" results=benchmarks/results archive=""
while [ $# -gt 0 ]; do
  case "$1" in
    --device) device="$2"; shift 2 ;;
    --quick) quick="--quick"; shift ;;
    --results) results="$2"; shift 2 ;;
    --archive) archive="$2"; shift 2 ;;
    *) echo "gpu.sh: unknown argument $1" >&2; exit 2 ;;
  esac
done

# A GPU machine is there for ten minutes; results are written case by case until then.
if [ "$device" = cuda ]; then deadline=570; else deadline=3600; fi
python="${PYTHON:-python3}"
logs="$results/gpu"
mkdir -p "$logs"
rm -f "$logs/failed.txt"
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1 VIREID_BUILD="$device"

# part NAME SECONDS COMMAND...: run with a limit, keep the log, note a failure.
part() {
  local name="$1" limit="$2" begin=$SECONDS left=$((deadline - SECONDS)) code
  shift 2
  if [ "$left" -lt "$limit" ]; then limit=$((left > 1 ? left : 1)); fi
  echo "== $name: at most $limit s =="
  timeout "$limit" "$@" >"$logs/$name.txt" 2>&1
  code=$?
  tail -n 60 "$logs/$name.txt"
  echo "== $name: exit $code after $((SECONDS - begin)) s =="
  if [ "$code" -ne 0 ]; then echo "$name (exit $code)" >>"$logs/failed.txt"; fi
}

# Without a device every test would be skipped, and nothing could fail.
if [ "$device" = cuda ] && ! "$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'
then
  echo "gpu.sh: --device cuda must find a CUDA device, got none. Try --device cpu --quick." >&2
  exit 3
fi
part machine 60 "$python" benchmarks/machine.py
# The check compiles on the processor while the extension is built and tested.
part kernels 240 "$python" tests/kernels_check.py &
# A trial beside a built extension takes that one.
if [ "$device" = cuda ] || ! "$python" -c 'import vireid_fast._C' 2>/dev/null; then
  part build 240 "$python" setup.py -q build_ext --inplace
fi
# The presets lie outside the package until it is installed.
if ! "$python" -c 'import vireid_fast.configs' 2>/dev/null; then
  ln -s ../configs vireid_fast/configs
  trap 'rm -f vireid_fast/configs' EXIT
fi
# Most of the time of the tests goes into compiling attention for many sizes.
collect=""
if [ "$device" != cuda ]; then collect="--collect-only"; fi
gpu_tests() {
  local name="$1"
  shift
  part "$name" 180 "$python" -m pytest -q -p no:cacheprovider -m gpu $collect "$@"
}
sizes=tests/ops/test_cross_modal_attention_gpu.py attention=tests/ops/test_cross_modal_attention.py
gpu_tests tests-sizes "$sizes" &
gpu_tests tests-attention "$attention" tests/nn &
gpu_tests tests tests --ignore="$sizes" --ignore="$attention" --ignore=tests/nn &
# Nothing else runs while times are taken.
wait
part benchmarks 3000 "$python" benchmarks/run.py -q -p no:cacheprovider \
  --device "$device" --results "$results" $quick
if [ "$results" = benchmarks/results ]; then
  part tables 60 "$python" benchmarks/report.py
fi
if [ -n "$archive" ]; then
  tar -czf "$archive" "$results" README.md docs/performance.md
fi

echo "== gpu.sh: $SECONDS s =="
if [ -e "$logs/failed.txt" ]; then
  sed 's/^/failed: /' "$logs/failed.txt"
  exit 1
fi
