// A ranker over candidates: ReDial's model of a million parameters reads the mix's list at the end of its prompt, learns to repeat it, and then
// by Rank-GRPO to do better. npx tsx recipes/evidence/redial-candidates.ts --help
import { existsSync } from "node:fs";
import { mkdir } from "node:fs/promises";
import { join } from "node:path";

import { readJsonl } from "../../src/data/jsonl.ts";
import type { Sample } from "../../src/data/sample.ts";
import { readSamples } from "../../src/data/samples.ts";
import { writeLines } from "../../src/data/write.ts";
import { philox, Stream } from "../../src/random.ts";
import { mixedLists } from "../../src/ranking/baselines.ts";
import { formatItem } from "../../src/ranking/list.ts";
import { dialogueOf } from "../../src/ranking/metrics.ts";
import { writeResults } from "./experiment.ts";
import {
  baselinesOf,
  candidates,
  type FiledStudy,
  metric,
  redialStudy,
  trainSteps,
  unified,
  voters,
} from "./redial-study.ts";
import { type Arm, armRuns, configurationOf, described, mainArms, startRun, studyFlags } from "./study.ts";

const sftSteps = 2500;
const rates = { GRPO: 3e-4, "Rank-GRPO exp_inf": 1e-4 }; // the main table's

const arms: readonly Arm[] = Object.entries(rates).map(([name, rate]) => ({
  ...mainArms.find((arm) => arm.name === name)!,
  rate,
}));

/**
 * The candidates with some of them swapped: three ranks of ten give their place to a later candidate, mostly a near one. Greedily that is the
 * mix's own list, rank by rank, and sampled lists differ, without which Rank-GRPO has nothing to compare. A model so narrow learns it because a
 * candidate and its rank in the list are nearly always as far apart; an order drawn freely asks it for the sum of all titles before.
 */
function swapped(candidates: readonly string[], ranks: number, row: number): string[] {
  const list = [...candidates];
  for (let rank = 0; rank < ranks; rank++) {
    const [swaps, distance] = philox(7, Stream.demonstrate, row, rank, 0).map((bits) => (bits >>> 0) / 2 ** 32);
    const other = rank + 1 + Math.floor(-4 * Math.log(1 - distance!));
    if (swaps! < 0.3 && other < list.length) [list[rank], list[other]] = [list[other]!, list[rank]!];
  }
  return list.slice(0, ranks);
}

/** A row whose prompt ends in its candidates. */
const withCandidates = (sample: Sample, candidates: readonly string[], completion: readonly string[]): object => ({
  ...sample.columns,
  id: sample.id,
  prompt: `${String(sample.prompt).replace(/=>\n$/, "")}c:\n${candidates.join("\n")}\n=>\n`,
  completion: completion.join("\n"),
});

/** The study's rows with candidates in their prompts; a training row's own dialogue did not vote for them. */
async function writeCandidates(study: FiledStudy, folder: string): Promise<void> {
  const { catalog, ranks } = study;
  await mkdir(folder, { recursive: true });
  const write = (name: string, rows: object[]): Promise<void> => writeLines(join(folder, `${name}.jsonl`), rows, true);
  const voted = new Map<unknown, string[]>();
  for await (const row of readJsonl(join(study.data, "candidates.jsonl")))
    voted.set(row["id"], row["candidates"] as string[]);
  const prompts = study.prompts.map((sample) => [sample, voted.get(sample.id)!] as const);
  await write(
    "sft",
    prompts.map(([sample, list]) => withCandidates(sample, list, swapped(list, ranks, sample.index))),
  );
  const first = ([sample, list]: readonly [Sample, string[]]): object =>
    withCandidates(sample, list, list.slice(0, ranks));
  await write("prompts", prompts.map(first));
  const train = await voters(study);
  for (const [name, published] of [
    ["validation", "redial_train"],
    ["test", "redial_test"],
  ] as const) {
    const samples = await readSamples(join(study.data, `${name}.jsonl`));
    const originals = new Map((await readSamples(join(unified, `${published}.jsonl`))).map((row) => [row.id, row]));
    const lists = mixedLists(
      train,
      samples.map(({ id }) => originals.get(id)!),
      catalog,
      candidates,
    ).map((list) => list.map(formatItem));
    await write(
      name,
      samples.map((sample, i) => first([sample, lists[i]!])),
    );
  }
}

