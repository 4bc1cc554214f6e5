// The command from end to end: every subcommand as a process of its own, on a tiny world's model and on models without a tokenizer.
import { type ChildProcess, execFileSync, spawn } from "node:child_process";
import {
  appendFileSync,
  copyFileSync,
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { stringify } from "yaml";

import { worldConfigs, writeWorld } from "../src/quickstart.ts";
import type { SftConfig, TrainConfig } from "../src/training/config.ts";
import { World } from "../src/world.ts";
import { hasShared, readShared, shared } from "./shared.ts";

type Row = Record<string, unknown>;
interface Completion {
  text: string;
  ids: number[];
  logprobs: number[];
  finish_reason: string;
}
interface Scored {
  completion_ids: number[];
  logprobs: number[];
  entropies: number[];
}
interface Outcome {
  status: number;
  stdout: string;
  stderr: string;
}

const root = mkdtempSync(join(tmpdir(), "rank-grpo-command-"));
const at = (...parts: string[]): string => join(root, ...parts);
const data = at("data");
const model = at("sft/final");
const packageRoot = fileURLToPath(new URL("..", import.meta.url));
const addon =
  process.env["RANK_GRPO_ADDON"] ??
  ["build-cmake/Release", "build/Release"]
    .map((folder) => join(packageRoot, folder, "rank_grpo.node"))
    .find((path) => existsSync(path));

/** Starts the command in the test's folder; `ready` gets what it has written to stderr so far. */
function start(args: readonly string[]): { child: ChildProcess; ended: Promise<Outcome> } {
  const child = spawn(process.execPath, [at("package/dist/cli/main.js"), ...args], {
    cwd: root,
    env: { ...process.env, ...(addon ? { RANK_GRPO_ADDON: resolve(addon) } : {}), NO_COLOR: "1" },
  });
  const out = { stdout: "", stderr: "" };
  for (const name of ["stdout", "stderr"] as const)
    child[name]!.setEncoding("utf8").on("data", (text: string) => {
      out[name] += text;
    });
  const ended = new Promise<Outcome>((done, fail) => {
    child.on("error", fail);
    child.on("close", (code, signal) =>
      signal ? fail(new Error(`killed by ${signal}`)) : done({ status: code!, ...out }),
    );
  });
  return { child, ended };
}
const run = (...args: string[]): Promise<Outcome> => start(args).ended;

async function succeeds(...args: string[]): Promise<Outcome> {
  const outcome = await run(...args);
  expect(outcome.stderr).not.toMatch(/rank-grpo: /);
  expect(outcome.status).toBe(0);
  return outcome;
}

/** Exit code 1, the message on stderr, no stack. */
async function fails(message: RegExp, ...args: string[]): Promise<void> {
  const { status, stderr } = await run(...args);
  expect(stderr).toMatch(message);
  expect(stderr).toMatch(/^rank-grpo: /);
  expect(stderr).not.toMatch(/^\s+at /m);
  expect(status).toBe(1);
}

const lines = <T = Row>(path: string): T[] =>
  readFileSync(path, "utf8")
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line) as T);
function jsonl(name: string, rows: readonly object[]): string {
  writeFileSync(at(name), rows.map((row) => `${JSON.stringify(row)}\n`).join(""));
  return at(name);
}
function yaml(name: string, config: object): string {
  writeFileSync(at(name), stringify(config));
  return at(name);
}
async function until(holds: () => boolean): Promise<void> {
  while (!holds()) await new Promise((done) => setTimeout(done, 20));
}

const configs = (): { sft: SftConfig; train: TrainConfig } => {
  const base = worldConfigs(data, 5);
  const shape = {
    hidden_size: 32,
    intermediate_size: 64,
    num_hidden_layers: 2,
    num_attention_heads: 2,
    max_position_embeddings: 96,
  };
  return {
    sft: {
      ...base.sft,
      model: { shape, tokenizer: join(data, "tokenizer") },
      steps: 40,
      batchSize: 16,
      validation: undefined,
    },
    train: {
      ...base.train,
      model,
      steps: 3,
      promptsPerStep: 4,
      groupSize: 4,
      maxNewTokens: 48,
      validation: { data: join(data, "validation.jsonl"), limit: 8, every: 2, maxNewTokens: 48 },
    },
  };
};

