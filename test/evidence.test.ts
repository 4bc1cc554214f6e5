// The experiments of recipes/evidence: what is complete is not run again, results hold what runs gave, and the page tells it.
import { mkdtemp, readFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, expect, it } from "vitest";

import { objectives } from "../recipes/evidence/arithmetic.ts";
import { type ExperimentRun, isComplete, runAll, writeResults } from "../recipes/evidence/experiment.ts";
import { compareArms, type Results, section } from "../recipes/evidence/results.ts";
import { writeFileAtomic } from "../src/files.ts";
import { policyLoss } from "../src/kernels.ts";
import { checkCustomObjective, type ObjectiveInput, sampleStep } from "../src/objective/custom.ts";

const rows = 40;

/** A run that is trained in an instant: its rows have `level` and a ripple that all runs share. */
function fake(root: string, arm: string, seed: number, level: number, trained: string[], fail = false): ExperimentRun {
  const folder = join(root, `${arm}-${seed}`);
  const values = Array.from({ length: rows }, (_, i) => level + 0.01 * Math.sin(i) + 0.001 * seed);
  const mean = values.reduce((a, b) => a + b, 0) / rows;
  return {
    arm,
    seed,
    folder,
    steps: 2,
    train: async (onStep) => {
      trained.push(`${arm}-${seed}`);
      for (const step of [1, 2]) onStep({ step, steps: 2, metrics: {}, secondsLeft: 0 });
      if (fail) throw new Error("interrupted");
      const lines = [0, 1, 2].map((step) =>
        JSON.stringify({ step, ...(step === 1 ? {} : { "validation/ndcg@10": level / (3 - step) }) }),
      );
      await writeFileAtomic(join(folder, "metrics.jsonl"), `${lines.join("\n")}\n`);
    },
    measure: () =>
      writeFileAtomic(
        join(folder, "evaluation.json"),
        JSON.stringify({
          ...{ truncation: "filter-then-cut", ideal: "standard", source: folder, data: "test.jsonl" },
          ...{ "ndcg@10": mean, "recall@10": 2 * mean, duplicates: 0.25 },
          row_metrics: values.map((value, i) => ({ id: `r${i}`, dialogue: `d${i}`, "ndcg@10": value })),
        }),
      ),
  };
}

const about = {
  title: "A test",
  what: "Two arms.",
  tried: "Nothing.",
  metric: "ndcg@10",
  optimum: 0.5,
  baselines: [{ name: "optimum", metrics: { "recall@10": 1, "ndcg@10": 0.5 } }],
  descriptions: { base: "the base", better: "the better", absent: "never run" },
  against: "base",
  pairs: [
    ["base", "better"],
    ["better", "base"],
    ["base", "absent"],
  ] as [string, string][],
};

describe("an experiment", () => {
  it("goes on after an interruption, runs nothing twice, and names what is missing", async () => {
    const root = await mkdtemp(join(tmpdir(), "evidence-"));
    const trained: string[] = [];
    const lines: string[] = [];
    const broken = [fake(root, "base", 1, 0.2, trained), fake(root, "better", 1, 0.3, trained, true)];
    await expect(runAll(broken, "ndcg@10", (line) => lines.push(line))).rejects.toThrow("interrupted");
    expect(broken.map(isComplete)).toEqual([true, false]);
    const runs = [1, 2, 3].flatMap((seed) => [
      fake(root, "base", seed, 0.2, trained),
      fake(root, "better", seed, 0.3, trained),
    ]);
    await runAll(runs.slice(0, 5), "ndcg@10", (line) => lines.push(line));
    expect(trained).toEqual(["base-1", "better-1", "better-1", "base-2", "better-2", "base-3"]);
    expect(lines.at(-1)).toMatch(/^run 4\/4: base, seed 3: ndcg@10 0\.2/);

    const file = join(root, "results.json");
    await writeResults(file, runs, about);
    const results = JSON.parse(await readFile(file, "utf8")) as Results;
    expect(results.missing).toEqual(["better, seed 3"]);
    expect(results.arms).toHaveLength(5);
    expect(results.arms[0]).toMatchObject({
      name: "base",
      seed: 1,
      curve: [
        [0, 0.0667],
        [2, 0.2],
      ],
    });
    expect(results.arms[0]!.perRow).toHaveLength(rows);
    expect(results.arms[0]!.metrics["ndcg@10"]).toBeCloseTo(0.2 + 0.001, 2);

    const difference = compareArms(results, "base", "better")!;
    expect(difference.difference).toBeCloseTo(0.1 - 0.0005, 6); // seeds 1 to 3 against 1 and 2
    expect(difference.low).toBeGreaterThan(0.09);
    expect(difference.high).toBeLessThan(0.11);
    expect(compareArms(results, "base", "absent")).toBeUndefined();

    const page = section(results, "picture.svg");
    expect(page).toContain("## A test");
    expect(page).toContain("![ndcg@10 on validation rows");
    expect(page).toMatch(
      /\| \*\*better\*\* \| the better \| 2 \| 0\.6\d+ \| 0\.3\d+ \| 60\.\d % \| 0\.25 \| \+0\.0995 \[\+0\.09\d+, \+0\.10\d+\] \| < \.001 \|/,
    );
    expect(page).toMatch(/\| base < better \| .* \| confirmed \|/);
    expect(page).toMatch(/\| better < base \| .* \| refuted \|/);
    expect(page).not.toContain("absent");
    expect(page).toContain("Not run: better, seed 3.");
  });
});

