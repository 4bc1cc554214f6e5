// The training loop on a tiny world: it learns, resumes bit for bit, ends well when interrupted, and refuses what cannot work.
import { cpSync, existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { hostname, tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { afterAll, beforeAll, describe, expect, it, vi } from "vitest";

import type { Logger } from "../src/log/logger.ts";
import type { ObjectiveInput, ObjectiveOutput } from "../src/objective/custom.ts";
import { Policy } from "../src/policy.ts";
import { worldConfigs, writeWorld } from "../src/quickstart.ts";
import { Catalog } from "../src/ranking/catalog.ts";
import type { Reward } from "../src/ranking/rewards.ts";
import { encodePrompt } from "../src/text/encode.ts";
import { type SftConfig, sftSchema, type TrainConfig, trainSchema } from "../src/training/config.ts";
import type { MemoryPlan } from "../src/training/memory.ts";
import { parseConfig, readConfig } from "../src/training/parse.ts";
import { freshState, Run } from "../src/training/run.ts";
import { scheduleFactor } from "../src/training/schedule.ts";
import { sft } from "../src/training/sft.ts";
import { train, trainSteps } from "../src/training/train.ts";
import { openValidation } from "../src/training/validate.ts";
import { World } from "../src/world.ts";

const root = mkdtempSync(join(tmpdir(), "rank-grpo-training-"));
const data = join(root, "data");
const shape = {
  model_type: "llama" as const,
  hidden_size: 32,
  intermediate_size: 64,
  num_hidden_layers: 2,
  num_attention_heads: 2,
  max_position_embeddings: 96,
};
const configs = (): { sft: SftConfig; train: TrainConfig } => {
  const base = worldConfigs(data, 3);
  return {
    sft: {
      ...base.sft,
      model: { shape, tokenizer: join(data, "tokenizer") },
      steps: 60,
      batchSize: 16,
      validation: undefined,
    },
    train: {
      ...base.train,
      model: join(root, "sft/final"),
      steps: 4,
      promptsPerStep: 6,
      groupSize: 4,
      maxNewTokens: 48,
      maxRows: 16,
      limit: 40,
      constrain: "none",
      validation: undefined,
      schedule: { type: "cosine", warmup: 2 },
    },
  };
};
const lines = (path: string): Record<string, unknown>[] =>
  readFileSync(path, "utf8")
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line) as Record<string, unknown>);
/** What must not depend on the clock. */
const timeless = (rows: Record<string, unknown>[]): unknown[] =>
  rows.map((row) => Object.fromEntries(Object.entries(row).filter(([name]) => !/^(time|memory)\//.test(name))));
const weights = (run: string): Buffer => readFileSync(join(root, run, "final/model.safetensors"));

/** Dense: every rank with an item of an even year. Async, so that it also goes through the promise path. */
const evenYears: Reward = async (completion) =>
  Array.from({ length: 10 }, (_, k) => ((completion.slots[k]?.year ?? 1) % 2 === 0 ? 1 : 0));

beforeAll(async () => {
  await writeWorld(new World({ seed: 3 }), data, 64);
  await sft(configs().sft, { output: join(root, "sft") });
});
afterAll(() => rmSync(root, { recursive: true, force: true }));

describe("sft", () => {
  it("lowers the loss and leaves a whole run folder", () => {
    const metrics = lines(join(root, "sft/metrics.jsonl"));
    expect(metrics.map((row) => row["step"])).toEqual(Array.from({ length: 60 }, (_, i) => i + 1));
    expect(metrics.at(-1)!["sft/loss"] as number).toBeLessThan(0.75 * (metrics[0]!["sft/loss"] as number));
    expect(readdirSync(join(root, "sft")).sort()).toEqual([
      "checkpoints",
      "config.yaml",
      "final",
      "metrics.jsonl",
      "status.json",
    ]);
    expect(readdirSync(join(root, "sft/final"))).toEqual(
      expect.arrayContaining(["config.json", "model.safetensors", "tokenizer.json", "generation_config.json"]),
    );
  });

  it("tells no time left before the first step, and does not count the validation before it", async () => {
    const now = performance.now.bind(performance);
    let late = 0;
    const clock = vi.spyOn(performance, "now").mockImplementation(() => now() + late);
    const left: number[] = [];
    const validation = { data: join(data, "validation.jsonl"), limit: 2, every: 2 };
    await sft(
      { ...configs().sft, steps: 2, validation },
      {
        output: join(root, "sft-left"),
        onStep: ({ step, secondsLeft }) => {
          left.push(secondsLeft);
          if (step === 0) late = 3_600_000; // an hour
        },
      },
    ).finally(() => clock.mockRestore());
    expect(left[0]).toBeNaN();
    expect(left[1]).toBeLessThan(3600);
    expect(left[2]).toBe(0);
  });

  it("resumes bit for bit", async () => {
    const output = join(root, "sft-broken");
    const controller = new AbortController();
    const config = { ...configs().sft, checkpoint: { every: 20, keep: 1 } };
    const first = await sft(config, {
      output,
      signal: controller.signal,
      onStep: ({ step }) => {
        if (step === 25) controller.abort();
      },
    });
    expect(first).toMatchObject({ ended: "interrupted", steps: 25 });
    const second = await sft(config, { output, resume: true });
    expect(second).toMatchObject({ ended: "finished", steps: 60 });
    expect(weights("sft-broken").equals(weights("sft"))).toBe(true);
    expect(timeless(lines(join(output, "metrics.jsonl")))).toEqual(timeless(lines(join(root, "sft/metrics.jsonl"))));
  });
});

describe("train", () => {
  it("on-policy every ratio is 1 and sampler and trainer agree bit for bit", async () => {
    const reports = [];
    const steps = trainSteps(configs().train, { output: join(root, "on-policy"), rewards: [evenYears] });
    for await (const report of steps) reports.push(report);
    expect(reports).toHaveLength(4);
    for (const { metrics } of reports) {
      expect(metrics["policy/mismatch_max"]).toBe(0);
      expect(metrics["policy/ratio_min"]).toBe(1);
      expect(metrics["policy/ratio_max"]).toBe(1);
      expect(metrics["groups/live"] as number).toBeGreaterThan(0);
      expect((metrics["reward/by_rank"] as number[]).length).toBe(10);
    }
    expect(reports[0]!.metrics["policy/kl"]).toBe(0);
    expect(reports[3]!.metrics["policy/kl"] as number).toBeGreaterThan(0);
  });

  it("resumes bit for bit with mu = 2, rollouts and metrics included", async () => {
    const config = { ...configs().train, updatesPerRollout: 2, checkpoint: { every: 2, keep: 5 } };
    const options = { rewards: [evenYears] };
    await train(config, { ...options, output: join(root, "straight") });
    const output = join(root, "broken");
    const controller = new AbortController();
    await train(config, {
      ...options,
      output,
      signal: controller.signal,
      onStep: ({ step }) => {
        if (step === 3) controller.abort();
      },
    });
    // a crash after the checkpoint: lines of a step that is done again, and a torn one
    writeFileSync(
      join(output, "metrics.jsonl"),
      `${readFileSync(join(output, "metrics.jsonl"), "utf8")}{"step":4,"x":1}\n{"st`,
    );
    await train(config, { ...options, output, resume: true });
    expect(weights("broken").equals(weights("straight"))).toBe(true);
    expect(timeless(lines(join(output, "metrics.jsonl")))).toEqual(
      timeless(lines(join(root, "straight/metrics.jsonl"))),
    );
    expect(lines(join(output, "samples.jsonl"))).toEqual(lines(join(root, "straight/samples.jsonl")));
    expect(lines(join(output, "metrics.jsonl")).some((row) => row["policy/ratio_max"] !== 1)).toBe(true);
  });

  it("validates once before the first step, and stops early where it would without a break", async () => {
    const config = {
      ...configs().train,
      optimizer: { learningRate: 1e-12 }, // no list changes, so that no validation is better than the first
      validation: { data: join(data, "validation.jsonl"), limit: 8, every: 1, patience: 2, maxNewTokens: 48 },
      log: ["csv" as const],
    };
    const stopped = { ended: "early-stop", steps: 2, best: { step: 0 } };
    const straight = join(root, "patient");
    expect(await train(config, { output: straight, rewards: [evenYears] })).toMatchObject(stopped);
    const output = join(root, "patient-broken");
    const controller = new AbortController();
    const options = { output, rewards: [evenYears], signal: controller.signal };
    const first = await train(config, { ...options, onStep: () => controller.abort() });
    expect(first).toMatchObject({ ended: "interrupted", steps: 0, best: { step: 0 } });
    for (const _ of ["goes on", "stays where it stopped"])
      expect(await train(config, { output, rewards: [evenYears], resume: true })).toMatchObject(stopped);
    const metrics = timeless(lines(join(output, "metrics.jsonl")));
    expect(metrics).toEqual(timeless(lines(join(straight, "metrics.jsonl"))));
    const table = readFileSync(join(output, "metrics.csv"), "utf8").trim().split("\n");
    expect(table.map((row) => row.split(",")[0])).toEqual(["step", "0", "1", "2"]);
  });

  it("plans for what a validation generates, and cuts its prompts as training does", async () => {
    const file = join(data, "validation.jsonl");
    const base = { ...configs().train, maxRows: 64, maxPromptTokens: 4 };
    const passes = async (limit: number): Promise<number> => {
      const plans: MemoryPlan[] = [];
      const onMemory = (plan: MemoryPlan): void => {
        plans.push(plan);
        throw new Error("enough");
      };
      const config = { ...base, promptsPerStep: 1, groupSize: 2, validation: { data: file, limit } };
      await expect(train(config, { output: join(root, "planned"), onMemory })).rejects.toThrow("enough");
      return plans[0]!.passes;
    };
    expect(await passes(200)).toBeGreaterThan(await passes(1));

    const policy = await Policy.load(join(root, "sft/final"), { trainable: false });
    const catalog = await Catalog.load(join(data, "catalog.tsv"));
    const config = parseConfig(trainSchema, { ...base, validation: { data: file, limit: 20 } });
    const validation = (await openValidation(config.validation, catalog, config))!;
    expect(validation.workload(policy)).toEqual({ rows: 20, groupSize: 1, promptTokens: 4, newTokens: 48 });
    const ends = validation.samples.map(({ prompt }) => encodePrompt(policy.tokenizer, prompt).slice(-4).join());
    const generate = vi.spyOn(policy, "generate");
    await validation.measure(policy, undefined);
    const prompts = generate.mock.calls.flatMap(([prompts]) => prompts.map((prompt) => prompt.join()));
    expect(prompts).toEqual([...new Set(ends)]);
    policy.dispose();
  });

  it("takes ids that its tokenizer lacks, which a padded vocabulary lets it draw", async () => {
    const { tokenizer } = await Policy.load(join(root, "sft/final"), { trainable: false });
    const vocab_size = 2 * tokenizer!.vocabSize;
    const policy = await Policy.create({ ...shape, vocab_size }, { seed: 1, tokenizer: tokenizer! });
    await policy.save(join(root, "padded/model"));
    policy.dispose();
    const config = { ...configs().train, model: join(root, "padded/model"), steps: 1 };
    await train(config, { output: join(root, "padded/run"), rewards: [evenYears] });
    expect(lines(join(root, "padded/run/metrics.jsonl"))).toMatchObject([{ "policy/mismatch_max": 0 }]);
  });

  it("raises a dense reward", async () => {
    const summary = await train(
      {
        ...configs().train,
        steps: 12,
        promptsPerStep: 16,
        groupSize: 8,
        schedule: { type: "constant" },
        optimizer: { learningRate: 2e-3 },
      },
      { output: join(root, "dense"), rewards: [evenYears] },
    );
    expect(summary.ended).toBe("finished");
    const rewards = lines(join(root, "dense/metrics.jsonl")).map((row) => row["reward/mean"] as number);
    expect(rewards.at(-1)!).toBeGreaterThan(rewards[0]! + 0.3);
  });

  it("leaves weights as they are where no group has a signal and there is no KL", async () => {
    const config = {
      ...configs().train,
      steps: 1,
      objective: { name: "rank-grpo", beta: 0, earlyStop: 0, overflow: 0 },
    };
    await train(config, { output: join(root, "dead"), rewards: [() => 1] });
    const [row] = lines(join(root, "dead/metrics.jsonl"));
    expect(row).toMatchObject({ "groups/live": 0, "update/rows": 0 });
    expect(weights("dead").equals(weights("sft"))).toBe(true);
  });

  it("draws further prompts until enough groups vary", async () => {
    let seen = 0;
    const rare: Reward = () => (seen++ % 97 === 0 ? 1 : 0);
    await train(
      { ...configs().train, steps: 1, dynamicSampling: { minLiveGroups: 2, maxRounds: 5 } },
      { output: join(root, "dynamic"), rewards: [rare] },
    );
    expect(seen).toBeGreaterThan(24);
  });

  it("runs every preset, and a ratio level with another advantage level", async () => {
    for (const objective of [
      "rank-grpo-reference",
      "grpo",
      "gspo",
      "dapo",
      "dr-grpo",
      "cispo",
      { name: "rank-grpo", ratio: "token", advantage: "prompt" },
      { name: "rank-grpo", entropyCoef: 0.01 },
    ]) {
      const output = join(root, `objective-${JSON.stringify(objective).replace(/\W/g, "")}`);
      const summary = await train(
        { ...configs().train, steps: 1, updatesPerRollout: 2, objective },
        { output, rewards: [evenYears] },
      );
      expect(summary.steps).toBe(1);
      expect(Number.isFinite(lines(join(output, "metrics.jsonl"))[0]!["policy/loss"])).toBe(true);
    }
  });

  it("lets the rewards of every list listen to the signal without a warning", async () => {
    const warnings: string[] = [];
    const listen = ({ name }: Error): void => void warnings.push(name);
    process.on("warning", listen);
    const slow: Reward = async (_, __, signal) => sleep(1, 1, { signal });
    await train({ ...configs().train, steps: 1 }, { output: join(root, "listening"), rewards: [slow] });
    process.off("warning", listen);
    expect(warnings).not.toContain("MaxListenersExceededWarning");
  });

  it("refuses wrong rewards by name, sample and value, and keeps nothing half-done", async () => {
    const rewards: [Reward, RegExp][] = [
      [() => Number.NaN, /reward .* of sample world-\d+.*NaN/],
      [() => [1, 2], /10, one for each rank.*2 numbers/],
      [() => Promise.reject(new Error("service is down")), /service is down/],
      [() => Promise.reject(), /rewards of sample world-\d+ .*without a reason/],
    ];
    for (const [i, [reward, message]] of rewards.entries()) {
      const output = join(root, `bad-reward-${i}`);
      await expect(train(configs().train, { output, rewards: [reward] })).rejects.toThrow(message);
      expect(existsSync(join(output, "final"))).toBe(false);
    }
  });

  it("keeps the steps before one whose reward fails", async () => {
    const output = join(root, "failed-reward");
    let asked = 0;
    const failing: Reward = (...list) => {
      if (asked++ > 2 * 6 * 4) throw new Error("service is down"); // in the third step
      return evenYears(...list);
    };
    await expect(train(configs().train, { output, rewards: [failing] })).rejects.toThrow("service is down");
    expect(readdirSync(join(output, "checkpoints"))).toEqual(["step-000002"]);
    await train(configs().train, { output, rewards: [evenYears], resume: true });
    expect(weights("failed-reward").equals(weights("on-policy"))).toBe(true);
    expect(timeless(lines(join(output, "metrics.jsonl")))).toEqual(
      timeless(lines(join(root, "on-policy/metrics.jsonl"))),
    );
  });

  it("refuses a caller's rewards and objective that are none before it starts, and an objective's output that cannot be used", async () => {
    const output = join(root, "none");
    const run = (options: object): Promise<unknown> => train(configs().train, { output, ...options });
    await expect(run({ rewards: [] })).rejects.toThrow(/at least one reward/);
    await expect(run({ rewards: [{ name: "a", weight: 1 }] })).rejects.toThrow(/function.* for rewards\[0\]/);
    await expect(run({ rewards: [null] })).rejects.toThrow(/rewards\[0\], got null/);
    await expect(run({ objective: { name: "own", source: "a test" } })).rejects.toThrow(/objective.evaluate/);
    expect(existsSync(output)).toBe(false);
    const evaluate = ({ logprobs }: ObjectiveInput): ObjectiveOutput => ({
      loss: Number.NaN,
      dlogp: new Float32Array(logprobs.length),
    });
    await expect(run({ objective: { name: "own", source: "a test", evaluate } })).rejects.toThrow(
      /finite loss for own/,
    );
  });

  it("is failed, and lets go of everything, where the caller's onStep throws", async () => {
    const output = join(root, "thrown");
    const ended: string[] = [];
    const logger: Logger = () => {};
    logger.close = (how) => void ended.push(how);
    const onStep = async (): Promise<void> => {
      throw new Error("the caller's");
    };
    await expect(train(configs().train, { output, onStep, loggers: [logger] })).rejects.toThrow("the caller's");
    expect(ended).toEqual(["failed"]);
    expect(JSON.parse(readFileSync(join(output, "status.json"), "utf8"))).toMatchObject({ state: "failed", step: 1 });
  });

  it("one of two runs that begin in one folder is refused", async () => {
    const output = join(root, "twice");
    const both = await Promise.allSettled([1, 2].map(() => train({ ...configs().train, steps: 1 }, { output })));
    expect(both.map(({ status }) => status).sort()).toEqual(["fulfilled", "rejected"]);
    const refused = both.find((run) => run.status === "rejected") as PromiseRejectedResult;
    expect(refused.reason).toMatchObject({ code: "IO", message: expect.stringContaining("Another run began") });
    expect(lines(join(output, "metrics.jsonl"))).toHaveLength(1);
    expect(JSON.parse(readFileSync(join(output, "status.json"), "utf8"))).toMatchObject({ state: "finished" });
  });

  it("does not overwrite, and a resume is the same run", async () => {
    await expect(sft(configs().sft, { output: join(root, "sft") })).rejects.toMatchObject({ code: "IO" });
    await expect(sft({ ...configs().sft, batchSize: 8 }, { output: join(root, "sft"), resume: true })).rejects.toThrow(
      /batchSize: 16/,
    );
  });

  it("is not resumed while another process is at it, and forgets what a killed one left half-done", async () => {
    const output = join(root, "at-it");
    cpSync(join(root, "sft"), output, { recursive: true });
    const half = ["checkpoints/step-000099", "best"].map((name) => join(output, `${name}.tmp-0123abcd`));
    for (const path of half) mkdirSync(path);
    const status = join(output, "status.json");
    const says = (pid: number): void =>
      writeFileSync(status, JSON.stringify({ state: "running", process: { host: hostname(), pid } }));
    says(process.ppid);
    await expect(sft(configs().sft, { output, resume: true })).rejects.toMatchObject({
      code: "IO",
      message: expect.stringContaining(`process ${process.ppid}`),
    });
    expect(half.map((path) => existsSync(path))).toEqual([true, true]);
    says(2 ** 22 + 1); // above any process's
    await sft(configs().sft, { output, resume: true });
    expect(half.map((path) => existsSync(path))).toEqual([false, false]);
  });

  it("goes on from the newest checkpoint, whatever its digits", async () => {
    const output = join(root, "digits");
    for (const step of [999_999, 1_000_000]) {
      const checkpoint = join(output, "checkpoints", `step-${step}`);
      mkdirSync(checkpoint, { recursive: true });
      writeFileSync(join(checkpoint, "state.json"), JSON.stringify({ ...freshState(), step }));
    }
    expect((await Run.open(output, "sft", {}, true)).resumed).toMatchObject({ state: { step: 1_000_000 } });
  });

  it("a checkpoint whose state was changed is named", async () => {
    const output = join(root, "changed");
    cpSync(join(root, "sft"), output, { recursive: true });
    const checkpoint = join(output, "checkpoints", readdirSync(join(output, "checkpoints")).sort().at(-1)!);
    for (const text of ["{", "{}", undefined]) {
      if (text === undefined) rmSync(join(checkpoint, "state.json"));
      else writeFileSync(join(checkpoint, "state.json"), text);
      await expect(sft(configs().sft, { output, resume: true })).rejects.toMatchObject({
        code: "BAD_CHECKPOINT",
        message: expect.stringContaining(`Remove ${checkpoint}`),
      });
    }
  });

  it("refuses what does not fit before it starts", async () => {
    const config = configs().train;
    const refused = (change: Partial<TrainConfig>): Promise<unknown> =>
      train({ ...config, ...change }, { output: join(root, "refused") });
    const untrue = join(root, "untrue.jsonl");
    const [first, ...rows] = readFileSync(config.train, "utf8").trim().split("\n");
    writeFileSync(untrue, [first!.replace("groundtruth_with_release_year", "groundtruth"), ...rows].join("\n"));
    for (const change of [{}, { rewards: [{ name: "catalog" }], repair: [{ name: "anchor" }] }])
      await expect(refused({ ...change, train: untrue, model: join(root, "nowhere") })).rejects.toThrow(
        /groundtruth_with_release_year of sample/,
      );
    writeFileSync(untrue, [first!, ...rows].map((row) => row.replace(/,(\d{4})\]/g, ',"$1-01-01"]')).join("\n"));
    await expect(refused({ train: untrue })).rejects.toThrow(
      /at least one row with a ground truth for \S+untrue.jsonl/,
    );
    await expect(refused({ catalog: undefined })).rejects.toThrow(/catalog/);
    const held = join(root, "held.jsonl"); // its first row asks for nothing, as one does whose titles were all seen
    writeFileSync(
      held,
      [first!.replace(/"groundtruth_with_release_year":\[.*?\]\]/, '"groundtruth_with_release_year":[]'), ...rows].join(
        "\n",
      ),
    );
    const validation = { data: held, metric: "ndcg@7", every: 1 };
    await expect(refused({ validation })).rejects.toThrow(/validation.metric to be one of .*ndcg@5.*got ndcg@7/);
    const known = { ...validation, metric: "ndcg@5" };
    await expect(refused({ validation: known, model: join(root, "nowhere") })).rejects.toThrow(/nowhere/);
    await expect(refused({ optimizer: { learningRate: 1e-3, beta2: 1 } })).rejects.toThrow(/optimizer.beta2/);
    await expect(refused({ promptsPerStep: 41 })).rejects.toThrow(/at most 40/);
    await expect(refused({ maxNewTokens: 96 })).rejects.toThrow(/context/);
    await expect(refused({ objective: "rank-gpro" })).rejects.toThrow(/rank-grpo/);
    await expect(refused({ rewards: [{ name: "exp_in" as "exp_inf" }] })).rejects.toThrow(/exp_inf/);
    await expect(refused({ model: join(root, "nowhere") })).rejects.toMatchObject({
      code: expect.stringMatching(/IO|BAD_CHECKPOINT/),
    });
  });
});

describe("configuration", () => {
  it("names line, column and the nearest key", async () => {
    const file = join(root, "config.yaml");
    writeFileSync(file, "model: m\ntrain: t\noptimizer:\n  learningrate: 1e-6\n");
    await expect(readConfig(trainSchema, file)).rejects.toThrow(
      /config\.yaml:4:3: unknown key optimizer\.learningrate\. Did you mean learningRate\?/,
    );
    writeFileSync(file, "model: m\ntrain: t\noptimizer: { learningRate: 1e-6 }\ngroupSize: none\n");
    await expect(readConfig(trainSchema, file)).rejects.toThrow(/config\.yaml:4:1: groupSize/);
    writeFileSync(file, "model: [m\n");
    await expect(readConfig(trainSchema, file)).rejects.toMatchObject({ code: "BAD_CONFIG" });
    await expect(readConfig(trainSchema, join(root, "no.yaml"))).rejects.toMatchObject({ code: "IO" });
  });
  it("takes settings over the file's", async () => {
    const file = join(root, "settings.yaml");
    writeFileSync(file, "model: m\ntrain: t\noptimizer: { learningRate: 1e-6 }\n");
    const config = await readConfig(trainSchema, file, [
      "optimizer.learningRate=1e-3",
      "rewards.0.name=log_decay",
      "sampling.topK=5",
    ]);
    expect(config).toMatchObject({
      optimizer: { learningRate: 1e-3 },
      rewards: [{ name: "log_decay" }],
      sampling: { topK: 5 },
    });
  });
  it("refuses a setting that no place is for", async () => {
    const file = join(root, "places.yaml");
    const head = "model: m\ntrain: t\noptimizer: { learningRate: 1e-6 }\n";
    const refused = (setting: string): Promise<unknown> =>
      expect(readConfig(trainSchema, file, [setting])).rejects.toMatchObject({
        code: "BAD_CONFIG",
        message: expect.stringMatching(/^Expected a place of the list rewards, from 0 to \d, for --set, got/),
      });
    writeFileSync(file, head);
    await refused("rewards.1.name=catalog"); // the default is no list of the file
    writeFileSync(file, `${head}rewards: [{ name: exp_inf }]\n`);
    await refused("rewards.2.name=catalog");
    await refused("rewards.2={ name: catalog }");
    await refused("rewards.name=catalog");
    expect((await readConfig(trainSchema, file, ["rewards.1.name=catalog"])).rewards.map(({ name }) => name)).toEqual([
      "exp_inf",
      "catalog",
    ]);
    for (const text of ["- 1\n", "text\n"]) {
      writeFileSync(file, text);
      await expect(readConfig(trainSchema, file, ["steps=1"])).rejects.toThrow(
        /places\.yaml:1:1: the configuration: Expected object/,
      );
    }
  });
  it("keeps a name under a setting of its fields", async () => {
    const file = join(root, "named.yaml");
    const head = "model: m\ntrain: t\noptimizer: { learningRate: 1e-6 }\n";
    writeFileSync(file, `${head}objective: grpo\n`);
    const read = async (...settings: string[]): Promise<unknown> =>
      (await readConfig(trainSchema, file, settings)).objective;
    expect(await read("objective.beta=0", "objective.params.clipLow=0.1")).toEqual({
      name: "grpo",
      beta: 0,
      params: { clipLow: 0.1 },
    });
    expect(await read("objective.name=gspo", "objective.beta=1")).toEqual({ name: "gspo", beta: 1 });
    expect(await read("objective=gspo")).toBe("gspo");
    writeFileSync(file, head);
    expect(await read("objective.beta=0")).toEqual({ name: "rank-grpo", beta: 0 });
    await expect(readConfig(trainSchema, file, ["model.shape.layers=1"])).rejects.toThrow(/--set: .*layers/);
  });
  it("fills defaults", () => {
    expect(parseConfig(sftSchema, { model: "m", train: "t", optimizer: { learningRate: 1 } })).toMatchObject({
      batchSize: 32,
      schedule: { type: "constant", warmup: 0 },
    });
  });
});

describe("schedules", () => {
  it("warm up, then fall as they say", () => {
    const cosine = { type: "cosine", warmup: 10, floor: 0.1 } as const;
    expect(scheduleFactor(cosine, 0, 110)).toBeCloseTo(1 / 11);
    expect(scheduleFactor(cosine, 10, 110)).toBe(1);
    expect(scheduleFactor(cosine, 60, 110)).toBeCloseTo(0.55);
    expect(scheduleFactor(cosine, 110, 110)).toBeCloseTo(0.1);
    expect(scheduleFactor({ type: "linear", warmup: 0.1, floor: 0 }, 55, 100)).toBeCloseTo(0.5);
    const step = { type: "step" as const, warmup: 0, at: [5, 9], factor: 0.1 };
    expect([4, 5, 9].map((u) => scheduleFactor(step, u, 10))).toEqual([1, 0.1, expect.closeTo(0.01)]);
  });
});

describe("a policy", () => {
  const prompt = Int32Array.of(1, 2, 3);
  const open = (): Promise<Policy> => Policy.load(join(root, "sft/final"));

  it("refuses ids, stop ids and keys that are no int32, instead of making others of them", async () => {
    const policy = await open();
    const refused = (call: Promise<unknown>, message: RegExp): Promise<unknown> =>
      expect(call).rejects.toThrow(
        expect.objectContaining({ code: "INVALID_ARGUMENT", message: expect.stringMatching(message) }),
      );
    const text = "a prompt" as unknown as Int32Array;
    await refused(policy.generate([prompt, text]), /Int32Array of token ids for prompt 1, got "a prompt"/);
    await refused(policy.score([{ prompt, completions: [text] }]), /completion 0/);
    await refused(
      policy.score([{ prompt: Float32Array.of(1.5) as unknown as Int32Array, completions: [prompt] }]),
      /prompt 0/,
    );
    for (const id of [1.5, Number.NaN, 2 ** 32 + 5, "5" as unknown as number])
      await refused(policy.generate([prompt], { stopIds: [id] }), /stopIds/);
    await refused(policy.generate([prompt], { promptKeys: [2 ** 40] }), /promptKeys, got 1099511627776/);
    await refused(
      policy.generate([prompt], { promptKeys: [] }),
      /1 numbers, one for each prompt, for promptKeys, got 0/,
    );
    policy.dispose();
  });

  it("says ABORTED for a signal that fired before the call, as for one that fires meanwhile", async () => {
    const policy = await open();
    const why = new Error("why");
    await expect(policy.generate([prompt], { signal: AbortSignal.abort(why) })).rejects.toMatchObject({
      code: "ABORTED",
      cause: why,
    });
    policy.dispose();
  });

  it("says DISPOSED for whatever comes after, stop strings included", async () => {
    const policy = await open();
    policy.dispose();
    await expect(policy.generate([prompt], { stopStrings: ["a"] })).rejects.toMatchObject({ code: "DISPOSED" });
  });

  it("has entropies where they are asked for, of no groups too", async () => {
    const policy = await open();
    expect(await policy.score([], { entropies: true })).toEqual({
      logprobs: new Float32Array(0),
      entropies: new Float32Array(0),
    });
    expect(await policy.score([])).not.toHaveProperty("entropies");
    policy.dispose();
  });
});
