// Does Rank-GRPO learn? The quickstart's world at a smaller budget, over seeds: SFT, Rank-GRPO, Rank-GRPO with rewards shuffled between prompts
// (the control: its gain must vanish), and Rank-GRPO with free sampling, at equal rollouts. Run: npx tsx bench/learning.ts [seeds] [steps] [folder]
import { join } from "node:path";
import { readSamples } from "../src/data/samples.ts";
import { evaluateLists, evaluatePolicy } from "../src/evaluate.ts";
import { writeFileAtomic } from "../src/files.ts";
import { Policy } from "../src/policy.ts";
import { worldConfigs, worldRanges, writeWorld } from "../src/quickstart.ts";
import { Catalog } from "../src/ranking/catalog.ts";
import { CatalogConstraint } from "../src/ranking/constraint.ts";
import { expInf, type Reward } from "../src/ranking/rewards.ts";
import { sft } from "../src/training/sft.ts";
import { train } from "../src/training/train.ts";
import { World } from "../src/world.ts";

const seeds = (process.argv[2] ?? "1,2,3").split(",").map(Number);
const steps = Number(process.argv[3] ?? 100);
const folder = process.argv[4] ?? "runs/learning";
const rows: {
  seed: number;
  arm: string;
  share: number;
  ndcg: number;
  recall: number;
  duplicates: number;
  seconds: number;
}[] = [];

for (const seed of seeds) {
  const world = new World({ seed });
  const root = join(folder, `seed-${seed}`);
  const data = join(root, "data");
  await writeWorld(world, data, 3000);
  const catalog = await Catalog.load(join(data, "catalog.tsv"));
  const test = await readSamples(join(data, "test.jsonl"));
  const prompts = await readSamples(join(data, "prompts.jsonl"));
  const best = test.map((_, i) => world.text(world.bestList(world.dialogue(worldRanges.test + i).named)));
  const optimum = evaluateLists(test, best, { catalog }).metrics["ndcg@10"];
  const configs = worldConfigs(data, seed);
  const measure = async (arm: string, model: string, constrained: boolean, seconds: number): Promise<void> => {
    const policy = await Policy.load(model, { trainable: false });
    const constraint = await CatalogConstraint.create(catalog, policy.tokenizer!, policy.stopId!, {
      length: world.ranks,
    });
    const { metrics } = await evaluatePolicy(policy, test, {
      catalog,
      maxNewTokens: 60,
      maxRows: 512,
      ...(constrained ? { constraint } : {}),
    });
    policy.dispose();
    rows.push({
      seed,
      arm,
      share: metrics["ndcg@10"] / optimum,
      ndcg: metrics["ndcg@10"],
      recall: metrics["recall@10"],
      duplicates: metrics.duplicates,
      seconds,
    });
    const row = rows.at(-1)!;
    console.log(
      `seed ${seed}  ${arm.padEnd(28)} ${(100 * row.share).toFixed(1)} % of the possible  NDCG@10 ${row.ndcg.toFixed(3)}  Recall@10 ${row.recall.toFixed(3)}  repeats ${row.duplicates.toFixed(2)}  ${seconds.toFixed(0)} s`,
    );
  };
  const timed = async (work: () => Promise<unknown>): Promise<number> => {
    const started = Date.now();
    await work();
    return (Date.now() - started) / 1000;
  };
  const start = join(root, "sft");
  const sftSeconds = await timed(() => sft({ ...configs.sft, validation: undefined }, { output: start }));
  await measure("SFT", join(start, "final"), true, sftSeconds);
  await measure("SFT, free lists", join(start, "final"), false, sftSeconds);

  const reward = expInf({ catalog, ranks: world.ranks });
  // the ground truth of another prompt, the same one for all rollouts of a group
  const shuffled: Reward = (completion, sample, signal) => {
    const other = prompts[(sample.index + 1237) % prompts.length]!;
    return reward(
      completion,
      {
        ...sample,
        columns: { ...sample.columns, groundtruth_with_release_year: other.columns["groundtruth_with_release_year"] },
      },
      signal,
    );
  };
  const config = { ...configs.train, model: join(start, "final"), steps, validation: undefined };
  for (const [arm, constrained, rewards] of [
    ["Rank-GRPO", true, [reward]],
    ["Rank-GRPO, shuffled rewards", true, [shuffled]],
    ["Rank-GRPO, free lists", false, [reward]],
  ] as const) {
    const output = join(root, arm.replaceAll(/\W+/g, "-").toLowerCase());
    const seconds = await timed(() =>
      train({ ...config, constrain: constrained ? "catalog" : "none" }, { output, rewards }),
    );
    await measure(arm, join(output, "final"), constrained, seconds);
  }
}

const mean = (arm: string): number => {
  const values = rows.filter((row) => row.arm === arm).map((row) => row.share);
  return values.reduce((a, b) => a + b, 0) / values.length;
};
for (const arm of new Set(rows.map((row) => row.arm)))
  console.log(`${arm.padEnd(28)} ${(100 * mean(arm)).toFixed(1)} % of the possible, mean of ${seeds.length} seeds`);
await writeFileAtomic(join(folder, "learning.json"), `${JSON.stringify({ steps, rows }, null, 1)}\n`);
console.log(
  JSON.stringify({
    steps,
    seeds,
    means: Object.fromEntries([...new Set(rows.map((r) => r.arm))].map((arm) => [arm, mean(arm)])),
  }),
);