beforeAll(async () => {
  mkdirSync(at("package"));
  copyFileSync(join(packageRoot, "package.json"), at("package/package.json"));
  symlinkSync(join(packageRoot, "node_modules"), at("package/node_modules"));
  const tsc = join(packageRoot, "node_modules/typescript/bin/tsc");
  execFileSync(process.execPath, [
    tsc,
    "-p",
    join(packageRoot, "tsconfig.json"),
    "--noCheck",
    "--outDir",
    at("package/dist"),
  ]);
  await writeWorld(new World({ seed: 5 }), data, 64);
  const { stdout } = await succeeds("sft", "--config", yaml("sft.yaml", configs().sft), "--output", "sft");
  expect(stdout).toContain("Model: sft/final");
});
afterAll(() => rmSync(root, { recursive: true, force: true }));

describe("help", () => {
  it("shows what every command takes", async () => {
    const flags: Record<string, string> = {
      quickstart: "--output --seed",
      sft: "--config --set --output --resume",
      train: "--config --set --output --resume",
      evaluate: "--model --completions --data --catalog --limit --output",
      generate:
        "--model --input --output --num-generations --max-new-tokens --greedy --temperature --top-p --top-k --seed --ignore-eos",
      score: "--model --input --output --temperature",
      recommend: "--model --input --catalog --output --top",
      objectives: "--json",
      devices: "",
    };
    const top = await succeeds("--help");
    for (const [name, options] of Object.entries(flags)) {
      expect(top.stdout).toMatch(new RegExp(`^  ${name} `, "m"));
      const { stdout } = await succeeds(name, "--help");
      for (const option of options.split(" ")) expect(stdout).toContain(option);
    }
  });
  it("answers a wrong call in one line", async () => {
    await Promise.all([
      fails(/unknown command 'genrate' \(Did you mean generate\?\)/, "genrate"),
      fails(/unknown option '--jsn'.*--json/, "objectives", "--jsn"),
      fails(/required option '--model <path>'/, "generate", "--input", "a", "--output", "b"),
    ]);
    const call = ["generate", "--model", model, "--input", join(data, "test.jsonl"), "--output", "never.jsonl"];
    await Promise.all([
      fails(/--temperature.*above 0/, ...call, "--temperature", "0"),
      fails(/--num-generations.*from 1/, ...call, "--num-generations", "0"),
      fails(/--top-p.*up to 1/, ...call, "--top-p", "1.5"),
      fails(/--compute.*f32, bf16/, ...call, "--compute", "f16"),
    ]);
    expect(existsSync(at("never.jsonl"))).toBe(false);
  });
});

