// Studies in synthetic worlds whose best lists are known: their data, configurations, the lists that need no training, and the command that
// runs starts, tuning and main arms and writes what they gave.
import { existsSync } from "node:fs";
import { join } from "node:path";

import { readSamples } from "../../src/data/samples.ts";
import { evaluateLists, meansOf } from "../../src/evaluate.ts";
import { worldConfigs, worldRanges, writeWorld } from "../../src/quickstart.ts";
import { Catalog } from "../../src/ranking/catalog.ts";
import type { Tokenizer } from "../../src/text/types.ts";
import type { SftConfig, TrainConfig } from "../../src/training/config.ts";
import type { World } from "../../src/world.ts";
import { writeResults } from "./experiment.ts";
import type { Results } from "./results.ts";
import {
  armRuns,
  described,
  type Flags,
  mainArms,
  type Study,
  startRun,
  studyFlags,
  tunedInWords,
  tuningRuns,
  tuningSeed,
} from "./study.ts";

/** A world and what is spent in it; all else is the quickstart's. */
export interface Setup {
  readonly world: World;
  /** Default: the world's, three tokens a title. */
  readonly tokenizer?: Tokenizer;
  /** Tokens that a list may take. */
  readonly maxNewTokens: number;
  readonly demonstrations: number;
  readonly sft: Partial<SftConfig> & { steps: number };
  readonly train: Partial<TrainConfig> & { steps: number };
  readonly rates: readonly number[];
  readonly tuningSteps: number;
}

const metricOf = ({ ranks }: World): string => `ndcg@${ranks}`;

/** How a world's command is called, and what its section says beside the setup's figures. */
export interface Page {
  /** Of the command and of its results. */
  readonly name: string;
  readonly help: string;
  /** Default folder of the runs. */
  readonly output: string;
  /** Parts of the command beside these. */
  readonly parts?: readonly string[];
  readonly title: string;
  /** Its items and lists, in a few words. */
  readonly size: string;
  /** Of the model: 0.4 M, say. */
  readonly parameters: string;
  /** What was tried before, around what is said of tuning. */
  readonly tried: (tuning: string) => string;
}

async function prepare(setup: Setup, output: string): Promise<Study> {
  const { world, maxNewTokens, rates, tuningSteps } = setup;
  const metric = metricOf(world);
  const data = join(output, "data");
  if (!existsSync(join(data, "tokenizer"))) await writeWorld(world, data, setup.demonstrations, setup.tokenizer);
  const file = (name: string): string => join(data, `${name}.jsonl`);
  return {
    output,
    catalog: await Catalog.load(join(data, "catalog.tsv")),
    prompts: await readSamples(file("prompts")),
    test: await readSamples(file("test")),
    testFile: file("test"),
    ranks: world.ranks,
    maxNewTokens,
    metric,
    rates,
    tuningSteps,
    sft: (seed) => {
      const { sft } = worldConfigs(data, seed);
      return { ...sft, validation: undefined, checkpoint: { every: 500 }, ...setup.sft };
    },
    train: (seed) => ({
      ...worldConfigs(data, seed).train,
      compute: "bf16",
      ranks: world.ranks,
      maxNewTokens,
      validation: { data: file("validation"), every: 20, metric, maxNewTokens },
      checkpoint: { every: 60, keep: 1 },
      ...setup.train,
    }),
    measured: "final",
  };
}

/** What the results of all arms of a world share. */
function baselines(
  { test, catalog }: Study,
  world: World,
): Pick<Results, "metric" | "baselines"> & { optimum: number } {
  const metric = metricOf(world);
  const lists = (make: (named: readonly number[], index: number) => number[]): Record<string, number> => {
    const texts = test.map((_, i) =>
      world.text(make(world.dialogue(worldRanges.test + i).named, worldRanges.test + i)),
    );
    const all = meansOf(evaluateLists(test, texts, { catalog }).metrics);
    return Object.fromEntries(
      [`recall@${world.ranks}`, metric].map((name) => [name, Math.round(1e5 * all[name]!) / 1e5]),
    );
  };
  const optimum = lists((named) => world.bestList(named));
  return {
    metric,
    optimum: optimum[metric]!,
    baselines: [
      { name: "optimum", metrics: optimum },
      { name: "teacher of the demonstrations", metrics: lists((named, i) => world.teacherList(named, i)) },
      { name: "popularity", metrics: lists((named) => world.popularList(named)) },
    ],
  };
}

/** Of the main arms: is the second better than the first? */
const mainPairs: [a: string, b: string][] = [
  ["SFT", "GRPO"],
  ["GRPO", "Rank-GRPO log"],
  ["Rank-GRPO log", "Rank-GRPO exp_inf"],
  ["GRPO", "Rank-GRPO exp_inf"],
  ["Rank-GRPO log", "Rank-GRPO exp 2"],
  ["GRPO, mu 2", "GSPO, mu 2"],
  ["GSPO, mu 2", "exp_inf, mu 2"],
  ["Rank-GRPO exp_inf", "exp_inf, mu 2"],
];

/** Starts, tuning and main arms, then their results: the parts that every world has, as far as the command line asks for them. */
export async function runWorld(
  setup: Setup,
  page: Page,
): Promise<Flags & { study: Study; common: ReturnType<typeof baselines> }> {
  const { world, demonstrations, sft, train } = setup;
  const flags = studyFlags(
    page.name,
    page.help,
    ["start", "tune", "arms", ...(page.parts ?? []), "results"],
    page.output,
    metricOf(world),
    (line) => void process.stdout.write(`${line}\n`),
  );
  const { seeds, run, does } = flags;
  const study = await prepare(setup, flags.output);
  const common = baselines(study, world);
  const starts = seeds.map((seed) => startRun(study, seed));
  await run("start", () => [...starts, startRun(study, tuningSeed)]);
  await run("tune", () => tuningRuns(study).map((tuning) => tuning.run));
  await run("arms", () => armRuns(study, mainArms, seeds));
  if (does("results"))
    await writeResults(
      `recipes/evidence/results/${page.name}.json`,
      [...starts, ...(await armRuns(study, mainArms, seeds))],
      {
        ...common,
        title: page.title,
        what: `${page.size}, three ground truths a dialogue; a model of ${page.parameters} parameters learns from ${demonstrations} lists of a noisy teacher (SFT, ${sft.steps} steps of 64), and from there by each arm: ${train.steps} steps of 64 prompts x 8 rollouts, lists from the catalog without the dialogue's own titles and without repeats, in bf16. Measured greedily on ${study.test.length} test dialogues after the last step. \`npx tsx recipes/evidence/${page.name}.ts\``,
        tried: page.tried(
          `The learning rate of the first four arms: the best of ${study.rates.join(", ")} by ${study.metric} on 200 validation dialogues after ${study.tuningSteps} steps of one further seed. Chosen (and what they gave): ${await tunedInWords(study)}. The others take GRPO's or exp_inf's.`,
        ),
        descriptions: { SFT: "where every arm starts", ...described(mainArms) },
        against: "SFT",
        pairs: mainPairs,
      },
    );
  return { ...flags, study, common };
}
