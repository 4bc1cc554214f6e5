// A study: every seed has a start (SFT), every arm begins there and differs in named keys of the configuration, a learning rate is tuned equally
// for all arms that have their own, and what is left is measured on the same test rows. The command's parts are said once here.
import { createHash } from "node:crypto";
import { existsSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { Command, InvalidArgumentError, Option } from "commander";

import type { Sample } from "../../src/data/sample.ts";
import { type Evaluation, evaluatePolicy, meansOf } from "../../src/evaluate.ts";
import { writeFileAtomic } from "../../src/files.ts";
import { Policy } from "../../src/policy.ts";
import type { Catalog } from "../../src/ranking/catalog.ts";
import { CatalogConstraint } from "../../src/ranking/constraint.ts";
import { expInf, type Reward } from "../../src/ranking/rewards.ts";
import type { SftConfig, TrainConfig } from "../../src/training/config.ts";
import { sft } from "../../src/training/sft.ts";
import { train } from "../../src/training/train.ts";
import { type ExperimentRun, isComplete, runAll } from "./experiment.ts";

export interface Arm {
  readonly name: string;
  readonly what: string;
  readonly config?: Partial<TrainConfig>;
  /** In place of the configuration's. */
  readonly rewards?: "dcg" | "shuffled";
  /** R1-zero: from random weights. */
  readonly scratch?: boolean;
  /** Steps of an SFT of its own to begin from; default the seed's start. */
  readonly sftSteps?: number;
  /** Whose tuned rate it takes; default its own. */
  readonly rateOf?: string;
  /** In place of a tuned one. */
  readonly rate?: number;
}

export interface Study {
  readonly output: string;
  readonly catalog: Catalog;
  /** Of stage 2, and the rows that are measured. */
  readonly prompts: readonly Sample[];
  readonly test: readonly Sample[];
  readonly testFile: string;
  readonly ranks: number;
  readonly maxNewTokens: number;
  /** Lists decoded together where test rows are measured, default 512. */
  readonly maxRows?: number;
  /** Of the validation that tunes and of RESULTS.md: ndcg@10, say. */
  readonly metric: string;
  readonly rates: readonly number[];
  readonly tuningSteps: number;
  readonly sft: (seed: number) => SftConfig;
  /** Without model and learning rate. */
  readonly train: (seed: number) => Omit<TrainConfig, "model" | "optimizer">;
  /** What of an arm is measured: its last step, or the best by validation. */
  readonly measured: "final" | "best";
}

/** Of tuning alone; its start and its runs count nowhere else. */
export const tuningSeed = 99;

// On-policy every ratio is 1, so GSPO takes GRPO's steps bit for bit: it is run with two updates a rollout, where they part.
export const mainArms: readonly Arm[] = [
  { name: "GRPO", what: "one advantage a list, its DCG; token ratios", config: { objective: "grpo" }, rewards: "dcg" },
  { name: "Rank-GRPO log", what: "DCG@k:N at rank k", config: { rewards: [{ name: "log_decay" }] } },
  {
    name: "Rank-GRPO exp 2",
    what: "exponential decay, gamma 2",
    config: { rewards: [{ name: "exp_gamma", gamma: 2 }] },
  },
  { name: "Rank-GRPO exp_inf", what: "each rank its own hit" },
  {
    name: "GRPO, mu 2",
    what: "two updates a rollout",
    config: { objective: "grpo", updatesPerRollout: 2 },
    rewards: "dcg",
    rateOf: "GRPO",
  },
  {
    name: "GSPO, mu 2",
    what: "sequence ratios, two updates a rollout",
    config: { objective: "gspo", updatesPerRollout: 2 },
    rewards: "dcg",
    rateOf: "GRPO",
  },
  {
    name: "exp_inf, mu 2",
    what: "two updates a rollout",
    config: { updatesPerRollout: 2 },
    rateOf: "Rank-GRPO exp_inf",
  },
  {
    name: "exp_inf, R1-zero",
    what: "from random weights, without SFT",
    scratch: true,
    rateOf: "Rank-GRPO exp_inf",
  },
  {
    name: "exp_inf, shuffled rewards",
    what: "the control: another prompt's ground truth",
    rewards: "shuffled",
    rateOf: "Rank-GRPO exp_inf",
  },
];

/** Lists from the catalog greedily, measured. @param folder of the run, which `evaluation.json` goes to @param model its weights */
export async function measure(study: Study, folder: string, model: string, constrained: boolean): Promise<void> {
  const { catalog, test, ranks, maxNewTokens, maxRows = 512 } = study;
  const policy = await Policy.load(model, { trainable: false, compute: study.train(0).compute ?? "f32" });
  const constraint = await CatalogConstraint.create(catalog, policy.tokenizer!, policy.stopId!, { length: ranks });
  const lists = { catalog, maxNewTokens, maxRows, ...(constrained ? { constraint } : {}) };
  const evaluation = await evaluatePolicy(policy, test, lists);
  policy.dispose();
  await writeFileAtomic(
    join(folder, "evaluation.json"),
    `${JSON.stringify(stored(evaluation, folder, study.testFile))}\n`,
  );
}

/** As `rank-grpo evaluate --output` writes it, without the lists. */
const stored = ({ metrics, rows }: Evaluation, source: string, data: string): object => ({
  truncation: "filter-then-cut",
  ideal: "standard",
  ...meansOf(metrics),
  source,
  data,
  row_metrics: rows,
});

/** Rewards that are functions: a list's DCG, and hits on the ground truth of another prompt, the same one for all rollouts of a group. */
function rewardsOf(arm: Arm, { catalog, prompts, ranks }: Study): { rewards?: Reward[] } {
  const hits = expInf({ catalog, ranks });
  if (arm.rewards === "dcg")
    return {
      rewards: [
        async (completion, sample, signal) => {
          const ranks = (await hits(completion, sample, signal)) as ArrayLike<number>;
          return Array.from(ranks).reduce((sum, hit, k) => sum + hit / Math.log2(k + 2), 0);
        },
      ],
    };
  if (arm.rewards === "shuffled")
    return {
      rewards: [
        (completion, sample, signal) => {
          const other = prompts[(sample.index + 1237) % prompts.length]!.columns["groundtruth_with_release_year"];
          const columns = { ...sample.columns, groundtruth_with_release_year: other };
          return hits(completion, { ...sample, columns }, signal);
        },
      ],
    };
  return {};
}

const start = (study: Study, seed: number, steps?: number): string =>
  join(study.output, steps === undefined ? `sft-${seed}` : `sft-${steps}-steps-${seed}`);
const startName = (steps?: number): string => (steps === undefined ? "SFT" : `SFT, ${steps} steps`);

/** An SFT run of its own name, folder and configuration. */
export function sftRun(
  study: Study,
  arm: string,
  seed: number,
  config: SftConfig,
  folder: string,
  measured: "final" | "best",
): ExperimentRun {
  return {
    arm,
    seed,
    folder,
    steps: config.steps!,
    train: (onStep) => sft(config, { output: folder, resume: existsSync(folder), onStep }),
    measure: () => measure(study, folder, join(folder, measured), true),
  };
}

/** @param steps default the study's */
export function startRun(study: Study, seed: number, steps?: number): ExperimentRun {
  const config = { ...study.sft(seed), ...(steps === undefined ? {} : { steps }) };
  return sftRun(study, startName(steps), seed, config, start(study, seed, steps), "final");
}

function trainRun(study: Study, arm: Arm, seed: number, rate: number, folder: string, steps?: number): ExperimentRun {
  const config: TrainConfig = {
    ...study.train(seed),
    model: arm.scratch ? study.sft(seed).model : join(start(study, seed, arm.sftSteps), "final"),
    optimizer: { learningRate: rate },
    ...(steps === undefined ? {} : { steps }),
    ...arm.config,
  };
  return {
    arm: arm.name,
    seed,
    folder,
    steps: config.steps!,
    train: (onStep) => train(config, { output: folder, resume: existsSync(folder), onStep, ...rewardsOf(arm, study) }),
    measure: () => measure(study, folder, join(folder, study.measured), config.constrain === "catalog"),
  };
}

const slug = (text: string): string => text.toLowerCase().replaceAll(/[^a-z0-9.]+/g, "-");

/** Short runs of every arm that has a rate of its own at every rate, on the tuning seed. */
export function tuningRuns(study: Study): { arm: Arm; rate: number; run: ExperimentRun }[] {
  return mainArms
    .filter((arm) => arm.rateOf === undefined)
    .flatMap((arm) =>
      study.rates.map((rate) => {
        const folder = join(study.output, "tuning", `${slug(arm.name)}-${rate}`);
        return { arm, rate, run: trainRun(study, arm, tuningSeed, rate, folder, study.tuningSteps) };
      }),
    );
}

/** For every arm tuned: the rate whose run validates best, at its end or, where the best is measured, at its best. */
export async function tunedRates(study: Study): Promise<Map<string, { rate: number; values: number[] }>> {
  const best = new Map<string, { rate: number; values: number[] }>();
  for (const { arm, rate, run } of tuningRuns(study)) {
    if (!isComplete(run)) continue;
    const lines = (await readFile(join(run.folder, "metrics.jsonl"), "utf8")).trim().split("\n");
    const validated = lines
      .map((line) => JSON.parse(line) as Record<string, number>)
      .filter((line) => line["step"]! > 0)
      .map((line) => line[`validation/${study.metric}`])
      .filter((v) => v !== undefined);
    const value = study.measured === "best" ? Math.max(...validated) : validated.at(-1)!;
    const before = best.get(arm.name) ?? { rate, values: [] };
    const rateNow = before.values.every((other) => value > other) ? rate : before.rate;
    best.set(arm.name, { rate: rateNow, values: [...before.values, value] });
  }
  return best;
}

/** The rates that were chosen and what all of them gave, in words. */
export const tunedInWords = async (study: Study): Promise<string> =>
  [...(await tunedRates(study))]
    .map(([name, { rate, values }]) => `${name} ${rate} (${values.map((v) => v.toFixed(3)).join(", ")})`)
    .join("; ");

/** The arms, each after the start of its own where it has one. @param folder of the arms, in the study's */
export async function armRuns(
  study: Study,
  arms: readonly Arm[],
  seeds: readonly number[],
  folder = "arms",
  steps?: number,
): Promise<ExperimentRun[]> {
  const tuned = await tunedRates(study);
  return seeds.flatMap((seed) =>
    arms.flatMap((arm) => {
      const rate = arm.rate ?? tuned.get(arm.rateOf ?? arm.name)?.rate ?? Number.NaN;
      const run = trainRun(study, arm, seed, rate, join(study.output, folder, `${slug(arm.name)}-${seed}`), steps);
      return arm.sftSteps === undefined ? [run] : [startRun(study, seed, arm.sftSteps), run];
    }),
  );
}

export const described = (arms: readonly Arm[]): Record<string, string> =>
  Object.fromEntries(
    arms.flatMap(({ name, what, sftSteps }) => [
      ...(sftSteps === undefined ? [] : [[startName(sftSteps), "where the next arm starts"]]),
      [name, what],
    ]),
  );

/** A hash of configurations, arms and data, for a results file that gathers runs. @param data the folder of `files`, wherever it lies */
export async function configurationOf(
  { sft, train, ranks, metric, measured }: Study,
  arms: readonly Arm[],
  data: string,
  files: readonly string[],
): Promise<string> {
  const text = JSON.stringify([sft(0), train(0), arms, ranks, metric, measured]);
  const hash = createHash("sha256").update(text.replaceAll(JSON.stringify(data).slice(1, -1), ""));
  for (const file of files) hash.update(await readFile(join(data, file)));
  return hash.digest("hex").slice(0, 16);
}

export interface Flags {
  readonly output: string;
  readonly seeds: readonly number[];
  /** Runs what is asked for and is not complete; `part` is one of the command's. */
  readonly run: (part: string, runs: () => Promise<ExperimentRun[]> | ExperimentRun[]) => Promise<void>;
  readonly does: (part: string) => boolean;
}

const seedsOf = (text: string): number[] => {
  const seeds = text.split(",").map(Number);
  if (seeds.every((seed) => Number.isInteger(seed) && seed >= 0)) return seeds;
  throw new InvalidArgumentError("Expected whole numbers with commas, such as 1,2,3.");
};

/** The command line of a study. @param parts in their order, beside `all` @param metric what is told of each run */
export function studyFlags(
  name: string,
  what: string,
  parts: readonly string[],
  output: string,
  metric: string,
  print: (line: string) => void,
): Flags {
  const given = new Command(name)
    .description(what)
    .option("--output <dir>", "run folders; what is complete there is not run again", output)
    .addOption(new Option("--seeds <list>", "with commas").argParser(seedsOf).default([1, 2, 3], "1,2,3"))
    .option("--only <pattern>", "only arms whose name this regular expression finds (several processes may share them)")
    .addOption(
      new Option("--part <name>", "one after the other, or one alone").choices([...parts, "all"]).default("all"),
    )
    .parse()
    .opts<{ output: string; seeds: number[]; only?: string; part: string }>();
  const does = (part: string): boolean => given.part === "all" || given.part === part;
  return {
    output: given.output,
    seeds: given.seeds,
    does,
    run: async (part, runs) => {
      if (!does(part)) return;
      const only = given.only === undefined ? undefined : new RegExp(given.only);
      await runAll(
        (await runs()).filter((run) => only?.test(run.arm) ?? true),
        metric,
        print,
      );
    },
  };
}
