// Training on constrained lists: what it samples stays in the catalog, it resumes bit for bit, forced tokens carry nothing, and the commands
// that take a constraint agree with the library.
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it, vi } from "vitest";

import { evaluateCommand } from "../src/cli/evaluate.ts";
import { generateCommand, scoreCommand } from "../src/cli/generate.ts";
import { recommendCommand } from "../src/cli/recommend.ts";
import { readSamples } from "../src/data/samples.ts";
import { resolveObjective, stepInputs } from "../src/objectives.ts";
import { Policy } from "../src/policy.ts";
import { worldConfigs, writeWorld } from "../src/quickstart.ts";
import { Catalog } from "../src/ranking/catalog.ts";
import { CatalogConstraint } from "../src/ranking/constraint.ts";
import { scoreItems } from "../src/ranking/items.ts";
import { readList } from "../src/ranking/list.ts";
import { ListReader } from "../src/ranking/segments.ts";
import { encodePrompt } from "../src/text/encode.ts";
import type { TrainConfig } from "../src/training/config.ts";
import { maskForced } from "../src/training/constrain.ts";
import { sft } from "../src/training/sft.ts";
import { train, trainSteps } from "../src/training/train.ts";
import { World } from "../src/world.ts";

const root = mkdtempSync(join(tmpdir(), "rank-grpo-constrain-"));
const data = join(root, "data");
const model = join(root, "sft/final");
const shape = {
  model_type: "llama" as const,
  hidden_size: 32,
  intermediate_size: 64,
  num_hidden_layers: 2,
  num_attention_heads: 2,
  max_position_embeddings: 96,
};
const config = (changes: Partial<TrainConfig> = {}): TrainConfig => ({
  ...worldConfigs(data, 5).train,
  model,
  steps: 3,
  promptsPerStep: 5,
  groupSize: 4,
  maxNewTokens: 60,
  maxRows: 16,
  limit: 40,
  validation: undefined,
  ...changes,
});
const lines = (path: string): Record<string, unknown>[] =>
  readFileSync(path, "utf8")
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line) as Record<string, unknown>);
const weights = (run: string): Buffer => readFileSync(join(root, run, "final/model.safetensors"));
const catalogFile = join(data, "catalog.tsv");

beforeAll(async () => {
  await writeWorld(new World({ seed: 5 }), data, 48);
  await sft(
    {
      ...worldConfigs(data, 5).sft,
      model: { shape, tokenizer: join(data, "tokenizer") },
      steps: 30,
      batchSize: 16,
      validation: undefined,
    },
    { output: join(root, "sft") },
  );
});
afterAll(() => rmSync(root, { recursive: true, force: true }));