describe("sft and train", () => {
  it("leave a whole run folder, and say where", async () => {
    const { stdout } = await succeeds(
      ...["train", "--config", yaml("train.yaml", configs().train), "--output", "train"],
      ...["--set", "steps=4", "--set", "optimizer.learningRate=1e-3"],
    );
    expect(stdout).toMatch(/Best ndcg@10: \d/);
    expect(readdirSync(at("train")).sort()).toEqual(
      ["best", "checkpoints", "config.yaml", "final", "metrics.jsonl", "samples.jsonl", "status.json"].sort(),
    );
    const metrics = lines(at("train/metrics.jsonl"));
    expect(metrics.map((row) => row["step"])).toEqual([0, 1, 2, 3, 4]);
    expect(metrics[1]).toMatchObject({ "policy/mismatch_max": 0, "optimizer/learning_rate": expect.any(Number) });
    expect(metrics.filter((row) => "validation/ndcg@10" in row).map((row) => row["step"])).toEqual([0, 2, 4]);
    expect(readFileSync(at("train/config.yaml"), "utf8")).toContain("learningRate: 0.001");
  });

  it("Ctrl-C finishes the step and saves; --resume goes on to the end", async () => {
    const config = yaml("long.yaml", {
      ...configs().train,
      promptsPerStep: 16,
      groupSize: 8,
      steps: 30,
      validation: undefined,
    });
    const call = ["train", "--config", config, "--output", "long"];
    const { child, ended } = start(call);
    await until(() => existsSync(at("long/metrics.jsonl")) && readFileSync(at("long/metrics.jsonl"), "utf8") !== "");
    child.kill("SIGINT");
    const { status, stdout, stderr } = await ended;
    expect(status).toBe(0);
    expect(stderr).toContain("Finishing this step and saving");
    const done = Number(/Interrupted after step (\d+)\..*--resume/.exec(stdout)![1]);
    expect(done).toBeLessThan(30);
    expect(readdirSync(at("long/checkpoints"))).toEqual([`step-${String(done).padStart(6, "0")}`]);
    expect(JSON.parse(readFileSync(at("long/status.json"), "utf8"))).toMatchObject({
      state: "interrupted",
      step: done,
    });
    expect(existsSync(at("long/final"))).toBe(false);

    await succeeds(...call, "--resume");
    expect(lines(at("long/metrics.jsonl")).map((row) => row["step"])).toEqual(
      Array.from({ length: 30 }, (_, i) => i + 1),
    );
    expect(existsSync(at("long/final/model.safetensors"))).toBe(true);
  });

  it("a second Ctrl-C stops at once, with 130", async () => {
    // a reward that does not come back: the step is at work, however fast the machine, when the signals arrive
    writeFileSync(
      at("endless.mjs"),
      `import { writeFileSync } from "node:fs";
export const rewards = {
  endless: () => {
    writeFileSync("rewarding", "");
    return new Promise((done) => setTimeout(done, 1e9, [0]));
  },
};
`,
    );
    const config = yaml("endless.yaml", {
      ...configs().train,
      modules: [at("endless.mjs")],
      rewards: [{ name: "endless" }],
      validation: undefined,
    });
    const { child, ended } = start(["train", "--config", config, "--output", "endless"]);
    let told = "";
    child.stderr!.on("data", (text: string) => {
      told += text;
    });
    await until(() => existsSync(at("rewarding")));
    child.kill("SIGINT");
    await until(() => told.includes("again to stop at once"));
    child.kill("SIGINT");
    expect((await ended).status).toBe(130);
  });

  it("goes on where nobody reads the progress any more", async () => {
    const config = yaml("unread.yaml", { ...configs().train, steps: 6, validation: undefined });
    const { child, ended } = start(["train", "--config", config, "--output", "unread"]);
    child.stderr!.once("data", () => child.stderr!.destroy());
    expect((await ended).status).toBe(0);
    expect(existsSync(at("unread/final/model.safetensors"))).toBe(true);
  });

  it("says so where a reward never settles", async () => {
    writeFileSync(at("own.mjs"), "export const rewards = { never: () => new Promise(() => {}) };\n");
    const config = {
      ...configs().train,
      modules: [at("own.mjs")],
      rewards: [{ name: "never" }],
      validation: undefined,
    };
    const { status, stderr } = await run("train", "--config", yaml("never.yaml", config), "--output", "never");
    expect(stderr).toMatch(/^rank-grpo: Expected the command to end, got a promise that nothing is left to settle/m);
    expect(status).toBe(1);
  });

  it("refuses what cannot work before it starts", async () => {
    const { sft } = configs();
    const huge = { hidden_size: 65536, intermediate_size: 262144, num_hidden_layers: 8, num_attention_heads: 512 };
    writeFileSync(
      at("bad.jsonl"),
      '{"prompt": "Liked:", "completion": "a"}\n{"prompt": "Liked:", \n{"completion": 3}\n',
    );
    const call = ["sft", "--config", at("sft.yaml"), "--output", "refused"];
    await Promise.all([
      fails(
        /BAD_CONFIG: .*\n--set: unknown key optimizer\.learningrate\. Did you mean learningRate\?/,
        ...call,
        "--set",
        "optimizer.learningrate=1",
      ),
      fails(/sft\.yaml:\d+:\d+: .*batchSize|--set: batchSize: .*>=1/, ...call, "--set", "batchSize=0"),
      fails(
        /bad\.jsonl, 2 bad lines:\n {2}line 2: Expected JSON.*\n {2}line 3: Expected prompt/,
        ...call,
        "--set",
        `train=${at("bad.jsonl")}`,
      ),
    ]);
    await Promise.all([
      fails(/IO: .*nowhere/, ...call, "--set", "model=nowhere"),
      fails(/IO: .*sft, which exists\. .*--resume/, "sft", "--config", at("sft.yaml"), "--output", "sft"),
      fails(/IO: .*sft\.yaml, which is a file/, "sft", "--config", at("sft.yaml"), "--output", "sft.yaml/run"),
      fails(
        /OUT_OF_MEMORY: Expected \d+ MiB of free memory.*got \d+ MiB/,
        ...["sft", "--output", "refused", "--config"],
        yaml("huge.yaml", { ...sft, model: { ...(sft.model as object), shape: huge } }),
      ),
    ]);
    expect(existsSync(at("refused"))).toBe(false);
  });
});

