// A pretrained model on real dialogues: SmolLM2-135M-Instruct as it comes, after SFT, GRPO and Rank-GRPO. npx tsx recipes/evidence/redial-smollm2.ts --help
// A seed takes long, so that its results file gathers seeds: what it holds already stays, and `--seeds 2` adds the second.
import { join } from "node:path";

import { readSamples } from "../../src/data/samples.ts";
import { Catalog } from "../../src/ranking/catalog.ts";
import { dialogueOf } from "../../src/ranking/metrics.ts";
import { type ExperimentRun, writeResults } from "./experiment.ts";
import { dialogueTokens, instruction, pretrained, ranks, testRows, unified, writeData } from "./redial-smollm2-data.ts";
import { baselinesOf } from "./redial-study.ts";
import {
  type Arm,
  armRuns,
  configurationOf,
  described,
  mainArms,
  measure,
  type Study,
  startRun,
  studyFlags,
} from "./study.ts";

const metric = `ndcg@${ranks}`;
const rate = 2e-5;
const sftSteps = 60;
const trainSteps = 100;
const validationRows = 100;

// Without KL term a group without a signal adds nothing to the update and is left out of it: most groups, and most of the time.
const arms: readonly Arm[] = Object.entries({ GRPO: "grpo", "Rank-GRPO exp_inf": "rank-grpo" }).map(([arm, name]) => ({
  ...mainArms.find((one) => one.name === arm)!,
  config: { objective: { name, beta: 0 } },
  rate,
}));

async function prepare(output: string): Promise<Study> {
  const data = join(output, "data");
  await writeData(data);
  const file = (name: string): string => join(data, `${name}.jsonl`);
  const shared = {
    catalog: join(data, "catalog.tsv"),
    constrain: "catalog",
    ranks,
    compute: "bf16",
    microBatchTokens: 1024,
    activationMiB: 0,
  } as const;
  const maxNewTokens = 160;
  return {
    output,
    catalog: await Catalog.load(shared.catalog),
    prompts: await readSamples(file("train")),
    test: await readSamples(file("test")),
    testFile: file("test"),
    ranks,
    maxNewTokens,
    maxRows: 96,
    metric,
    rates: [],
    tuningSteps: 0,
    sft: (seed) => ({
      ...shared,
      model: pretrained,
      train: file("train"),
      seed,
      steps: sftSteps,
      batchSize: 16,
      optimizer: { learningRate: 2e-4, beta2: 0.999 },
      schedule: { type: "cosine", warmup: 0.05 },
      checkpoint: { every: 20, keep: 1 },
    }),
    train: (seed) => ({
      ...shared,
      train: file("train"),
      seed,
      steps: trainSteps,
      promptsPerStep: 6,
      groupSize: 8,
      maxNewTokens,
      maxRows: 96,
      rewards: [{ name: "exp_inf" }],
      objective: "rank-grpo",
      schedule: { type: "constant", warmup: 5 },
      validation: { data: file("validation"), limit: validationRows, every: 25, metric, maxNewTokens },
      checkpoint: { every: 25, keep: 1 },
    }),
    measured: "final",
  };
}

/** The model as it comes; greedy lists have no seed. */
function zeroShot(study: Study): ExperimentRun {
  const folder = join(study.output, "zero-shot");
  return {
    arm: "zero-shot",
    seed: 0,
    folder,
    steps: 0,
    train: async () => {},
    measure: () => measure(study, folder, pretrained, true),
  };
}

const print = (line: string): void => void process.stdout.write(`${line}\n`);
const { output, seeds, run, does } = studyFlags(
  "redial-smollm2",
  "SmolLM2-135M-Instruct on ReDial as it comes, after SFT, GRPO and Rank-GRPO; the results file gathers seeds",
  ["start", "arms", "results"],
  "runs/redial-smollm2",
  metric,
  print,
);
const study = await prepare(output);
const starts = [zeroShot(study), ...seeds.map((seed) => startRun(study, seed))];
await run("start", () => starts);
await run("arms", () => armRuns(study, arms, seeds));
if (does("results")) {
  const { test, catalog } = study;
  const train = await readSamples(join(output, "data", "split", "train.jsonl"));
  const original = (await readSamples(join(unified, "redial_test.jsonl"))).slice(0, testRows);
  const baselines = baselinesOf(train, original, catalog, ranks, metric, ["popularity", "neighbour voting"]);
  const every = [...new Set([1, 2, 3, ...seeds])];
  await writeResults(
    "recipes/evidence/results/redial-smollm2.json",
    [zeroShot(study), ...every.map((seed) => startRun(study, seed)), ...(await armRuns(study, arms, every))],
    {
      title: "ReDial with SmolLM2-135M-Instruct",
      what: `A pretrained model reads "${instruction}" and the last ${dialogueTokens} tokens of the dialogue. It learns ${sftSteps} steps of 16 lists of ${ranks} (neighbour voting, Remap and Adjust over the ${train.length} training rows; a tenth of the dialogues is held out), and from there by each arm ${trainSteps} steps of 6 prompts x 8 rollouts from the catalog at learning rate ${rate}, without KL term, in bf16; a hit is what the row's own turn asks for. Every model is measured after its last step, greedily and constrained to the catalog, on the first ${test.length} test rows. Seeds are added as time allows. \`npx tsx recipes/evidence/redial-smollm2.ts --seeds 1\``,
      tried: `The learning rate is that of an earlier recipe with lists of 20 titles ([redial-smollm2.md](docs/recipes/redial-smollm2.md)), whose sampled reward rose by half within 24 steps; tuning was not affordable, here or there. ${testRows} of the 3,134 test rows, and the steps, are what time allowed.`,
      metric,
      dialogues: test.map(({ id, columns }) => dialogueOf(id, columns["dialogue"])),
      baselines,
      descriptions: {
        "zero-shot": "as it comes; one model, without a seed",
        SFT: "where both arms start",
        ...described(arms),
      },
      against: "SFT",
      pairs: [
        ["zero-shot", "SFT"],
        ["SFT", "GRPO"],
        ["SFT", "Rank-GRPO exp_inf"],
        ["GRPO", "Rank-GRPO exp_inf"],
      ],
    },
    await configurationOf(study, arms, join(output, "data"), [
      "catalog.tsv",
      "train.jsonl",
      "validation.jsonl",
      "test.jsonl",
    ]),
  );
  print("Results: recipes/evidence/results. Page: npm run docs");
}