describe("training", () => {
  it("samples lists of the catalog alone, with the trainer's log-probs, and resumes bit for bit", async () => {
    for (const updatesPerRollout of [1, 2]) {
      const [whole, broken] = [`whole-${updatesPerRollout}`, `broken-${updatesPerRollout}`];
      const catalog = await Catalog.load(catalogFile);
      const texts: string[] = [];
      const settings = config({ updatesPerRollout, objective: { name: "rank-grpo", beta: 0.01 } });
      await train(settings, {
        output: join(root, whole),
        onStep: ({ metrics }) => {
          expect(metrics["policy/mismatch_max"]).toBe(0);
          expect(metrics["list/items"]).toBe(10);
          expect(metrics["list/duplicates"]).toBe(0);
          expect(metrics["list/in_catalog"]).toBeCloseTo(1, 12);
          expect(metrics["rollout/stopped"]).toBe(1);
          expect(metrics["optimizer/grad_norm"]).toBeGreaterThan(0);
        },
        rewards: [
          (completion, sample) => {
            texts.push(completion.text);
            const seen = sample.columns["seen_titles"] as string[];
            return completion.slots.map((slot) => {
              expect(slot && catalog.has(slot) && !seen.includes(slot.title)).toBe(true);
              return slot!.year % 2;
            });
          },
        ],
      });
      expect(new Set(texts).size).toBeGreaterThan(10);
      const controller = new AbortController();
      const rewards = [
        (completion: { slots: readonly ({ year: number } | null)[] }) => completion.slots.map((slot) => slot!.year % 2),
      ];
      const steps = trainSteps(settings, { output: join(root, broken), rewards, signal: controller.signal });
      await steps.next();
      controller.abort();
      for (let next = await steps.next(); !next.done; next = await steps.next());
      await train(settings, { output: join(root, broken), rewards, resume: true });
      expect(weights(broken).equals(weights(whole))).toBe(true);
      expect(lines(join(root, broken, "metrics.jsonl")).length).toBe(3);
    }
  });

  it("takes a range of lengths, exclusions off, and forced tokens in", async () => {
    const run = async (name: string, changes: Partial<TrainConfig>) => {
      const reports: Record<string, unknown>[] = [];
      await train(config({ steps: 1, ...changes }), {
        output: join(root, name),
        rewards: [(completion) => Array.from({ length: 10 }, (_, k) => (completion.slots[k]?.year ?? 0) % 2)],
        onStep: ({ metrics }) => void reports.push(metrics),
      });
      return reports[0]!;
    };
    const excluded = await run("excluded", {});
    const included = await run("included", { forced: "include" });
    const ranged = await run("ranged", { listLength: [2, 4] });
    expect(ranged["list/items"]).toBeGreaterThan(2);
    expect(ranged["list/items"]).toBeLessThan(4);
    const repeated = await run("repeated", { exclude: [], sampling: { temperature: 0.2 } });
    expect(repeated["list/duplicates"]).toBeGreaterThan(0);
    // the same lists, and a line of four tokens of which about two are choices: the same gradient, scaled down
    expect(included["reward/mean"]).toBe(excluded["reward/mean"]);
    const ratio = (included["optimizer/grad_norm"] as number) / (excluded["optimizer/grad_norm"] as number);
    expect(ratio).toBeGreaterThan(0.25);
    expect(ratio).toBeLessThan(0.75);
  });

  it("leaves forced tokens out of segments, means and normalisers, and nothing else", async () => {
    const policy = await Policy.load(model, { trainable: false });
    const catalog = await Catalog.load(catalogFile);
    const constraint = await CatalogConstraint.create(catalog, policy.tokenizer!, policy.stopId!, { length: 3 });
    const within = constraint.excluding([]);
    const prompt = Int32Array.of(3, 9, 60);
    const completions = (
      await policy.generate([prompt], { groupSize: 4, maxNewTokens: 40, constraint: within })
    )[0]!.map(({ ids }) => ids);
    const reader = new ListReader(policy.tokenizer!, policy.stopIds);
    const plans = completions.map((ids) => ({
      item: reader.read(ids).item,
      advantage: new Float32Array(ids.length).fill(1),
    }));
    const before = plans.map(({ item }) => [...item]);
    maskForced([{ prompt, completions }], [plans], within);
    const { logprobs } = await policy.score([{ prompt, completions }], { constraint: within });
    const flat = plans.flatMap(({ item }) => [...item]);
    expect(flat.map((item) => item < 0)).toEqual([...logprobs].map((x) => x === 0));
    expect(flat.every((item, t) => item < 0 || item === before.flat()[t])).toBe(true);
    expect(flat.filter((item) => item < 0).length).toBeGreaterThan(16);
    const inputs = stepInputs(plans, resolveObjective("rank-grpo"), 3);
    for (let s = 0; s + 1 < inputs.segmentOffsets.length; s++) {
      const tokens = inputs.segmentTokens.subarray(inputs.segmentOffsets[s], inputs.segmentOffsets[s + 1]);
      expect([...tokens].reduce((sum, t) => sum + inputs.weights[t]!, 0)).toBeCloseTo(1 / 12, 6);
      expect([...tokens].every((t) => logprobs[t] !== 0)).toBe(true);
    }
    expect(inputs.segmentOffsets.length - 1).toBe(12);
    policy.dispose();
  });
});