describe("a results file that gathers runs", () => {
  it("keeps what it holds, says where each run was made, and refuses runs of another configuration", async () => {
    const root = await mkdtemp(join(tmpdir(), "evidence-"));
    const file = join(root, "results.json");
    const runsOf = (folder: string, seeds: readonly number[], level: number): ExperimentRun[] =>
      seeds.flatMap((seed) => [
        fake(join(root, folder), "base", seed, level, []),
        fake(join(root, folder), "better", seed, level + 0.1, []),
      ]);
    const read = async (): Promise<Results> => JSON.parse(await readFile(file, "utf8")) as Results;
    const planned = (folder: string, level: number): ExperimentRun[] => runsOf(folder, [1, 2], level);
    await runAll(runsOf("monday", [1], 0.2), "ndcg@10", () => {});
    await writeResults(file, planned("monday", 0.2), about, "one");
    const monday = await read();
    expect(monday.missing).toEqual(["base, seed 2", "better, seed 2"]);
    expect(monday.arms.map(({ origin }) => origin)).toEqual(
      [monday, monday].map(({ machine, commit, date }) => ({ machine, commit, date })),
    );

    // elsewhere, where nothing of Monday is left
    const moved = {
      ...monday,
      arms: monday.arms.map((arm) => ({ ...arm, origin: { ...arm.origin!, machine: "another machine" } })),
    };
    await writeFileAtomic(file, JSON.stringify(moved));
    await runAll(runsOf("tuesday", [2], 0.2), "ndcg@10", () => {});
    await writeResults(file, planned("tuesday", 0.2), about, "one");
    const tuesday = await read();
    expect(tuesday.missing).toEqual([]);
    expect(tuesday.arms.map(({ name, seed }) => `${name}-${seed}`)).toEqual([
      "base-1",
      "better-1",
      "base-2",
      "better-2",
    ]);
    expect(tuesday.arms.slice(0, 2)).toEqual(moved.arms);
    const page = section(tuesday, "picture.svg");
    expect(page).toContain(`another machine, ${monday.date}. Commit ${tuesday.commit}, ${tuesday.machine}`);
    expect(page).not.toContain("Not run");

    await expect(writeResults(file, planned("tuesday", 0.2), about, "two")).rejects.toThrow(
      "runs of configuration two",
    );
    expect(await read()).toEqual(tuesday);
  });
});

describe("the arithmetic mean of ratios", () => {
  const objective = objectives.arithmetic();
  const native = { params: { clipLow: 0.06, clipHigh: 0.08 }, beta: 0.001 };

  it("has the gradient of its loss", () => {
    // without and with clipped items
    for (const own of [objectives.arithmetic({ clipLow: 1, clipHigh: 100 }), objective]) {
      const { findings, passed } = checkCustomObjective(own);
      expect(findings.filter(({ grade }) => grade === "fault")).toEqual([]);
      expect(passed).toBe(true);
    }
  });

  it("is the geometric one where an item's ratios are equal, and above it elsewhere", () => {
    const step = sampleStep(3);
    const equal = (input: ObjectiveInput): void => {
      const [ours, theirs] = [objective.evaluate(input), policyLoss(input, native)];
      expect(ours.loss).toBeCloseTo(theirs.loss, 6);
      for (const [t, slope] of ours.dlogp.entries()) expect(slope).toBeCloseTo(theirs.dlogp[t]!, 6);
    };
    equal({ ...step, oldLogprobs: step.logprobs }); // on-policy
    equal({ ...step, oldLogprobs: step.logprobs.map((x) => x - 0.05) });
    const favoured = { ...step, advantages: new Float32Array(step.advantages.length).fill(1) };
    const open = { clipLow: 1, clipHigh: 100 };
    expect(objectives.arithmetic(open).evaluate(favoured).loss).toBeLessThan(
      policyLoss(favoured, { ...native, params: open }).loss - 1e-4,
    );
  });
});
