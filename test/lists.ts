// Small worlds for tests of constrained lists: a tokenizer of characters, catalogs of short titles, and every list that rules allow,
// written out one by one.
import { Policy } from "../src/policy.ts";
import type { Item } from "../src/ranking/list.ts";
import { makeTokenizer } from "../src/text/tokenizer.ts";
import type { Tokenizer } from "../src/text/types.ts";

const letters = [..."abcd ()0123456789\n"];

/**
 * Characters, "ab" and "a (" merged; with `joined` also ")\n", as in Qwen and Llama 3, and with `loose` "1)" too, but not "1)\n": then lines
 * of one catalog end in different tokens, and the two forms of a line are not two ends of the same tokens.
 */
export function tinyTokenizer(kind: "plain" | "joined" | "loose" = "plain"): Tokenizer {
  const merges = [["a", "b"], [" ", "("], ["a", " ("], ...(kind === "plain" ? [] : [[")", "\n"]])];
  if (kind === "loose") merges.splice(0, 0, ["1", ")"]);
  const vocabulary = ["<pad>", "<eos>", ...letters, ...merges.map((pair) => pair.join(""))];
  const special = ["<pad>", "<eos>"].map((content, id) => ({
    id,
    content,
    single_word: false,
    lstrip: false,
    rstrip: false,
    normalized: false,
    special: true,
  }));
  return makeTokenizer(
    {
      version: "1.0",
      truncation: null,
      padding: null,
      added_tokens: special,
      normalizer: null,
      pre_tokenizer: { type: "Split", pattern: { Regex: "[^\\n]+\\n?" }, behavior: "Isolated", invert: false },
      post_processor: null,
      decoder: { type: "Fuse" },
      model: {
        type: "BPE",
        vocab: Object.fromEntries(vocabulary.map((word, id) => [word, id])),
        merges,
        unk_token: "<pad>",
      },
    },
    { eos_token: "<eos>", pad_token: "<pad>" },
  );
}

export const tinyShape = (vocabulary: number) => ({
  model_type: "llama" as const,
  vocab_size: vocabulary,
  hidden_size: 24,
  intermediate_size: 40,
  num_hidden_layers: 2,
  num_attention_heads: 3,
  max_position_embeddings: 160,
  eos_token_id: 1,
});

/** Random weights large enough that distributions are far from uniform. */
export const tinyPolicy = (tokenizer: Tokenizer, options: { compute?: "f32" | "bf16"; seed?: number } = {}) =>
  Policy.create(tinyShape(tokenizer.vocabSize), { seed: 5, std: 0.3, tokenizer, ...options });

/** Some are beginnings of others, some differ in the year alone. */
export const titles: readonly Item[] = [
  { title: "a", year: 2001 },
  { title: "ab", year: 2001 },
  { title: "ab", year: 2002 },
  { title: "ab a", year: 1999 },
  { title: "b", year: 2010 },
  { title: "ab (c)", year: 2001 },
];

export interface WholeList {
  readonly items: readonly number[];
  readonly ids: readonly number[];
}

/** Every list of `least` to `most` of these items, and the tokens that may follow each of their beginnings. */
export function enumerate(
  lines: readonly { line: readonly number[]; last: readonly number[] }[],
  rules: { least: number; most: number; repeats: boolean },
  excluded: readonly number[] = [],
): { lists: WholeList[]; next: Map<string, number[]> } {
  const most = rules.repeats ? rules.most : Math.min(rules.most, lines.length - new Set(excluded).size);
  const lists: WholeList[] = [];
  const grow = (items: readonly number[], ids: readonly number[]): void => {
    if (items.length === most) return;
    for (const [item, { line, last }] of lines.entries()) {
      if (excluded.includes(item) || (!rules.repeats && items.includes(item))) continue;
      const longer = [...items, item];
      if (longer.length >= rules.least) lists.push({ items: longer, ids: [...ids, ...last] });
      grow(longer, [...ids, ...line]);
    }
  };
  grow([], []);
  const sets = new Map<string, Set<number>>();
  for (const { ids } of lists)
    for (const [t, id] of ids.entries()) {
      const beginning = ids.slice(0, t).join();
      const set = sets.get(beginning) ?? new Set();
      sets.set(beginning, set.add(id));
    }
  return { lists, next: new Map([...sets].map(([key, set]) => [key, [...set].sort((a, b) => a - b)])) };
}

/** Log-probs (float64) of every allowed token after every beginning, from the model's free log-probs. */
export async function reference(
  policy: Policy,
  prompt: Int32Array,
  next: ReadonlyMap<string, readonly number[]>,
  temperature: number,
): Promise<Map<string, Map<number, number>>> {
  const places = [...next].map(([key, allowed]) => ({
    key,
    allowed,
    ids: key === "" ? [] : key.split(",").map(Number),
  }));
  const completions = places.flatMap(({ ids, allowed }) => allowed.map((id) => Int32Array.from([...ids, id])));
  const { logprobs } = await policy.score([{ prompt, completions }], { temperature, microBatchTokens: 1 << 16 });
  const out = new Map<string, Map<number, number>>();
  let at = 0;
  for (const { key, allowed, ids } of places) {
    const free = allowed.map(() => {
      at += ids.length + 1;
      return logprobs[at - 1]!;
    });
    const top = Math.max(...free);
    const total = top + Math.log(free.reduce((sum, x) => sum + Math.exp(x - top), 0));
    out.set(key, new Map(allowed.map((id, i) => [id, free[i]! - total])));
  }
  return out;
}
