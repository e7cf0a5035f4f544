#!/usr/bin/env bash
# Every figure that needs a GPU, within LIMIT seconds: full runs of the notebook, the published seed beside others, then
# speeds. Logs and results go to OUT, even where a part fails; a second call continues what was cut short.
# In small: S8_MODE=smoke FIT=3 STEPS="steps=1, batch_size=8" REPEATS=1 CPU_IMAGES=64
set -uo pipefail
cd "$(dirname "$0")/.." || exit
OUT=${OUT:-runs/gpu} LIMIT=${LIMIT:-585} STEPS=${STEPS:-steps=30} REPEATS=${REPEATS:-3}
export S8_MODE=${S8_MODE:-full} S8_DATA=${S8_DATA:-cifar10} CIFAR10_ROOT=${CIFAR10_ROOT:-$PWD/data} PYTHONUNBUFFERED=1
declare -A names
failed=0
mkdir -p "$OUT"

start() {  # NAME RESERVE COMMAND...: for as long as leaves RESERVE seconds
  local limit=$((LIMIT - SECONDS - $2))
  timeout -k 10 $((limit > 1 ? limit : 1)) "${@:3}" >"$OUT/$1.log" 2>&1 &
  names[$!]=$1
}

finish() {  # all that was started
  for pid in "${!names[@]}"; do
    wait "$pid" && code=0 || code=$? failed=1
    echo "${names[$pid]}: exit $code after $SECONDS s; $(tail -n 1 "$OUT/${names[$pid]}.log")"
    unset "names[$pid]"
  done
}

start_changed() {  # NAME RESERVE VALUES: the notebook in a copy of the checkout, with VALUES in its configuration cell
  local copy=runs/copies/$1
  if [[ ! -d $copy ]]; then
    mkdir -p "$copy"
    cp -r ./*.ipynb README.md benchmarks models scripts utils "$copy"
    sed -i "s/replace(RECIPE, precision=native_precision(DEVICE)/replace(RECIPE, $3/" "$copy"/*.ipynb
  fi
  grep -qF "replace(RECIPE, $3" "$copy"/*.ipynb || { echo "$1: no cell to change"; failed=1; return; }
  start "$1" "$2" env -C "$copy" python -m scripts.run_notebook
}

keep() {
  kill "${!names[@]}" 2>/dev/null
  wait
  cp -r runs/*.json runs/*.ipynb images models/*.safetensors "$OUT"
  for copy in runs/copies/*; do find "$copy" -name results.json -exec cp {} "$OUT/${copy##*/}.json" \;; done
}
trap keep EXIT
trap 'exit 1' INT TERM

start data 0 python -c "from utils.data import load_data; load_data()"; finish  # fetched once, not by every process
# What a step takes tells how many runs fit, each with its share of the GPU, if all else takes 285 s.
start probe $((LIMIT - 90)) python -c "from benchmarks.step_variants import *; main(['as_is', 'sam'], rounds=1, $STEPS)"; finish
cost=$(python -c "
import json; from utils.training import RECIPE as r
ms = json.load(open('runs/step_variants.json'))['milliseconds']
print(round(r.train_images / r.batch_size * ((r.epochs - r.sam_epochs) * ms['as_is'] + r.sam_epochs * ms['sam']) / 1_000))")
fit=${FIT:-$(((LIMIT - 285) / ${cost:-LIMIT}))}
echo "a run takes the GPU for $cost s: $fit fit"
((fit > 0)) && start notebook 180 python -m scripts.run_notebook
((fit > 1)) && start_changed seed1 180 "seed=1, precision=native_precision(DEVICE)"
((fit > 2)) && start_changed seed2 180 "seed=2, precision=native_precision(DEVICE)"
((fit > 3)) && start_changed float16 180 "precision='float16'"
finish

# On the quiet GPU
start train_speed 110 python -c "from benchmarks.train_speed import main; print(main($REPEATS, ${CPU_IMAGES:-1_280}))"; finish
start cam_speed 95 python -c "from benchmarks.cam_speed import main; print(main($REPEATS))"; finish
start step_variants 5 python -c "from benchmarks.step_variants import *; main(list(VARIANTS), $STEPS)"; finish
((fit < 4)) && start_changed float16 5 "precision='float16'"; finish
exit $failed
