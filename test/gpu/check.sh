#!/usr/bin/env bash
# Everything on a bare machine with nvcc, cmake and a GPU, no Node: build, kernel table, whole models against the CPU, exactness as
# bits, benchmarks, compute-sanitizer. Usage: test/gpu/check.sh [results folder] [model folder]
#
# Writes results.jsonl (a line a step and a line a measurement) and prints a summary; exits with 1 where any step failed.
# RANK_GRPO_SHARED names the folder with models/tiny for the model goldens (skipped without). BUILD names the build folder. PYTHON is one with
# bench/peers/requirements.txt, for the same loss by Liger (skipped without). SHIM=1 runs the same steps on the host, at small sizes. LIMIT is
# the most seconds a step may take (default 300): one that hangs does not cost the others.
set -u
cd "$(dirname "$0")/../.."
results=${1:-build-gpu/results}
model=${2:-}
small=()
[ "${SHIM:-0}" = 1 ] && small=(--small)
build=${BUILD:-$([ "${SHIM:-0}" = 1 ] && echo build-gpu-shim || echo build-gpu)}
mkdir -p "$results"
results=$(cd "$results" && pwd)
json=$results/results.jsonl
: >"$json"
failed=0
summary=()

# step NAME COMMAND...: runs it, keeps its output, notes how it ended.
step() {
  local name=$1 start=$SECONDS status
  shift
  echo "== $name"
  timeout "${LIMIT:-300}" "$@" >"$results/$name.log" 2>&1
  status=$?
  tail -n 3 "$results/$name.log"
  printf '{"step": "%s", "status": %d, "seconds": %d}\n' "$name" "$status" $((SECONDS - start)) >>"$json"
  summary+=("$(printf '%-24s %-6s %5d s' "$name" "$([ $status = 0 ] && echo ok || echo "FAIL $status")" $((SECONDS - start)))")
  [ $status = 0 ] || failed=1
  return $status
}
skip() {
  echo "== $1: skipped, $2"
  printf '{"step": "%s", "skipped": "%s"}\n' "$1" "$2" >>"$json"
  summary+=("$(printf '%-24s skipped: %s' "$1" "$2")")
}

commit=$(git rev-parse --short HEAD 2>/dev/null || echo unknown)
gpu=$(nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader 2>/dev/null | head -n 1)
nvcc=$("${CUDACXX:-nvcc}" --version 2>/dev/null | sed -n 's/.*release \([0-9.]*\).*/\1/p')
printf '{"commit": "%s", "date": "%s", "gpu": "%s", "nvcc": "%s"}\n' "$commit" "$(date -u +%FT%TZ)" "${gpu:-none}" "${nvcc:-none}" >>"$json"

if [ "${SHIM:-0}" = 1 ]; then
  step configure cmake -S . -B $build -DRANK_GRPO_CUDA=OFF -DRANK_GRPO_CUDA_SHIM=ON -DRANK_GRPO_ADDON=OFF || exit 1
  step build cmake --build $build --parallel 2 --target cuda_shim_tests gpu_driver_shim || exit 1
  tests=$build/cuda_shim_tests driver=$build/gpu_driver_shim
else
  step configure cmake -S . -B $build -DRANK_GRPO_CUDA=ON -DRANK_GRPO_TESTS=ON -DRANK_GRPO_ADDON=OFF || exit 1
  step build cmake --build $build --parallel "$(nproc)" --target cuda_tests gpu_driver || exit 1
  tests=$build/cuda_tests driver=$build/gpu_driver
fi

step kernels "$tests" # with the shim's bits, which a GPU gives too
step parity "$driver" parity --json "$json"
step exact-small "$driver" exact --small --json "$json"

if [ -n "$model" ]; then
  step exact "$driver" exact "${small[@]}" --json "$json" --model "$model"
else
  step exact "$driver" exact "${small[@]}" --json "$json"
fi
mkdir -p "$results/liger"
step bench "$driver" bench "${small[@]}" --json "$json" --peer "$results/liger" ${model:+--model "$model"}
python=${PYTHON:-build-peers/bench/bin/python}
if "$python" -c "import liger_kernel" 2>/dev/null; then
  step liger sh -c "'$python' bench/peers/peers.py <'$results/liger/request.json' >'$results/liger/answer.json' && cat '$results/liger/answer.json'" &&
    { cat "$results/liger/answer.json" && echo; } >>"$json"
else
  skip liger "no $python with liger-kernel"
fi

# Last: they take longest, and a machine that is lent for minutes should give the rest first.
sanitizer=$(command -v compute-sanitizer || ls /usr/local/cuda/bin/compute-sanitizer 2>/dev/null || true)
for tool in memcheck racecheck initcheck synccheck; do
  if [ -z "$sanitizer" ]; then
    skip "$tool" "no compute-sanitizer"
  else
    for part in cuda_linear cuda_pointwise cuda_attention cuda_head cuda_sample cuda_objective cuda_log given_; do
      step "$tool-$part" "$sanitizer" --tool $tool --error-exitcode 9 "$tests" $part
    done
  fi
done

echo
printf '%s\n' "${summary[@]}"
echo "results: $json"
exit $failed
