// Lists from a catalog: sampled against free lists of the same length, the update with and without the constraint, what the bookkeeping
// takes, exact top items against scoring every one, and how all that grows with the catalog. Ratios are of runs that alternate, so that a
// slower minute of the machine falls on both sides.
//
// Needs a checkpoint with a tokenizer and a catalog: RANK_GRPO_BENCH_MODEL and RANK_GRPO_BENCH_CATALOG, by default those of the recipes.
import { existsSync } from "node:fs";
import { mkdtemp, rm, stat } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";

import { RankGrpoError } from "../errors.ts";
import type { NativeBounds } from "../native.ts";
import { choices, forcedTokens, type Group, Policy } from "../policy.ts";
import { Catalog } from "../ranking/catalog.ts";
import { CatalogConstraint, type Constraint } from "../ranking/constraint.ts";
import type { Item } from "../ranking/list.ts";
import type { Harness, Validation } from "./harness.ts";
import { type BenchModel, models, promptsOf, tokenFlops } from "./models.ts";
import { updateOnce } from "./update.ts";

const modelPath =
  process.env["RANK_GRPO_BENCH_MODEL"] ?? "../shared/models/smollm2-135m-instruct/SmolLM2-135M-Instruct.Q4_1.gguf";
const catalogPath = process.env["RANK_GRPO_BENCH_CATALOG"] ?? "../shared/data/unified/catalog_redial.tsv";

const model: BenchModel = models[0]!;
const listLength = 20;
const excludedItems = 10;

interface Bench {
  harness: Harness;
  policy: Policy;
  compute: "f32" | "bf16";
}

/** Titles that no film has, made of pairs of titles that exist: as alike, and as long, as real ones. */
function madeUp(items: readonly Item[], count: number): Catalog {
  const made = new Map<string, Item>();
  for (let i = 0; made.size < count; i++) {
    const [a, b] = [
      items[(i * 7919) % items.length]!,
      items[(i * 104729 + Math.floor(i / items.length)) % items.length]!,
    ];
    const [head, tail] = [a.title.split(" "), b.title.split(" ")];
    const title = [...head.slice(0, Math.ceil(head.length / 2)), ...tail.slice(Math.floor(tail.length / 2))].join(" ");
    const item = { title, year: 1930 + (i % 95) };
    made.set(`${title}\t${item.year}`, item);
  }
  return Catalog.from(made.values());
}

const constraintOf = (policy: Policy, catalog: Catalog, cache?: string): Promise<CatalogConstraint> =>
  CatalogConstraint.create(catalog, policy.tokenizer!, policy.stopId!, {
    length: listLength,
    unreadable: "skip",
    ...(cache === undefined ? {} : { cache }),
  });

/** Some items closed for every prompt, as a dialogue's titles are. */
function batchConstraint(catalog: CatalogConstraint, prompts: number): Constraint {
  const one = catalog.excluding(Array.from({ length: excludedItems }, (_, i) => i * 29));
  return { ...one, excluded: Array.from({ length: prompts }, () => one.excluded[0]!) };
}

const timed = async (run: () => unknown): Promise<number> => {
  const start = performance.now();
  await run();
  return performance.now() - start;
};

/** Median of slow / fast over runs that alternate. */
async function ratio(
  pairs: number,
  slow: () => unknown,
  fast: () => unknown,
): Promise<{ median: number; all: number[] }> {
  const all: number[] = [];
  for (let i = 0; i < pairs; i++) all.push((await timed(slow)) / (await timed(fast)));
  const sorted = all.toSorted((a, b) => a - b);
  return { median: (sorted[Math.floor((pairs - 1) / 2)]! + sorted[Math.floor(pairs / 2)]!) / 2, all };
}

const show = (what: string, r: { median: number; all: number[] }, target: string): string =>
  `${what}: ${r.median.toFixed(2)}x (${r.all.map((x) => x.toFixed(2)).join(" ")}; to reach: ${target})`;

async function listsOf(
  policy: Policy,
  prompts: Int32Array[],
  groupSize: number,
  constraint: Constraint,
): Promise<Group[]> {
  const lists = await policy.generate(prompts, { groupSize, maxNewTokens: 600, constraint, seed: 3 });
  return prompts.map((prompt, p) => ({ prompt, completions: lists[p]!.map((list) => list.ids) }));
}

/** The sampler's log-probs are the scorer's as bits, over lists of the catalog that end. */
async function validate(policy: Policy, prompts: Int32Array[], constraint: Constraint): Promise<Validation> {
  const lists = await policy.generate(prompts, { groupSize: 1, maxNewTokens: 600, constraint, seed: 3 });
  const groups = prompts.map((prompt, p) => ({ prompt, completions: lists[p]!.map((list) => list.ids) }));
  const { logprobs } = await policy.score(groups, { constraint });
  const sampled = lists.flat().flatMap((list) => [...list.logprobs]);
  const open = lists.flat().filter((list) => list.finish !== "stop").length;
  return { error: open + Math.max(...sampled.map((x, t) => Math.abs(x - logprobs[t]!))), tolerance: 0 };
}

