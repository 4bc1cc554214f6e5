// The same work by what a user would run instead (bench/peers/peers.py: torch, transformers, TRL and Liger on the CPU), checked against this
// engine's result before a time counts.
import { spawn, spawnSync } from "node:child_process";
import { existsSync, readFileSync } from "node:fs";
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { fileURLToPath } from "node:url";

import { RankGrpoError, refuse } from "../errors.ts";
import {
  type HeadInput,
  headLogprobs,
  headLogprobsBackward,
  logprobs,
  logprobsBackward,
  policyLoss,
  toBf16,
} from "../kernels.ts";
import { addon } from "../native.ts";
import { presets, type RowPlan, stepInputs } from "../objectives.ts";
import { Policy } from "../policy.ts";
import { encodePrompt } from "../text/encode.ts";
import { peakOf } from "./harness.ts";
import { numbers } from "./kernels.ts";
import { tokens } from "./models.ts";
import { updateOnce } from "./update.ts";

export interface PeerRow {
  name: string;
  shape: string;
  dtype: "f32" | "bf16";
  threads: number;
  /** Medians, ms. */
  oursMs: number;
  theirsMs: number;
  /** Theirs over ours: above 1 this engine is faster. */
  ratio: number;
  /** What of the peer: the fastest of its ways. */
  way: string;
  /** Largest difference between the two results; the suite ends where it is above the tolerance. */
  error: number;
  /** The peer's whole process at its peak, and this one's, MiB. */
  theirsMiB: number;
  oursMiB: number;
  /** Of a loss: memory of a call above its inputs, gradients included; largest error against float64, a gradient's in parts of its largest value. */
  loss?: { oursExtraMiB?: number; theirsExtraMiB: number; oursError: number; theirsError: number };
  versions: Record<string, string>;
}

interface Answer {
  way: string;
  seconds: number[];
  peakMiB: number;
  versions: Record<string, string>;
  logprobs?: number[];
  gradient?: number[];
  greedy?: number[];
  meanLength?: number;
  errors?: { ours: number; theirs: number };
  extraMiB?: number;
}

const sources = fileURLToPath(new URL("../../bench/peers", import.meta.url));
const environment = resolve("build-peers/bench");
const python = join(environment, "bin/python");

