# What transformers makes of the same constraint: lists drawn, greedy and by beam search with prefix_allowed_tokens_fn (weights in float64, scores in float32). Writes
# test/fixtures/constraint.json, which test/constraint.test.ts holds the engine against. Run:
#   python test/peers/constraint.py <folder of tiny models: llama-default, qwen3> test/fixtures/constraint.json
import json
import random
import sys

import torch
import transformers
from transformers import AutoModelForCausalLM

models, output = sys.argv[1:]
NEWLINE, STOP, ITEMS, LENGTH = 7, 2, 14, 3


def catalog(vocabulary: int) -> list[list[int]]:
    """Lines without their end: few tokens a place, so that they share beginnings, and some begin with all of another."""
    draw = random.Random(vocabulary)
    lines: list[list[int]] = []
    while len(lines) < ITEMS:
        line = [10 + draw.randrange(3) * 17 + depth for depth in range(draw.randint(1, 5))]
        if line not in lines:
            lines.append(line)
    return lines


def allowed_after(lines, excluded, length):
    """The plain account: of all lists that begin with the tokens so far, the tokens that come next. Walks items, no trie."""

    def step(so_far: list[int]) -> list[int]:
        taken, at = [], 0
        while True:
            rest = so_far[at:]
            done = [i for i in range(ITEMS) if rest[: len(lines[i]) + 1] == [*lines[i], NEWLINE]]
            if not done:
                break
            taken.append(done[0])
            at += len(lines[done[0]]) + 1
        end = STOP if len(taken) == length - 1 else NEWLINE
        open_lines = [[*lines[i], end] for i in range(ITEMS) if i not in taken and i not in excluded]
        return sorted({line[len(rest)] for line in open_lines if line[: len(rest)] == rest and len(line) > len(rest)})

    return step


result = {"transformers": transformers.__version__, "torch": torch.__version__, "newline": NEWLINE, "stop": STOP, "length": LENGTH, "cases": []}
for name in ("llama-default", "qwen3"):
    model = AutoModelForCausalLM.from_pretrained(f"{models}/{name}", dtype=torch.float64).eval()
    lines = catalog(model.config.vocab_size)
    prompt = [(31 * i + 5) % model.config.vocab_size for i in range(1, 24)]
    excluded = [3, 8]
    temperature = 0.8
    def generate(length=LENGTH, **options):
        step = allowed_after(lines, excluded, length)
        torch.manual_seed(1)
        return model.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            prefix_allowed_tokens_fn=lambda _, ids: step(ids.tolist()[len(prompt) :]) or [STOP],
            max_new_tokens=LENGTH * 6,
            eos_token_id=STOP,
            pad_token_id=0,
            return_dict_in_generate=True,
            output_scores=True,
            **options,
        )

    def rows(out):
        for r in range(out.sequences.shape[0]):
            ids = out.sequences[r, len(prompt) :].tolist()
            ids = ids[: ids.index(STOP) + 1]
            logprobs = [torch.log_softmax(out.scores[t][r], -1)[id].item() for t, id in enumerate(ids)]
            yield {"ids": ids, "logprobs": logprobs}

    greedy = next(rows(generate(do_sample=False)))  # scores without temperature
    sampled = list(rows(generate(do_sample=True, temperature=temperature, top_k=0, num_return_sequences=6)))
    # beams that hold every item: the items by probability. Without renormalize_logits transformers would add up free log-probs.
    open_items = ITEMS - len(excluded)
    out = generate(length=1, do_sample=False, num_beams=open_items, num_return_sequences=open_items, length_penalty=0.0, renormalize_logits=True)
    items = []
    for r in range(open_items):
        ids = out.sequences[r, len(prompt) :].tolist()
        items.append(lines.index(ids[: ids.index(STOP)]))
    result["cases"].append(
        {
            "model": name,
            "lines": lines,
            "prompt": prompt,
            "excluded": excluded,
            "temperature": temperature,
            "greedy": greedy,
            "sampled": sampled,
            "top": {"items": items, "logprobs": out.sequences_scores.tolist()},
        }
    )
with open(output, "w", encoding="utf-8") as file:
    json.dump(result, file)
    file.write("\n")
