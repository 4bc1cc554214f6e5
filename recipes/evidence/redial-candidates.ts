// A ranker over candidates: ReDial's model of a million parameters reads the mix's list at the end of its prompt, learns to repeat it, and then
// by Rank-GRPO to do better. npx tsx recipes/evidence/redial-candidates.ts --help
import { existsSync } from "node:fs";
import { mkdir } from "node:fs/promises";
import { join } from "node:path";

import type { Sample } from "../../src/data/sample.ts";
import { readSamples } from "../../src/data/samples.ts";
import { writeLines } from "../../src/data/write.ts";
import { philox, Stream } from "../../src/random.ts";
import { mixedLists } from "../../src/ranking/baselines.ts";
import { formatItem } from "../../src/ranking/list.ts";
import { dialogueOf } from "../../src/ranking/metrics.ts";
import { writeResults } from "./experiment.ts";
import { baselinesOf, type FiledStudy, metric, redialStudy, trainSteps, unified, voters } from "./redial-study.ts";
import { type Arm, armRuns, described, mainArms, startRun, studyFlags } from "./study.ts";

const sftSteps = 1500;
const rates = { GRPO: 3e-4, "Rank-GRPO exp_inf": 1e-4 }; // the main table's

const arms: readonly Arm[] = Object.entries(rates).map(([name, rate]) => ({
  ...mainArms.find((arm) => arm.name === name)!,
  rate,
}));

/**
 * The candidates in an order drawn without replacement, each rank in proportion to e^(-rank / 2): greedily their own order, sampled lists that
 * differ, without which Rank-GRPO has nothing to compare. Flatter proportions ask for sums of more titles than the model's width can tell apart.
 */
function drawn(candidates: readonly string[], sample: Sample): string[] {
  return candidates
    .map((title, rank) => {
      const uniform = ((philox(7, Stream.demonstrate, sample.index, rank, 0)[0] >>> 0) + 1) / 2 ** 32;
      return [-Math.log(uniform) * Math.exp(rank / 2), title] as const;
    })
    .sort((a, b) => a[0] - b[0])
    .map(([, title]) => title);
}

/** A row whose prompt ends in its candidates. */
const withCandidates = (sample: Sample, candidates: readonly string[], completion = candidates): object => ({
  ...sample.columns,
  id: sample.id,
  prompt: `${String(sample.prompt).replace(/=>\n$/, "")}c:\n${candidates.join("\n")}\n=>\n`,
  completion: completion.join("\n"),
});

/** The study's rows with the mix's lists in their prompts; a training row's own dialogue did not vote for its list. */
async function writeCandidates(study: FiledStudy, folder: string): Promise<void> {
  await mkdir(folder, { recursive: true });
  const lists = new Map(
    (await readSamples(join(study.data, "mix.jsonl"))).map(({ id, completion }) => [
      id,
      String(completion).split("\n"),
    ]),
  );
  const candidatesOf = ({ id }: Sample): string[] => lists.get(id)!;
  const prompts = await readSamples(join(study.data, "prompts.jsonl"));
  const write = (name: string, rows: object[]): Promise<void> => writeLines(join(folder, `${name}.jsonl`), rows, true);
  await write(
    "sft",
    prompts.map((sample) => withCandidates(sample, candidatesOf(sample), drawn(candidatesOf(sample), sample))),
  );
  await write(
    "prompts",
    prompts.map((sample) => withCandidates(sample, candidatesOf(sample))),
  );
  const validation = await readSamples(join(study.data, "validation.jsonl"));
  await write(
    "validation",
    validation.map((sample) => withCandidates(sample, String(sample.completion).split("\n"))),
  );
  const original = await readSamples(join(unified, "redial_test.jsonl"));
  const mixed = mixedLists(await voters(study), original, study.catalog, study.ranks);
  await write(
    "test",
    study.test.map((sample, i) => withCandidates(sample, mixed[i]!.map(formatItem))),
  );
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
      what: `The same model, data and arms with one difference: the prompt ends in 20 candidates, the list of the mix for the dialogue (for a training row without the votes of its own dialogue). SFT, ${sftSteps} steps, teaches to repeat them, in an order drawn near their own, so that a greedy list is the mix's and sampled ones differ; whatever an arm adds in ${trainSteps} steps is what Rank-GRPO or GRPO has learnt beyond the mix. \`npx tsx recipes/evidence/redial-candidates.ts\``,
      tried: `On seed 1: lists drawn in proportion to 1 / rank, which the model could not learn in 1,000 SFT steps (ndcg@20 .080), and 800 SFT steps of the lists above (.082) with 150 steps of exp_inf after it (.090), so that SFT was made longer. The learning rates are those that the main table's tuning chose, ${Object.entries(
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
        ["SFT", "GRPO"],
        ["GRPO", "Rank-GRPO exp_inf"],
        ...["SFT", "GRPO", "Rank-GRPO exp_inf"].map((arm): [string, string] => ["their mix", arm]),
      ],
    },
  );
  print("Results: recipes/evidence/results. Page: npm run docs");
}