/** Makes the pinned environment where it is not there yet. @throws NO_DEVICE where Python or its packages cannot be had */
function install(print: (line: string) => void): void {
  const done = join(environment, "requirements.txt");
  const wanted = join(sources, "requirements.txt");
  if (existsSync(done) && readFileSync(done, "utf8") === readFileSync(wanted, "utf8")) return;
  print(`installing ${wanted} into ${environment} (several GB) ...`);
  const steps = [
    ["python3", "-m", "venv", environment],
    [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r", wanted],
    ["cp", wanted, done],
  ] as const;
  for (const [command, ...args] of steps) {
    const { status, stderr, error } = spawnSync(command, args, { encoding: "utf8" });
    if (status !== 0)
      refuse(
        "NO_DEVICE",
        "Python 3.11 with the packages of bench/peers",
        "--peers",
        error?.message ?? stderr.trim().split("\n").at(-1),
      );
  }
}

/** @throws WRONG_RESULT with the peer's last words */
function ask(request: object): Promise<Answer> {
  const child = spawn(python, [join(sources, "peers.py")], { stdio: ["pipe", "pipe", "pipe"] });
  const [out, complaint]: [Buffer[], Buffer[]] = [[], []];
  child.stdout.on("data", (part: Buffer) => out.push(part));
  child.stderr.on("data", (part: Buffer) => complaint.push(part));
  child.stdin.end(JSON.stringify({ threads: addon.deviceInfo().threads, ...request }));
  return new Promise((answer, reject) => {
    child.once("error", reject);
    child.once("exit", (code) => {
      if (code === 0) return answer(JSON.parse(Buffer.concat(out).toString()) as Answer);
      const words = Buffer.concat(complaint).toString().trim().split("\n").slice(-3).join(" ");
      reject(
        new RankGrpoError("WRONG_RESULT", `Expected an answer of ${sources}/peers.py, got exit code ${code}: ${words}`),
      );
    });
  });
}

const median = (values: readonly number[]): number => values.toSorted((a, b) => a - b)[values.length >> 1]!;

async function clock(run: () => unknown, seconds: number, least = 3): Promise<number> {
  await run();
  const times: number[] = [];
  for (let total = 0; times.length < least || total < seconds; ) {
    const started = performance.now();
    await run();
    times.push(performance.now() - started);
    total += times.at(-1)! / 1000;
  }
  return median(times);
}

const furthest = (a: ArrayLike<number>, b: ArrayLike<number>): number =>
  Array.from(a).reduce((most, x, i) => Math.max(most, Math.abs(x - b[i]!)), 0);

interface Work {
  name: string;
  shape: string;
  dtype: "f32" | "bf16";
  ours: () => Promise<number>;
  request: object;
  error: (answer: Answer) => Promise<number> | number;
  tolerance: number;
  loss?: (answer: Answer) => NonNullable<PeerRow["loss"]>;
}

/**
 * Runs every kind of work twice, here and by the peer.
 * @param model a checkpoint with its tokenizer: what generates and is trained
 * @param only rows whose name and dtype hold all of these words
 */
export async function peers(
  model: string,
  options: { seconds: number; only: readonly string[]; print: (line: string) => void },
): Promise<PeerRow[]> {
  const { seconds, only, print } = options;
  install(print);
  const scratch = await mkdtemp(join(tmpdir(), "rank-grpo-peers-"));
  const rows: PeerRow[] = [];
  const { threads } = addon.deviceInfo();
  const measure = async (work: Work): Promise<void> => {
    const text = `${work.name} ${work.dtype}`.toLowerCase();
    if (!only.every((word) => text.includes(word.toLowerCase()))) return;
    const answer = await ask({ ...work.request, dtype: work.dtype, seconds });
    const error = await work.error(answer);
    if (!(error <= work.tolerance))
      throw new RankGrpoError(
        "WRONG_RESULT",
        `Expected ${work.name} (${work.shape}, ${work.dtype}) by ${answer.way} within ${work.tolerance} of this engine's, got ${error}.`,
      );
    const oursMs = await work.ours();
    const theirsMs = 1000 * median(answer.seconds);
    const { name, shape, dtype } = work;
    const loss = work.loss?.(answer);
    const row: PeerRow = {
      name,
      shape,
      dtype,
      threads,
      oursMs,
      theirsMs,
      ratio: theirsMs / oursMs,
      way: answer.way,
      error,
      theirsMiB: answer.peakMiB,
      oursMiB: process.memoryUsage.rss() / 2 ** 20,
      ...(loss ? { loss } : {}),
      versions: answer.versions,
    };
    rows.push(row);
    print(
      `${name}, ${shape}, ${dtype}: ${oursMs.toFixed(1)} ms here, ${theirsMs.toFixed(1)} ms by ${row.way}: ${row.ratio.toFixed(1)}x`,
    );
    if (loss)
      print(
        `  memory above the inputs ${loss.oursExtraMiB?.toFixed(0) ?? "?"} MiB here, ${loss.theirsExtraMiB.toFixed(0)} by the peer; ` +
          `largest error ${loss.oursError.toExponential(1)} here, ${loss.theirsError.toExponential(1)} by the peer`,
      );
  };
  try {
    await kernelWork(scratch, seconds, measure);
    await modelWork(model, scratch, measure);
  } finally {
    await rm(scratch, { recursive: true, force: true });
  }
  return rows;
}

type Measure = (work: Work) => Promise<void>;

const bytes = (x: Float32Array): Uint8Array => new Uint8Array(x.buffer, x.byteOffset, x.byteLength);

async function kernelWork(scratch: string, seconds: number, measure: Measure): Promise<void> {
  const [T, V, R, C] = [2048, 49_152, 1024, 576];
  const logits = numbers(T * V, 4, 1);
  const targets = tokens(T, V, 1);
  const dlogprobs = numbers(T, 1, 2);
  await writeFile(join(scratch, "logits"), bytes(logits));
  const input = { logits, targets, vocabulary: V };
  const forward = await logprobs(input);
  const out = new Float32Array(T * V);
  await measure({
    name: "log-prob and gradient from logits",
    shape: `[${T} x ${V}]`,
    dtype: "f32",
    // in place, as it is meant to be used: torch has no such way
    ours: () =>
      clock(
        async () => logprobsBackward({ ...input, forward: await logprobs(input), dlogprobs, out: logits }),
        seconds,
      ),
    request: { work: "logits", T, V, logits: join(scratch, "logits"), targets: [...targets], slopes: [...dlogprobs] },
    error: async ({ logprobs: theirs, gradient }) => {
      await logprobsBackward({ ...input, forward, dlogprobs, out });
      return Math.max(furthest(forward.logprobs, theirs!), furthest(out.subarray(0, V), gradient!));
    },
    tolerance: 2e-5,
  });
  const hidden = numbers(R * C, 1, 3);
  const head = numbers(V * C, 0.2, 4);
  await writeFile(join(scratch, "hidden"), bytes(hidden));
  await writeFile(join(scratch, "head"), bytes(head));
  for (const dtype of ["f32", "bf16"] as const) {
    const own = {
      hidden: dtype === "bf16" ? toBf16(hidden) : hidden,
      head: dtype === "bf16" ? toBf16(head) : head,
      targets: targets.subarray(0, R),
      vocabulary: V,
    };
    const files = { hidden: join(scratch, "hidden"), head: join(scratch, "head") };
    await measure({
      name: "log-prob from hidden x head",
      shape: `[${R} x ${C}] x [${V} x ${C}]`,
      dtype,
      ours: () => clock(() => headLogprobs(own), seconds),
      request: { work: "head", T: R, C, V, ...files, targets: [...own.targets] },
      error: async ({ logprobs: theirs }) => furthest((await headLogprobs(own)).logprobs, theirs!),
      tolerance: dtype === "bf16" ? 0.1 : 1e-4, // torch rounds logits to bf16
    });
    await lossWork(own, { dtype, files, scratch, seconds }, measure);
  }
}

/** The preset `grpo` without its KL, which is Liger's and TRL's loss_type "grpo" with token ratios and beta 0. */
async function lossWork(
  input: HeadInput,
  given: { dtype: "f32" | "bf16"; files: object; scratch: string; seconds: number },
  measure: Measure,
): Promise<void> {
  const { dtype, files, scratch, seconds } = given;
  const [T, B, V] = [input.targets.length, 8, input.vocabulary];
  const C = input.hidden.length / T;
  const objective = { ...presets.grpo, beta: 0 };
  const advantages = numbers(B, 1, 5);
  const rows = Array.from(advantages, (advantage): RowPlan => {
    const tokens = T / B;
    const item = new Int32Array(tokens);
    return { item, advantage: new Float32Array(tokens).fill(advantage) };
  });
  const step = stepInputs(rows, objective, 1);
  // ratios within the clip's range and beyond both its edges, none so near to one that rounding decides
  const logRatios = [0, 0.1, -0.5, -0.1, 0.5];
  const oldLogprobs = (await headLogprobs(input)).logprobs.map((x, t) => x - logRatios[t % logRatios.length]!);
  const dhidden = new Float32Array(T * C);
  const dhead = new Float32Array(V * C);
  const run = async (): Promise<number> => {
    const forward = await headLogprobs(input);
    const { loss, dlogp } = policyLoss({ ...step, logprobs: forward.logprobs, oldLogprobs }, objective);
    dhead.fill(0); // it is added to
    await headLogprobsBackward({ ...input, forward, dlogprobs: dlogp, dhidden, dhead });
    return loss;
  };
  const tolerance = dtype === "bf16" ? 2e-2 : 1e-5; // as the kernels' own rows
  const ours = { loss: 0, dhidden: join(scratch, "dhidden"), dhead: join(scratch, "dhead") };
  const { extraMiB: oursExtraMiB } = await peakOf(async () => {
    ours.loss = await run(); // the first: it touches the gradients' memory
  });
  await writeFile(ours.dhidden, bytes(dhidden));
  await writeFile(ours.dhead, bytes(dhead));
  for (const [peer, name] of [
    ["torch", "GRPO loss and gradients from hidden x head"],
    ["liger", "GRPO loss and gradients from hidden x head, beside Liger"],
  ] as const)
    await measure({
      name,
      shape: `[${B} x ${T / B} x ${C}] x [${V} x ${C}]`,
      dtype,
      ours: () => clock(run, seconds),
      request: {
        work: "loss",
        device: "cpu", // where these kernels compute
        ...{ peer, B, T, C, V, ...files, ours, tolerance },
        targets: [...input.targets],
        old: [...oldLogprobs],
        advantages: [...advantages],
        clip: [objective.params["clipLow"], objective.params["clipHigh"]],
      },
      error: ({ errors }) => Math.max(errors!.ours, errors!.theirs),
      tolerance,
      loss: ({ errors, extraMiB }) => ({
        ...(oursExtraMiB === undefined ? {} : { oursExtraMiB }),
        theirsExtraMiB: extraMiB!,
        oursError: errors!.ours,
        theirsError: errors!.theirs,
      }),
    });
}

async function modelWork(path: string, scratch: string, measure: Measure): Promise<void> {
  const source = await Policy.load(path, { trainable: false });
  if (!source.tokenizer) refuse("BAD_CHECKPOINT", "a model with its tokenizer", path, "none");
  const folder = join(scratch, "model");
  await source.save(folder);
  const text = await readFile(join(folder, "config.json"), "utf8");
  const words =
    "Looking for something to watch tonight: we liked the first one, hated the sequel, and have seen all the others. ";
  const ids = encodePrompt(source.tokenizer, words.repeat(20));
  source.dispose();
  const prompts = Array.from({ length: 8 }, (_, p) => ids.slice(p, p + 160));
  const model = (JSON.parse(text) as { model_type: string }).model_type;
  for (const dtype of ["f32", "bf16"] as const) {
    const policy = await Policy.load(folder, { compute: dtype });
    for (const rows of [1, 8, 64]) {
      const group = Math.min(8, rows);
      const own = prompts.slice(0, rows / group);
      const settings = { groupSize: group, maxNewTokens: 32, ignoreStop: true };
      await measure({
        name: `generation, ${rows} rows`,
        shape: `${model}, ${own.length} prompts of 160, 32 tokens`,
        dtype,
        ours: () => clock(() => policy.generate(own, settings), 0),
        request: { work: "generation", model: folder, prompts: own.map((prompt) => [...prompt]), group, tokens: 32 },
        error: async ({ greedy }) => {
          const [lists] = await policy.generate([own[0]!], { ...settings, groupSize: 1, greedy: true });
          const mine = lists![0]!.ids;
          const stop = mine.findIndex((id) => policy.stopIds.has(id)); // which the peer may not choose before its time
          // bf16 models round what they pass on, and part ways
          const compared = dtype === "bf16" ? 1 : stop < 0 ? mine.length : stop;
          if (compared === 0) return Number.NaN;
          return greedy!.slice(0, compared).filter((id, t) => id !== mine[t]).length;
        },
        tolerance: 0,
      });
    }
    if (path.endsWith(".gguf") && dtype === "bf16")
      for (const rows of [1, 8]) {
        const settings = { groupSize: rows, maxNewTokens: 32, ignoreStop: true };
        const prompt = prompts[0]!;
        await measure({
          name: `generation, ${rows} rows, beside llama.cpp`,
          shape: `${model}, a prompt of 160, 32 tokens`,
          dtype,
          ours: () => clock(() => policy.generate([prompt], settings), 0),
          request: { work: "llama", gguf: resolve(path), prompts: [[...prompt]], group: rows, tokens: 32 },
          error: async ({ greedy }) => {
            const [lists] = await policy.generate([prompt], { ...settings, groupSize: 1, greedy: true });
            return greedy![0] === lists![0]!.ids[0] ? 0 : 1; // it rounds weights and activations otherwise: the first token alone
          },
          tolerance: 0,
        });
      }
    if (dtype === "f32") {
      policy.dispose();
      continue; // nobody trains by TRL in f32: its step takes minutes in bf16
    }
    const reference = await Policy.load(folder, { compute: dtype, trainable: false });
    const [group, completion] = [8, 208];
    let seed = 0;
    const step = async (): Promise<void> => {
      const lists = await policy.generate(prompts, {
        groupSize: group,
        maxNewTokens: completion,
        ignoreStop: true,
        seed: seed++,
      });
      await updateOnce(
        policy,
        reference,
        prompts.map((prompt, p) => ({ prompt, completions: lists[p]!.map((list) => list.ids) })),
      );
    };
    await measure({
      name: "whole step with reference",
      shape: `${model}, 8 prompts of 160 x ${group} lists of ${completion}`,
      dtype,
      ours: () => clock(step, 0, 1),
      request: {
        work: "grpo",
        model: folder,
        scratch: join(scratch, "trl"),
        prompts: prompts.map((prompt) => [...prompt]),
        group,
        tokens: completion,
        rows: 8,
        steps: 1,
      },
      error: ({ meanLength }) => Math.abs((meanLength ?? 0) - completion), // the same model, and lists as long
      tolerance: 0,
    });
    policy.dispose();
    reference.dispose();
  }
}