/** Sampling at 8 and 64 rows against free lists as long. */
async function sampling({ harness, policy, compute }: Bench, catalog: CatalogConstraint): Promise<void> {
  const { layers } = tokenFlops(model);
  for (const prompts of [1, 8]) {
    const rows = prompts * model.group;
    const name = `${model.name}: lists of the catalog, ${rows} rows`;
    const ids = promptsOf(model, prompts);
    const constraint = batchConstraint(catalog, prompts);
    const groups = await listsOf(policy, ids, model.group, constraint);
    const lengths = groups.flatMap((group) => group.completions.map((list) => list.length));
    const tokens = lengths.reduce((sum, n) => sum + n, 0);
    const length = Math.round(tokens / rows);
    const chosen = tokens - forcedTokens(groups, constraint).reduce((sum, x) => sum + x, 0);
    const weights = (layers / 2) * (compute === "bf16" ? 2 : 4);
    const shape = `${listLength} items, ${length} tokens (${(chosen / rows).toFixed(0)} choices), prompts of ${model.promptTokens}`;
    if (!harness.wants({ name, shape, dtype: compute })) continue;
    const run = (): unknown => policy.generate(ids, { groupSize: model.group, maxNewTokens: 600, constraint, seed: 3 });
    await harness.measure({
      name,
      shape,
      dtype: compute,
      flops: (prompts * model.promptTokens + tokens) * layers,
      tokens,
      // every token goes through the layers once, and the weights are read once for each choice
      bound: (b: NativeBounds) =>
        Math.max(
          ((prompts * model.promptTokens + tokens) * layers) /
            (compute === "bf16" && b.flopsBf16 ? b.flopsBf16 : b.flopsF32),
          ((chosen / rows) * weights) / b.readBytes,
        ),
      validate: () => validate(policy, ids, constraint),
      run,
    });
    const free = (): unknown =>
      policy.generate(ids, { groupSize: model.group, maxNewTokens: length, ignoreStop: true, seed: 3 });
    const target = prompts === 1 ? "2.5x" : "1.4x";
    harness.note(
      show(`${rows} rows, ${compute}: lists a second, against free lists as long`, await ratio(3, free, run), target),
    );
    // every set is built whole, those with one token too, of which sampling sees only that they have one
    const bookkeeping = await ratio(3, () => choices(groups, constraint, catalog.tokens), run);
    harness.note(
      `${rows} rows, ${compute}: exclusions, the walk through the tries and every set of allowed tokens, replayed alone on one thread: ${(100 * bookkeeping.median).toFixed(3)} % of a sampling (to reach: 1 %)`,
    );
  }
}

/** The update of the same lists with and without the constraint. */
async function update({ harness, policy, compute }: Bench, catalog: CatalogConstraint): Promise<void> {
  const name = `${model.name}: update of lists of the catalog`;
  const shape = `${model.prompts * model.group} lists of ${listLength} items`;
  if (!harness.wants({ name, shape, dtype: compute })) return;
  const reference = await Policy.load(modelPath, { compute, trainable: false });
  const prompts = promptsOf(model);
  const constraint = batchConstraint(catalog, prompts.length);
  const groups = await listsOf(policy, prompts, model.group, constraint);
  const { error } = await validate(policy, prompts, constraint);
  if (error !== 0)
    throw new RankGrpoError("WRONG_RESULT", `Expected the sampler's log-probs as the trainer's, got ${error} between.`);
  const free = (): unknown => updateOnce(policy, reference, groups);
  const within = (): unknown => updateOnce(policy, reference, groups, { constraint });
  harness.note(show(`update, ${compute}, against one without constraint`, await ratio(2, free, within), "1.15x"));
  reference.dispose();
}