describe("generate and score", () => {
  const prompts = (): string => jsonl("prompts.jsonl", lines(join(data, "test.jsonl")).slice(0, 6));
  const generate = async (output: string, ...args: string[]): Promise<Completion[][]> => {
    await succeeds(
      "generate",
      "--model",
      model,
      "--input",
      prompts(),
      "--output",
      output,
      "--max-new-tokens",
      "40",
      ...args,
    );
    return lines<Row & { completions: Completion[] }>(at(output)).map((row) => row.completions);
  };

  it("same seed, same completions, whatever the batch; another seed, others", async () => {
    const seven = await generate(
      "seven.jsonl",
      "--num-generations",
      "3",
      "--seed",
      "7",
      "--top-k",
      "20",
      "--top-p",
      "0.95",
    );
    const again = ["--num-generations", "3", "--seed", "7", "--top-k", "20", "--top-p", "0.95", "--max-rows", "2"];
    expect(await generate("again.jsonl", ...again)).toEqual(seven);
    const eight = await generate("eight.jsonl", "--num-generations", "3", "--seed", "8");
    expect(eight).not.toEqual(seven);
    expect(seven.map((group) => group.length)).toEqual([3, 3, 3, 3, 3, 3]);
    expect(lines(at("seven.jsonl"))[0]).toMatchObject(lines(at("prompts.jsonl"))[0]!);
    for (const { ids, logprobs, finish_reason } of seven.flat()) {
      expect(logprobs).toHaveLength(ids.length);
      expect(finish_reason).toMatch(/^(stop|length)$/);
      expect(ids.length).toBeLessThanOrEqual(40);
    }
    await fails(
      /IO: .*seven\.jsonl, which exists/,
      "generate",
      "--model",
      model,
      "--input",
      prompts(),
      "--output",
      "seven.jsonl",
    );
  });

  it("interrupted, the same command goes on, to the same file", async () => {
    const rows = Array.from({ length: 100 }, () => lines(prompts())).flat();
    const call = ["generate", "--model", model, "--input", jsonl("many.jsonl", rows), "--max-new-tokens", "40"];
    const kept = (output: string): string[] =>
      readdirSync(root).filter((name) => name.startsWith(output) && name.endsWith(".part"));
    await succeeds(...call, "--output", "whole.jsonl");
    const cut = [...call, "--max-rows", "1", "--output", "cut.jsonl"];
    const { child, ended } = start(cut);
    await until(() => kept("cut.jsonl").some((name) => readFileSync(at(name)).includes(10)));
    child.kill("SIGINT");
    const { status, stderr } = await ended;
    expect(status).toBe(130);
    expect(stderr).toMatch(/^\d+ of 600 lines are kept in cut\.jsonl\.\w+\.part: the same command goes on/m);
    expect(existsSync(at("cut.jsonl"))).toBe(false);
    const [part] = kept("cut.jsonl");
    const done = readFileSync(at(part!), "utf8");
    const lineCount = done.split("\n").length - 1;
    expect(lineCount).toBeLessThan(600);
    appendFileSync(at(part!), '{"half'); // as a killed process may leave it
    // with another seed it is another call, which has nothing to do with what was kept
    const other = await succeeds(...cut, "--seed", "1");
    expect(other.stderr).not.toContain("goes on");
    rmSync(at("cut.jsonl"));
    const again = await succeeds(...cut);
    expect(again.stderr).toContain(`goes on after ${lineCount} of 600 lines of an earlier call`);
    expect(again.stdout).toBe("600 lines: cut.jsonl\n");
    expect(readFileSync(at("cut.jsonl"), "utf8")).toBe(readFileSync(at("whole.jsonl"), "utf8"));
    expect(kept("")).toEqual([]);
  });

  it("score gives what generate sampled with, bit for bit, from text, messages and ids", async () => {
    // a template that writes the messages one after the other, with a variable
    cpSync(model, at("chat"), { recursive: true });
    const template = "{% for m in messages %}{{ m.content }}{% endfor %}{% if again %}Next:\n{% endif %}";
    writeFileSync(at("chat/chat_template.jinja"), template);
    const rows = lines<{ prompt: string }>(prompts());
    const first = (groups: Completion[][]): (Completion & { prompt: string })[] =>
      groups.map(([completion], i) => ({ ...completion!, prompt: rows[i]!.prompt }));
    const sampled = first(await generate("sampled.jsonl", "--seed", "3", "--temperature", "0.7"));
    // lists from the catalog are text that reads back as the same tokens
    const constrain = ["--constrain", "catalog", "--catalog", join(data, "catalog.tsv"), "--list-length", "4"];
    const written = first(await generate("written.jsonl", "--seed", "3", ...constrain));
    const inputs = {
      ids: [...sampled, ...written].map(({ prompt, ids }) => ({ prompt, completion_ids: ids })),
      text: written.map(({ prompt, text }) => ({ prompt, completion: text })),
      messages: written.map(({ prompt, text }) => ({
        prompt: [{ role: "user", content: prompt }],
        completion: [{ role: "assistant", content: text }],
      })),
    };
    const score = async (name: string, from: string, input: object[], ...args: string[]): Promise<Scored[]> => {
      const call = ["score", "--model", from, "--input", jsonl(`${name}.in.jsonl`, input), "--output", `${name}.jsonl`];
      await succeeds(...call, "--temperature", "0.7", ...args);
      return lines<Scored>(at(`${name}.jsonl`));
    };
    const logprobs = (scores: readonly Scored[]): number[][] => scores.map((row) => row.logprobs);
    const ids = await score("ids", model, inputs.ids);
    const text = await score("text", model, inputs.text);
    const messages = await score("messages", at("chat"), inputs.messages);
    expect(logprobs(ids.slice(0, sampled.length))).toEqual(sampled.map((completion) => completion.logprobs));
    expect(text.map((row) => row.completion_ids)).toEqual(written.map((completion) => completion.ids));
    expect(logprobs(text)).toEqual(logprobs(ids.slice(sampled.length)));
    expect(logprobs(messages)).toEqual(logprobs(text));
    for (const row of text) {
      expect(row.entropies).toHaveLength(row.logprobs.length);
      for (const entropy of row.entropies) expect(entropy).toBeGreaterThanOrEqual(0);
    }
    // a variable of the template changes the prompt as the text would
    const again = await score("again-chat", at("chat"), inputs.messages, "--chat", "again=true");
    const longer = inputs.text.map((row) => ({ ...row, prompt: `${row.prompt}Next:\n` }));
    expect(logprobs(again)).toEqual(logprobs(await score("longer", model, longer)));
    expect(logprobs(again)).not.toEqual(logprobs(messages));
  });

  it.skipIf(!hasShared).each(["llama-default", "qwen2", "qwen3"])(
    "agree with the goldens of %s, which has no tokenizer",
    async (name) => {
      interface Golden {
        rows: number[][];
        forward: { temperature: number; logprobs: number[][]; entropies: number[][] }[];
        greedy: { prompt: number[]; ids: number[] };
      }
      const golden = readShared<Golden>(`models/tiny/${name}/golden.json`);
      const tiny = shared(`models/tiny/${name}`);
      const input = jsonl(`${name}.jsonl`, [{ prompt_ids: golden.greedy.prompt }]);
      const greedy = ["--greedy", "--ignore-eos", "--max-new-tokens", "32"];
      await succeeds("generate", "--model", tiny, "--input", input, "--output", `${name}.out.jsonl`, ...greedy);
      const [row] = lines<{ completions: Completion[] }>(at(`${name}.out.jsonl`));
      expect(row!.completions[0]).toMatchObject({ ids: golden.greedy.ids, text: "", finish_reason: "length" });

      const { temperature, logprobs, entropies } = golden.forward[1]!;
      const pairs = golden.rows.map((ids) => ({ prompt_ids: ids.slice(0, 5), completion_ids: ids.slice(5) }));
      const call = [
        "score",
        "--model",
        tiny,
        "--input",
        jsonl(`${name}.pairs.jsonl`, pairs),
        "--output",
        `${name}.scores.jsonl`,
      ];
      await succeeds(...call, "--temperature", String(temperature));
      for (const [i, scored] of lines<{ logprobs: number[]; entropies: number[] }>(
        at(`${name}.scores.jsonl`),
      ).entries())
        for (const [t, logprob] of scored.logprobs.entries()) {
          expect(Math.abs(logprob - logprobs[i]![t + 4]!)).toBeLessThan(2e-5);
          expect(Math.abs(scored.entropies[t]! - entropies[i]![t + 4]!)).toBeLessThan(2e-5);
        }
    },
  );

  it("refuses broken files and checkpoints in a line", async () => {
    cpSync(model, at("torn"), { recursive: true });
    const weights = readFileSync(join(model, "model.safetensors"));
    writeFileSync(at("torn/model.safetensors"), weights.subarray(0, weights.length - 100));
    const call = (from: string, input: string, output = "no.jsonl"): string[] => [
      "generate",
      "--model",
      from,
      "--input",
      input,
      "--output",
      output,
    ];
    mkdirSync(at("empty"));
    const long = jsonl("far.jsonl", [{ prompt_ids: Array.from({ length: 200 }, () => 3) }]);
    await Promise.all([
      fails(/BAD_CHECKPOINT: .*torn\/model\.safetensors/, ...call(at("torn"), prompts())),
      fails(/IO: .*nowhere/, ...call(at("nowhere"), prompts())),
      fails(/IO: .*none\.jsonl/, ...call(model, at("none.jsonl"))),
      fails(/no\/jsonl|sft\.yaml, which is a file/, ...call(model, prompts(), "sft.yaml/no.jsonl")),
      fails(/IO: Expected the name of a file for output, got empty, a folder/, ...call(model, prompts(), "empty")),
      fails(/IO: .*name of a file.*, got new\/, a folder/, ...call(model, prompts(), "new/")),
    ]);
    await Promise.all([
      fails(/BAD_DATA: .*sample 0/, ...call(model, long)),
      fails(
        /BAD_DATA: Expected a completion of fewer than \d+ tokens .* for sample 0, got \d+/,
        ...["score", "--model", model, "--output", "no.jsonl", "--input"],
        jsonl("longer.jsonl", [{ prompt: "Liked:\n", completion: "Amber Castle (2009)\n".repeat(400) }]),
      ),
      fails(/token|\d+/, ...call(model, jsonl("range.jsonl", [{ prompt_ids: [99999] }]))),
      fails(/BAD_DATA: .*bad\.jsonl, 2 bad lines:/, ...call(model, at("bad.jsonl"))),
      fails(/BAD_DATA: .*completion/, "score", "--model", model, "--input", prompts(), "--output", "no.jsonl"),
    ]);
    expect(existsSync(at("no.jsonl"))).toBe(false);
  });
});