const print = (line: string): void => void process.stdout.write(`${line}\n`);
const { output, seeds, run, does } = studyFlags(
  "redial-candidates",
  "Rank-GRPO and GRPO on ReDial where the prompt ends in the list of the mix of the baselines, which SFT has taught the model to repeat",
  ["start", "arms", "results"],
  "runs/redial-small",
  metric,
  print,
);
const plain = await redialStudy(output);
const data = join(plain.data, "candidates");
if (!existsSync(join(data, "test.jsonl"))) await writeCandidates(plain, data);
const file = (name: string): string => join(data, `${name}.jsonl`);
const study: FiledStudy = {
  ...plain,
  output: join(output, "candidates"),
  data,
  prompts: await readSamples(file("prompts")),
  test: await readSamples(file("test")),
  testFile: file("test"),
  // f32: the faster where bf16 has no arithmetic of its own
  sft: (seed) => ({ ...plain.sft(seed), compute: "f32", train: file("sft"), steps: sftSteps }),
  train: (seed) => {
    const config = plain.train(seed);
    return {
      ...config,
      compute: "f32",
      train: file("prompts"),
      validation: { ...config.validation!, data: file("validation") },
    };
  },
};
const starts = seeds.map((seed) => startRun(study, seed));
await run("start", () => starts);
await run("arms", () => armRuns(study, arms, seeds));
if (does("results")) {
  const { test, catalog } = study;
  const train = await voters(plain);
  await writeResults(
    "recipes/evidence/results/redial-candidates.json",
    [...starts, ...(await armRuns(study, arms, seeds))],
    {
      title: "A ranker over candidates",
      what: `The same model, data and arms with one difference: the prompt ends in ${candidates} candidates, the first of the mix for the dialogue (for a training row without the votes of its own dialogue). SFT, ${sftSteps} steps, teaches to repeat ${study.ranks} of them nearly in their order, so that a greedy list is the mix's own and sampled ones differ; whatever an arm adds in ${trainSteps} steps is what GRPO or Rank-GRPO has learnt beyond the mix. \`npx tsx recipes/evidence/redial-candidates.ts\``,
      tried: `On seed 1, with 20 candidates: lists drawn in proportion to 1 / rank, which the model could not learn in 1,000 SFT steps (.080); orders drawn nearer to the candidates' own, 800 SFT steps (.082, and .090 after 150 steps of exp_inf) and 1,500 (.084). Then 30 candidates and swaps, of which 600 SFT steps were too few to copy at all. The learning rates are those that the main table's tuning chose, ${Object.entries(
        rates,
      )
        .map(([arm, rate]) => `${arm} ${rate}`)
        .join(", ")}.`,
      metric,
      dialogues: test.map(({ id, columns }) => dialogueOf(id, columns["dialogue"])),
      baselines: baselinesOf(
        train,
        await readSamples(join(unified, "redial_test.jsonl")),
        catalog,
        study.ranks,
        metric,
      ),
      descriptions: { SFT: "repeats the candidates; where every arm starts", ...described(arms) },
      against: "SFT",
      pairs: [
        ["GRPO", "Rank-GRPO exp_inf"],
        ...["SFT", "GRPO", "Rank-GRPO exp_inf"].map((arm): [string, string] => ["their mix", arm]),
      ],
    },
    await configurationOf(study, arms, plain.data, [
      "candidates/sft.jsonl",
      "candidates/prompts.jsonl",
      "candidates/validation.jsonl",
      "candidates/test.jsonl",
    ]),
  );
  print("Results: recipes/evidence/results. Page: npm run docs");
}
