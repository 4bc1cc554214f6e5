// Train with a reward of your own: here, lists should begin with titles of the nineties and repeat nothing.
// Runs on the quickstart's world with a model from scratch: npx tsx examples/reward.ts [folder]
import { join } from "node:path";
import { type Reward, sft, trainSteps, World, worldConfigs, writeWorld } from "rank-grpo";

const folder = process.argv[2] ?? "runs/example-reward";

/** One number for each rank; `completion.slots` is the list line by line, null where a line is no title. */
const nineties: Reward = (completion) => {
  const seen = new Set<string>();
  return Array.from({ length: 10 }, (_, rank) => {
    const item = completion.slots[rank];
    if (!item || seen.has(item.title)) return 0;
    seen.add(item.title);
    return item.year >= 1990 && item.year < 2000 ? 1 : 0;
  });
};

const data = join(folder, "data");
await writeWorld(new World(), data, 500);
const configs = worldConfigs(data, 1);
await sft({ ...configs.sft, steps: 60, validation: undefined }, { output: join(folder, "sft") });

for await (const step of trainSteps(
  { ...configs.train, model: join(folder, "sft/final"), steps: 10, promptsPerStep: 16, validation: undefined },
  { output: join(folder, "train"), rewards: [nineties] },
))
  console.log(`step ${step.step}: reward ${Number(step.metrics["reward/mean"]).toFixed(2)} of 10`);