describe("evaluate and recommend", () => {
  const test = (): Row[] => lines(join(data, "test.jsonl")).slice(0, 12);
  const pairs = (): [string, number][] =>
    readFileSync(join(data, "catalog.tsv"), "utf8")
      .trim()
      .split("\n")
      .map((line) => line.split("\t"))
      .map(([title, year]) => [title!, Number(year)]);

  it("measures completions by any catalogue, and the baselines beside them", async () => {
    const truths = test().map((row) => ({
      id: row["id"],
      completion: (row["groundtruth_with_release_year"] as [string, number][])
        .map(([title, year]) => `${title} (${year})`)
        .join("\n"),
    }));
    writeFileSync(at("catalog.json"), JSON.stringify(pairs()));
    writeFileSync(at("catalog.pkl"), pickle(pairs()));
    const call = [
      "evaluate",
      "--completions",
      jsonl("truths.jsonl", truths),
      "--data",
      join(data, "test.jsonl"),
      "--limit",
      "12",
    ];
    const results: Row[] = [];
    for (const catalog of [join(data, "catalog.tsv"), at("catalog.json"), at("catalog.pkl")]) {
      const output = `evaluation-${results.length}.json`;
      const train = results.length === 0 ? ["--train", join(data, "sft.jsonl")] : [];
      const { stdout } = await succeeds(...call, "--catalog", catalog, "--output", output, ...train);
      expect(stdout).toContain("filter-then-cut, standard ideal DCG");
      results.push(JSON.parse(readFileSync(at(output), "utf8")) as Row);
    }
    for (const result of results) {
      for (const k of [5, 10, 15, 20]) expect(result).toMatchObject({ [`recall@${k}`]: 1, [`ndcg@${k}`]: 1 });
      expect(result).toMatchObject({ rows: 12, "recall@20_stderr": 0, in_catalog: 1, list_length: 3, duplicates: 0 });
    }
    expect({ ...results[1], baselines: {} }).toEqual({ ...results[0], baselines: {} });
    expect({ ...results[2], baselines: {} }).toEqual({ ...results[0], baselines: {} });
    const baselines = results[0]!["baselines"] as Record<string, Row>;
    expect(Object.keys(baselines)).toEqual([
      "popularity",
      "neighbor voting",
      "co-occurrence",
      "voting + co-occurrence",
    ]);
    for (const row of Object.values(baselines)) expect(row["recall@20"]).toBeLessThan(1);
    await Promise.all([
      fails(
        /one of --model, --completions and --endpoint, got --model and --completions/,
        ...call,
        "--catalog",
        at("catalog.json"),
        "--model",
        model,
      ),
      fails(/BAD_DATA: .*completion for sample/, ...call.slice(0, -1), "20", "--catalog", at("catalog.json")),
      fails(
        /BAD_DATA: Expected one completion for id .*, got "several that differ"/,
        ...["evaluate", "--data", join(data, "test.jsonl"), "--limit", "12", "--catalog", at("catalog.json")],
        ...["--completions", jsonl("twice.jsonl", [...truths, { ...truths[3]!, completion: "" }])],
      ),
      fails(/catalogue .*sft\.yaml/, ...call, "--catalog", at("sft.yaml")),
    ]);
  });

  it("looks at every row before it opens a model", async () => {
    const [first, ...others] = test();
    const call = ["--model", "nowhere", "--catalog", join(data, "catalog.tsv")];
    const rows = jsonl("untrue.jsonl", [first!, { ...others[0], groundtruth_with_release_year: undefined }]);
    const never = jsonl("never.jsonl", [{ ...first, groundtruth_with_release_year: [] }]);
    await Promise.all([
      fails(/BAD_DATA: .*groundtruth_with_release_year of sample/, "evaluate", ...call, "--data", rows),
      fails(/BAD_DATA: .*at least one row with a ground truth/, "evaluate", ...call, "--data", never),
      fails(
        /BAD_DATA: .*groundtruth_with_release_year of sample/,
        ...["evaluate", ...call, "--data", join(data, "test.jsonl"), "--train", rows],
      ),
    ]);
    const constrained = ["--constrain", "catalog", "--exclude-column", "mising", "--list-length", "2"];
    await fails(
      /BAD_DATA: .*for excludeColumn, got "mising"/,
      ...["generate", "--model", model, "--catalog", join(data, "catalog.tsv")],
      ...["--input", jsonl("columns.jsonl", test()), "--output", "no.jsonl", ...constrained],
    );
  });

  it("a model's own lists measure the same as given completions; constrained ones stay in the catalog", async () => {
    const where = ["--data", join(data, "test.jsonl"), "--catalog", join(data, "catalog.tsv"), "--limit", "12"];
    await succeeds("evaluate", "--model", model, ...where, "--max-new-tokens", "40", "--output", "model.json");
    const own = JSON.parse(readFileSync(at("model.json"), "utf8")) as Row & { lists: object[] };
    await succeeds("evaluate", "--completions", jsonl("lists.jsonl", own.lists), ...where, "--output", "given.json");
    const given = JSON.parse(readFileSync(at("given.json"), "utf8")) as Row;
    const metrics = ({ source, ...rest }: Row): Row => rest;
    expect(metrics(given)).toEqual(metrics(own));
    const greedy = ["--input", join(data, "test.jsonl"), "--greedy", "--max-new-tokens", "40", "--model", model];
    await succeeds("generate", ...greedy, "--output", "greedy.jsonl");
    await succeeds("evaluate", "--completions", "greedy.jsonl", ...where, "--output", "generated.json");
    expect(metrics(JSON.parse(readFileSync(at("generated.json"), "utf8")) as Row)).toEqual(metrics(own));
    const constrained = ["--constrain", "catalog", "--list-length", "10", "--output", "constrained.json"];
    await succeeds("evaluate", "--model", model, ...where, ...constrained);
    expect(JSON.parse(readFileSync(at("constrained.json"), "utf8"))).toMatchObject({
      in_catalog: 1,
      duplicates: 0,
      list_length: 10,
    });

    await succeeds(
      "recommend",
      "--model",
      model,
      "--input",
      jsonl("asked.jsonl", test().slice(0, 2)),
      "--catalog",
      join(data, "catalog.tsv"),
      "--top",
      "5",
      "--output",
      "top.jsonl",
    );
    for (const row of lines<{ items: { logprob: number }[] }>(at("top.jsonl"))) {
      expect(row.items).toHaveLength(5);
      const logprobs = row.items.map(({ logprob }) => logprob);
      expect([...logprobs].sort((a, b) => b - a)).toEqual(logprobs);
    }
  });
});