describe("commands", () => {
  const run = async (
    command: { parseAsync(words: string[], from: { from: "user" }): Promise<unknown> },
    ...words: string[]
  ) => {
    let text = "";
    const keep = (part: unknown): boolean => {
      text += String(part);
      return true;
    };
    const spies = [
      vi.spyOn(process.stdout, "write").mockImplementation(keep),
      vi.spyOn(process.stderr, "write").mockImplementation(() => true),
    ];
    try {
      await command.parseAsync(words, { from: "user" });
    } finally {
      for (const spy of spies) spy.mockRestore();
    }
    return text;
  };
  const test = (): string => join(data, "validation.jsonl");
  const catalogFlags = ["--catalog", catalogFile, "--catalog-cache", join(root, "catalog.cache")];

  it("generate, score, evaluate and recommend stay in the catalog and say the same numbers", async () => {
    const few = join(root, "few.jsonl");
    writeFileSync(few, `${readFileSync(test(), "utf8").trim().split("\n").slice(0, 6).join("\n")}\n`);
    const constrained = ["--constrain", "catalog", "--list-length", "10", ...catalogFlags];
    const lists = join(root, "lists.jsonl");
    await run(
      generateCommand(),
      "--model",
      model,
      "--input",
      few,
      "--output",
      lists,
      "--greedy",
      "--max-new-tokens",
      "60",
      ...constrained,
    );
    const generated = lines(lists) as {
      id: string;
      completions: { text: string; ids: number[]; logprobs: number[] }[];
    }[];
    const given = join(root, "given.jsonl");
    writeFileSync(
      given,
      generated
        .map(({ completions, ...row }) => `${JSON.stringify({ ...row, completion: completions[0]!.text })}\n`)
        .join(""),
    );
    const scores = join(root, "scores.jsonl");
    await run(scoreCommand(), "--model", model, "--input", given, "--output", scores, ...constrained);
    for (const [i, row] of (lines(scores) as { completion_ids: number[]; logprobs: number[] }[]).entries()) {
      expect(row.completion_ids).toEqual(generated[i]!.completions[0]!.ids);
      expect(row.logprobs).toEqual(generated[i]!.completions[0]!.logprobs);
      expect(row.logprobs.filter((x) => x === 0).length).toBeGreaterThan(10);
    }

    const table = await run(
      evaluateCommand(),
      "--model",
      model,
      "--data",
      few,
      "--output",
      join(root, "greedy.json"),
      "--max-new-tokens",
      "60",
      ...constrained,
    );
    expect(table).toContain("6 rows");
    const beams = join(root, "beams.json");
    await run(evaluateCommand(), "--model", model, "--data", few, "--output", beams, "--beams", "3", ...constrained);
    const searched = JSON.parse(readFileSync(beams, "utf8")) as {
      in_catalog: number;
      duplicates: number;
      lists: { completion: string }[];
    };
    expect(searched.in_catalog).toBe(1);
    expect(searched.duplicates).toBe(0);
    expect(searched.lists.every(({ completion }) => readList(completion).length === 10)).toBe(true);

    const top = join(root, "top.jsonl");
    await run(recommendCommand(), "--model", model, "--input", few, "--output", top, "--top", "5", ...catalogFlags);
    const found = lines(top) as { id: string; items: { title: string; year: number; logprob: number }[] }[];
    const policy = await Policy.load(model, { trainable: false });
    const catalog = await Catalog.load(catalogFile);
    const constraint = await CatalogConstraint.create(catalog, policy.tokenizer!, policy.stopId!, { length: 1 });
    const samples = await readSamples(few);
    for (const [i, sample] of samples.entries()) {
      const within = constraint.forSamples([sample]);
      const open = constraint.items.filter((_, n) => !within.excluded[0]!.includes(n));
      const all = await scoreItems(policy, encodePrompt(policy.tokenizer, sample.prompt), open, { constraint: within });
      const wanted = [...open.keys()].sort((a, b) => all[b]! - all[a]!).slice(0, 5);
      expect(found[i]!.items.map(({ title, year }) => ({ title, year }))).toEqual(wanted.map((n) => open[n]));
      expect(found[i]!.items.map(({ logprob }) => logprob)).toEqual(wanted.map((n) => Math.fround(all[n]!)));
    }
    policy.dispose();
    await expect(
      run(
        recommendCommand(),
        "--model",
        model,
        "--input",
        few,
        "--output",
        join(root, "x.jsonl"),
        "--top",
        "299",
        ...catalogFlags,
      ),
    ).rejects.toThrow(/at least 299 items after exclusions for sample/);
    await expect(
      run(
        generateCommand(),
        "--model",
        model,
        "--input",
        few,
        "--output",
        join(root, "y.jsonl"),
        "--max-new-tokens",
        "60",
        "--constrain",
        "catalog",
      ),
    ).rejects.toThrow(/--catalog/);
    await expect(
      run(evaluateCommand(), "--model", model, "--data", few, "--catalog", catalogFile, "--beams", "2"),
    ).rejects.toThrow(/a constraint for beams/);
  });
});
