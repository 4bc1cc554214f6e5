#!/usr/bin/env bash
# SmolLM2-135M-Instruct on ReDial from end to end: demonstrations, split, SFT, Rank-GRPO, evaluation of 500 test rows. Run from the project's root.
set -euo pipefail
out=${1:-runs/redial}
unified=../shared/data/unified
run() { node dist/cli/main.js "$@"; }
run data demonstrate --data $unified/redial_train.jsonl --feedback $unified/redial_train.jsonl --catalog $unified/catalog_redial.tsv \
  --ablate --output "$out/demonstrations.jsonl"
run data split --input "$out/demonstrations.jsonl" --output "$out/data" --validation 0.1 --test 0
run sft --config recipes/redial-smollm2-sft.yaml --set train="$out/data/train.jsonl" --output "$out/sft"
run train --config recipes/redial-smollm2.yaml --set model="$out/sft/final" --set train="$out/data/train.jsonl" \
  --set validation.data="$out/data/validation.jsonl" --output "$out/rank-grpo"
zero=../shared/models/smollm2-135m-instruct/SmolLM2-135M-Instruct.Q4_1.gguf
for model in "$zero" "$out/sft/final" "$out/rank-grpo/final"; do
  name=$(basename "$(dirname "$model")")
  run evaluate --model "$model" --data $unified/redial_test.jsonl --catalog $unified/catalog_redial.tsv --limit 500 \
    --train "$out/data/train.jsonl" --compute bf16 --max-new-tokens 360 --output "$out/free-$name.json"
  run evaluate --model "$model" --data $unified/redial_test.jsonl --catalog $unified/catalog_redial.tsv --limit 500 \
    --constrain catalog --unreadable skip --compute bf16 --max-new-tokens 360 --output "$out/catalog-$name.json"
done