/** Exact top 20 against scoring every item with the prompt computed once; that on some of them, and scaled (the prompt, too: a few percent). */
async function recommend({ harness, policy, compute }: Bench, catalog: CatalogConstraint): Promise<void> {
  const scoredItems = Math.min(384, catalog.items.length);
  const name = `${model.name}: top 20 of the catalog`;
  const shape = `${catalog.items.length} items, prompt of ${model.promptTokens}`;
  if (!harness.wants({ name, shape, dtype: compute })) return;
  const prompt = promptsOf(model, 1)[0]!;
  const whole = catalog.excluding([]);
  // as the first of two lines, which only a newline can end
  const constraint = { ...whole, rules: { ...whole.rules, least: 2, most: 2 } };
  const step = Math.floor(catalog.items.length / scoredItems);
  const lines = (items: readonly number[]): Group[] => [
    { prompt, completions: items.map((item) => Int32Array.from(catalog.lineOf(item))) },
  ];
  const someItems = Array.from({ length: scoredItems }, (_, i) => i * step);
  const some = lines(someItems);
  const scores = async (groups: Group[]): Promise<number[]> => {
    const { logprobs } = await policy.score(groups, { constraint });
    let token = 0;
    return groups[0]!.completions.map((ids) => ids.reduce((sum) => sum + logprobs[token++]!, 0));
  };
  const run = (): Promise<{ items: Int32Array; logprobs: Float32Array }> =>
    policy.recommend(prompt, constraint, { top: 20 });
  await harness.measure({
    name,
    shape,
    dtype: compute,
    // the answer's log-probs are the scorer's, and no other of the scored items stands before its last
    validate: async () => {
      const { items, logprobs } = await run();
      const own = (await scores(lines([...items]))).map((score, i) => Math.abs(score - logprobs[i]!));
      const missed = (await scores(some)).filter((_, i) => !items.includes(someItems[i]!));
      return { error: Math.max(...own, ...missed.map((score) => score - logprobs.at(-1)!)), tolerance: 1e-5 };
    },
    run,
  });
  const all = await ratio(3, () => policy.score(some, { constraint }), run);
  const scale = catalog.items.length / scoredItems;
  const scaled = { median: all.median * scale, all: all.all.map((x) => x * scale) };
  harness.note(
    show(
      `top 20, ${compute}, against scoring all items (${scoredItems} measured, times ${scale.toFixed(1)})`,
      scaled,
      "20x",
    ),
  );
}

/** Sampling from 6,000 and from 100,000 items, per token: longer lines of the one are not the other's gain. */
async function growth({ harness, policy, compute }: Bench, real: Catalog): Promise<void> {
  const name = `${model.name}: 100000 items`;
  if (!harness.wants({ name, shape: "", dtype: compute })) return;
  const prompts = promptsOf(model);
  const runs: { run: () => unknown; tokens: number; build: number }[] = [];
  for (const count of [6000, 100_000]) {
    let catalog!: CatalogConstraint;
    const build = await timed(async () => {
      catalog = await constraintOf(policy, madeUp(real.items, count));
    });
    const constraint = batchConstraint(catalog, prompts.length);
    const groups = await listsOf(policy, prompts, model.group, constraint);
    const tokens = groups.flatMap((group) => group.completions).reduce((sum, list) => sum + list.length, 0);
    runs.push({
      run: () => policy.generate(prompts, { groupSize: model.group, maxNewTokens: 600, constraint, seed: 3 }),
      tokens,
      build,
    });
  }
  const [small, large] = [runs[0]!, runs[1]!];
  const cost = await ratio(3, large.run, small.run);
  const scale = small.tokens / large.tokens;
  const scaled = { median: cost.median * scale, all: cost.all.map((x) => x * scale) };
  harness.note(show(`64 rows, ${compute}, 100,000 items against 6,000, time a token`, scaled, "at most 1.10x"));
}

/** A million items: built, kept in a file, opened again. */
async function million({ harness, policy }: Bench, real: Catalog): Promise<void> {
  if (!harness.wants({ name: "a million items", shape: "", dtype: "f32" })) return;
  const folder = await mkdtemp(join(tmpdir(), "rank-grpo-bench-"));
  const cache = join(folder, "catalog.cache");
  const catalog = madeUp(real.items, 1_000_000);
  let made!: CatalogConstraint;
  const build = await timed(async () => {
    made = await constraintOf(policy, catalog, cache);
  });
  const open = await timed(() => constraintOf(policy, catalog, cache));
  const { size } = await stat(cache);
  harness.note(
    `${made.items.length} items, ${made.tokens} tokens: tokenised, built and saved in ${(build / 1000).toFixed(1)} s, ` +
      `${(size / made.tokens).toFixed(2)} bytes a token; the key made and the file mapped again in ${(open / 1000).toFixed(2)} s`,
  );
  await rm(folder, { recursive: true });
}

export async function constraint(harness: Harness): Promise<void> {
  if (!existsSync(modelPath) || !existsSync(catalogPath))
    return harness.note(`left out: no ${modelPath} or ${catalogPath} (RANK_GRPO_BENCH_MODEL, RANK_GRPO_BENCH_CATALOG)`);
  const real = await Catalog.load(catalogPath);
  for (const compute of ["f32", "bf16"] as const) {
    const policy = await Policy.load(modelPath, { compute });
    const bench = { harness, policy, compute };
    const catalog = await constraintOf(policy, real);
    await sampling(bench, catalog);
    await recommend(bench, catalog);
    await update(bench, catalog);
    await growth(bench, real);
    if (compute === "f32") await million(bench, real);
    policy.dispose();
  }
}
