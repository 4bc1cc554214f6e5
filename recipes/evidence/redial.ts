// The same arms on real dialogues: ReDial with a model of some million parameters. npx tsx recipes/evidence/redial.ts --help
// Needs the data of ../shared (docs/data.md says how it is made of raw ReDial); redial-data.ts prepares it for so small a model.
import { existsSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { join } from "node:path";

import type { Sample } from "../../src/data/sample.ts";
import { readSamples } from "../../src/data/samples.ts";
import { writeLines } from "../../src/data/write.ts";
import { demonstrate, readLists } from "../../src/demonstrate/stages.ts";
import { formatItem } from "../../src/ranking/list.ts";
import { dialogueOf } from "../../src/ranking/metrics.ts";
import { groundTruths } from "../../src/ranking/rewards.ts";
import type { SftConfig } from "../../src/training/config.ts";
import { type ExperimentRun, writeResults } from "./experiment.ts";
import {
  baselinesOf,
  type FiledStudy,
  metric,
  redialStudy,
  sftSteps,
  trainSteps,
  unified,
  voters,
} from "./redial-study.ts";
import {
  type Arm,
  armRuns,
  configurationOf,
  described,
  mainArms,
  type Study,
  sftRun,
  startRun,
  studyFlags,
  tunedInWords,
  tuningRuns,
  tuningSeed,
} from "./study.ts";

const listSteps = 400;
const truthSftSteps = 500;
const truthSteps = 75;
const truthRate = 1e-4; // the main table's of exp_inf

/** Stage 1's lists for the training rows after each stage, without a teacher: three SFT files that differ in nothing else. */
async function writeStages(data: string): Promise<void> {
  const original = join(unified, "redial_train.jsonl");
  const options = {
    data: original,
    feedback: original,
    catalog: join(data, "catalog.tsv"),
    output: join(data, "demonstrated.jsonl"),
    stages: join(data, "stages"),
    teacher: "none",
    embedding: { kind: "cooccurrence" },
    candidates: 20,
    overwrite: true,
  } as const;
  await demonstrate({ ...options, until: "remap" });
  await demonstrate(options);
  const samples = await readSamples(original);
  const prompts = new Map((await readSamples(join(data, "train.jsonl"))).map(({ id, columns }) => [id, columns]));
  for (const [name, file] of [
    ["voted", join(data, "stages", "teach.jsonl")],
    ["remapped", join(data, "stages", "remap.jsonl")],
    ["adjusted", options.output],
  ] as const) {
    const lists = await readLists(file, samples);
    const rows = samples.flatMap(({ id }, i) => {
      const columns = prompts.get(id);
      return columns ? [{ ...columns, completion: lists[i]!.map(formatItem).join("\n") }] : [];
    });
    await writeLines(join(data, `${name}.jsonl`), rows, true);
  }
}

const stageLists = {
  voted: "lists of neighbour voting, as they are",
  remapped: "the same after Remap",
  adjusted: "the same after Remap and Adjust",
} as const;

function listRun(study: FiledStudy, name: keyof typeof stageLists, seed: number): ExperimentRun {
  const config: SftConfig = {
    ...study.sft(seed),
    train: join(study.data, `${name}.jsonl`),
    steps: listSteps,
    validation: { data: join(study.data, "validation.jsonl"), every: 50, metric, maxNewTokens: 160 },
  };
  return sftRun(study, `SFT on ${name} lists`, seed, config, join(study.output, "lists", `${name}-${seed}`), "best");
}

const separate = (data: string): string => join(data, "prompts-separate.jsonl");

/** The prompts of stage 2 with the ground truths of the row's own turn alone, without what else its dialogue likes. */
async function writeSeparate({ data, catalog }: FiledStudy): Promise<void> {
  const itemsOf = (sample: Sample): number[] => groundTruths(sample).map((truth) => catalog.indexOf(truth));
  const own = new Map((await readSamples(join(data, "train.jsonl"))).map((row) => [row.id, new Set(itemsOf(row))]));
  const rows = (await readSamples(join(data, "prompts.jsonl"))).map((sample) => {
    const row = own.get(sample.id) ?? own.get(sample.id.replace(/\d{3}$/, ""))!; // copies have three digits more
    const kept = itemsOf(sample).filter((item) => row.has(item));
    return {
      ...sample.columns,
      groundtruth_with_release_year: kept.map((item) => [catalog.items[item]!.title, catalog.items[item]!.year]),
    };
  });
  await writeLines(separate(data), rows, true);
}

// Shorter than the main table, whose starts alone cost more than this. In f32, which is the faster where bf16 has no arithmetic of its own.
const truthsOf = (study: FiledStudy): Study => ({
  ...study,
  output: join(study.output, "truths"),
  sft: (seed) => ({ ...study.sft(seed), compute: "f32", steps: truthSftSteps }),
  train: (seed) => ({ ...study.train(seed), compute: "f32", steps: truthSteps }),
});
const truthArms = (data: string): readonly Arm[] => [
  {
    name: "exp_inf, merged ground truths",
    what: "a hit is whatever the dialogue names or likes and the prompt does not",
    rate: truthRate,
  },
  {
    name: "exp_inf, separate ground truths",
    what: "a hit is what the row's own turn asks for",
    config: { train: separate(data) },
    rate: truthRate,
  },
];

const print = (line: string): void => void process.stdout.write(`${line}\n`);
const { output, seeds, run, does } = studyFlags(
  "redial",
  "SFT, GRPO, GSPO and Rank-GRPO on ReDial with a model of a million parameters from scratch, and whether a model learns more from adjusted lists",
  ["start", "lists", "truths", "tune", "arms", "results"],
  "runs/redial-small",
  metric,
  print,
);
const study = await redialStudy(output);
const starts = seeds.map((seed) => startRun(study, seed));
const listRuns = seeds.flatMap((seed) =>
  (Object.keys(stageLists) as (keyof typeof stageLists)[]).map((name) => listRun(study, name, seed)),
);
await run("start", () => [...starts, startRun(study, tuningSeed)]);
if (does("lists") && !existsSync(join(study.data, "adjusted.jsonl"))) await writeStages(study.data);
await run("lists", () => listRuns);
if (!existsSync(separate(study.data))) await writeSeparate(study);
const truths = truthsOf(study);
const truthRunsOf = async (seed: number): Promise<ExperimentRun[]> => [
  startRun(truths, seed),
  ...(await armRuns(truths, truthArms(study.data), [seed])),
];
const truthRuns = (await Promise.all(seeds.map(truthRunsOf))).flat();
await run("truths", () => truthRuns);
await run("tune", () => tuningRuns(study).map((tuning) => tuning.run));
await run("arms", () => armRuns(study, mainArms, seeds));
if (does("results")) {
  const { test, catalog, data } = study;
  const train = await voters(study);
  const original = await readSamples(join(unified, "redial_test.jsonl"));
  const baselines = baselinesOf(train, original, catalog, 20, metric);
  const common = {
    metric,
    dialogues: test.map(({ id, columns }) => dialogueOf(id, columns["dialogue"])),
    baselines,
  };
  const rowsOf = async (name: string): Promise<number> =>
    (await readFile(join(data, `${name}.jsonl`), "utf8")).split("\n").length - 1;
  const [rows, validation] = [await rowsOf("mix"), await rowsOf("validation")];
  const { added_tokens } = JSON.parse(await readFile(join(data, "tokenizer", "tokenizer.json"), "utf8")) as {
    added_tokens: { content: string }[];
  };
  const names = new Set(catalog.items.map(formatItem));
  const titles = added_tokens.filter(({ content }) => names.has(content)).length;
  await writeResults("recipes/evidence/results/redial.json", [...starts, ...(await armRuns(study, mainArms, seeds))], {
    ...common,
    title: "ReDial with a model of a million parameters",
    what: `A model of 1.1 M parameters from scratch, with a tokenizer of the data in which ${titles} titles are one token each, learns lists of the mix of the baselines (SFT, ${sftSteps} steps of 64) for ${rows} prompts: the ${train.length} training rows and copies of them that lack turns and words or join two dialogues. From there each arm: ${trainSteps} steps of 64 prompts x 8 rollouts from the catalog, in bf16; a hit is whatever the dialogue names or likes and the prompt does not. Of each arm the best of every 25 steps by ${metric} on ${validation} validation rows (a tenth of the training dialogues) is measured, greedily, on all ${test.length} test rows. The baselines vote with the same ${train.length} rows, but keep them at hand. \`npx tsx recipes/evidence/redial.ts\``,
    tried: `Before: the start with copies that only lack turns and words, with copies that join dialogues too (better in loss and lists), and with twice the width (worse after equal steps); Rank-GRPO exp_inf at both rates for 300 steps, seed 1. Its sampled reward rose to the end, its validation for 50 to 150 steps and then fell: training dialogues are learnt by heart, so that the best is measured, and 150 steps are enough. Learning rates, ${study.tuningSteps} steps on a seed of their own, best validation: ${await tunedInWords(study)}.`,
    descriptions: { SFT: "where every arm starts", ...described(mainArms) },
    against: "SFT",
    pairs: [
      ["SFT", "GRPO"],
      ["GRPO", "Rank-GRPO log"],
      ["Rank-GRPO log", "Rank-GRPO exp_inf"],
      ["GRPO", "Rank-GRPO exp_inf"],
      ["GRPO, mu 2", "GSPO, mu 2"],
      ["GSPO, mu 2", "exp_inf, mu 2"],
      ["neighbour voting", "Rank-GRPO exp_inf"],
      ["their mix", "Rank-GRPO exp_inf"],
    ],
  });
  await writeResults("recipes/evidence/results/redial-lists.json", listRuns, {
    ...common,
    title: "Does a model learn more from adjusted lists?",
    what: `The same model on the lists of \`data demonstrate\` without a teacher, as voted, after Remap, and after Adjust: the ${train.length} training rows without copies, up to ${listSteps} steps of 64, the best of every 50 by ${metric} on the validation rows.`,
    tried: "Nothing: the start's configuration with fewer steps.",
    descriptions: Object.fromEntries(Object.entries(stageLists).map(([name, what]) => [`SFT on ${name} lists`, what])),
    against: "SFT on voted lists",
    pairs: [["SFT on remapped lists", "SFT on adjusted lists"]],
  });
  await writeResults(
    "recipes/evidence/results/redial-truths.json",
    truthRuns,
    {
      ...common,
      title: "Merged against separate ground truths",
      what: `The arm exp_inf of ReDial's main table with two readings of what a hit is, shorter, so that figures are not those of the main table: ${truthSteps} steps in place of ${trainSteps}, from starts of ${truthSftSteps} SFT steps in place of ${sftSteps}, in f32. Of each arm the best of every 25 steps by ${metric} on the validation rows. \`npx tsx recipes/evidence/redial.ts --part truths\``,
      tried: `Nothing: the learning rate is the one that the main table's tuning chose for exp_inf, ${truthRate}.`,
      descriptions: { SFT: "where both arms start", ...described(truthArms(data)) },
      against: "SFT",
      pairs: [["exp_inf, separate ground truths", "exp_inf, merged ground truths"]],
    },
    await configurationOf(truths, truthArms(data), data, [
      "catalog.tsv",
      "mix.jsonl",
      "prompts.jsonl",
      "prompts-separate.jsonl",
      "validation.jsonl",
      "test.jsonl",
    ]),
  );
  print("Results: recipes/evidence/results. Page: npm run docs");
}