describe("objectives, devices, quickstart", () => {
  it("list what there is", async () => {
    const { stdout } = await succeeds("objectives");
    expect(stdout).toMatch(/kl-cov: .*\n.*arXiv 2505\.22617.*\n {6}share = 0\.0002/);
    expect((await succeeds("train", "--help")).stdout).toMatch(
      /presets +rank-grpo, .*\n +rules +clip, .*\n +TypeScript +dpo/,
    );
    for (const name of ["rank-grpo", "rank-grpo-reference", "grpo", "gspo", "dapo", "dr-grpo", "cispo"])
      expect(stdout).toMatch(new RegExp(`^ {2}${name}$`, "m"));
    const json = JSON.parse((await succeeds("objectives", "--json")).stdout) as { presets: Row; rules: Row[] };
    expect(json.presets["rank-grpo"]).toMatchObject({ rule: "clip", ratio: "rank", params: { delta: "Infinity" } });
    expect(json.rules.length).toBeGreaterThanOrEqual(7);
    expect((await succeeds("devices")).stdout).toMatch(/^cpu +\d+ threads, (avx512bf16|avx512|avx2|plain)/);
  });

  it("a drawing and a recording that are there stay without --overwrite", async () => {
    writeFileSync(at("drawn.svg"), "mine");
    await fails(/IO: .*drawn.svg.*--overwrite/, "objective", "show", "clip", "--svg", "drawn.svg");
    await fails(/IO: .*drawn.svg.*--overwrite/, "bench", "kernels", "--json", "drawn.svg");
    expect(readFileSync(at("drawn.svg"), "utf8")).toBe("mine");
  });

  it("quickstart shows before, after and the best possible, and is whole", async () => {
    const { stdout } = await succeeds(
      "quickstart",
      "--output",
      "quick",
      "--seed",
      "2",
      "--sft-steps",
      "3",
      "--train-steps",
      "2",
    );
    for (const row of ["popularity", "SFT (before)", "Rank-GRPO (after)", "optimum"]) expect(stdout).toContain(row);
    const result = JSON.parse(readFileSync(at("quick/result.json"), "utf8")) as { seed: number; rows: Row[] };
    expect(result.seed).toBe(2);
    expect(result.rows.at(-1)).toMatchObject({ name: "optimum", share: 1 });
    expect(existsSync(at("quick/rank-grpo/final/model.safetensors"))).toBe(true);
    await fails(/IO: .*quick, which exists/, "quickstart", "--output", "quick");
  });
});

/** A list of (title, year) as Python's pickle protocol 2 writes it. */
function pickle(rows: readonly [string, number][]): Buffer {
  const parts = [Buffer.from([0x80, 2, 0x5d, 0x28])]; // PROTO 2, EMPTY_LIST, MARK
  for (const [title, year] of rows) {
    const text = Buffer.from(title);
    const head = Buffer.alloc(5);
    head.writeUInt8(0x58); // BINUNICODE
    head.writeUInt32LE(text.length, 1);
    parts.push(head, text, Buffer.from([0x4d, year & 0xff, year >> 8, 0x86])); // BININT2, TUPLE2
  }
  return Buffer.concat([...parts, Buffer.from([0x65, 0x2e])]); // APPENDS, STOP
}
