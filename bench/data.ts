// Remap and Adjust at 1, 10 and 100 thousand dialogues over a catalogue of 7,404 titles: time and memory of each part.
// Synthetic: item k is liked with weight 1 / (k + 10), items have 40 words of a topic, lists and prompts follow the topic.
// Run: npx tsx bench/data.ts [thousands ...] (default 1 10); each size in a process of its own; one JSON object as the last line.
// RANK_GRPO_BENCH_ITERATIONS=N stops Adjust after N iterations, for a short look at a large size.
import { spawnSync } from "node:child_process";
import { cpus } from "node:os";
import { fileURLToPath } from "node:url";

import { fitAdjustment } from "../src/demonstrate/adjust.ts";
import { tfidf } from "../src/demonstrate/features.ts";
import { addon } from "../src/native.ts";
import { philox } from "../src/random.ts";

const ITEMS = 7404; // of Reddit-v2's catalogue
const TOPICS = 60;
const WORDS = 30_000;

interface Result {
  dialogues: number;
  items: number;
  seconds: { tables: number; remap: number; adjust: number; final: number };
  /** Of all threads: what stays comparable on a machine that does other work too. */
  cpuSeconds: { tables: number; remap: number; adjust: number; final: number };
  iterations: number;
  converged: boolean;
  lossPerPositive: { initial: number; final: number };
  peakMB: number;
}

/** Uniform numbers in [0, 1) of stream `a`. */
const numbers = (a: number): (() => number) => {
  let at = 0;
  return () => (philox(11, 77, a, at++, 0)[0] >>> 0) / 2 ** 32;
};

async function measure(dialogues: number): Promise<Result> {
  const next = numbers(1);
  const topicWord = (topic: number): number => Math.floor(WORDS * ((topic / TOPICS + 0.3 * next() ** 3) % 1));
  const text = (topic: number, words: number): string =>
    Array.from({ length: words }, () => `w${topicWord(topic)}`).join(" ");
  const itemTexts = Array.from({ length: ITEMS }, (_, i) => text(i % TOPICS, 40));
  const popular = (topic: number): number => {
    const rank = Math.floor((10 * (ITEMS / TOPICS / 10 + 1) ** next() - 10) % (ITEMS / TOPICS));
    return Math.min(ITEMS - 1, topic + TOPICS * rank);
  };
  const distinct = (count: number, topic: number): number[] => {
    const chosen = new Set<number>();
    while (chosen.size < count) chosen.add(popular(topic));
    return [...chosen];
  };
  const listColumns = new Int32Array(dialogues * 20);
  const truthColumns = new Int32Array(dialogues * 2);
  const contexts: string[] = [];
  for (let d = 0; d < dialogues; d++) {
    const topic = Math.floor(TOPICS * next());
    listColumns.set(distinct(20, topic), 20 * d);
    truthColumns.set(distinct(2, topic), 2 * d);
    contexts.push(text(topic, 30));
  }
  const every = (step: number): Int32Array => Int32Array.from({ length: dialogues + 1 }, (_, d) => step * d);
  const rows = Int32Array.from({ length: dialogues }, (_, d) => d);
  const seconds = { tables: 0, remap: 0, adjust: 0, final: 0 };
  const cpuSeconds = { ...seconds };
  let started = performance.now();
  let used = process.cpuUsage();
  const lap = (part: keyof typeof seconds): void => {
    const { user, system } = process.cpuUsage(used);
    cpuSeconds[part] = Math.round((user + system) / 1e4) / 100;
    seconds[part] = Math.round(performance.now() - started) / 1000;
    started = performance.now();
    used = process.cpuUsage();
  };

  const { width, rows: embedded } = tfidf([itemTexts, itemTexts, contexts]);
  const scores = await addon.NativeStage1.create({
    dialogues,
    teacherItems: ITEMS,
    items: ITEMS,
    positions: {
      offsets: every(20),
      columns: listColumns,
      values: Float32Array.from({ length: 20 * dialogues }, (_, i) => 1 / Math.sqrt((i % 20) + 1)),
    },
    membership: Int32Array.from({ length: ITEMS }, (_, i) => i),
    features: { width, items: embedded[0]!, teacher: embedded[1]!, context: embedded[2]! },
    truths: { offsets: every(2), columns: truthColumns },
  });
  lap("tables");
  await scores.rank(rows, { n: 100 });
  lap("remap");
  const fit = await fitAdjustment([{ scores, rows }], ITEMS, {
    maxIterations: Number(process.env["RANK_GRPO_BENCH_ITERATIONS"] ?? 200),
    onIteration: ({ iteration, loss }) =>
      iteration % 10 === 0 &&
      process.stderr.write(`  ${dialogues} dialogues, iteration ${iteration}: loss ${loss.toFixed(1)}\n`),
  });
  lap("adjust");
  const final = await scores.rank(rows, { n: 20, w: fit.w, b: fit.b });
  lap("final");
  if (final.items.some((item) => item < 0)) throw new Error("a list came out short");
  scores.dispose();
  return {
    dialogues,
    items: ITEMS,
    seconds,
    cpuSeconds,
    iterations: fit.iterations,
    converged: fit.converged,
    lossPerPositive: { initial: fit.initialLoss / (2 * dialogues), final: fit.loss / (2 * dialogues) },
    peakMB: Math.round(process.resourceUsage().maxRSS / 1024),
  };
}

const sizes = process.argv.slice(2);
if (sizes[0] === "--one") console.log(JSON.stringify(await measure(Number(sizes[1]))));
else {
  const results: Result[] = [];
  for (const thousands of sizes.length > 0 ? sizes : ["1", "10"]) {
    const child = spawnSync(
      process.execPath,
      [...process.execArgv, fileURLToPath(import.meta.url), "--one", String(1000 * Number(thousands))],
      {
        encoding: "utf8",
        stdio: ["ignore", "pipe", "inherit"],
        maxBuffer: 1 << 26,
      },
    );
    if (child.status !== 0)
      throw new Error(`The run of ${thousands} thousand dialogues ended with ${child.status ?? child.signal}.`);
    const result = JSON.parse(child.stdout.trim().split("\n").at(-1)!) as Result;
    results.push(result);
    const { seconds, cpuSeconds, peakMB, iterations } = result;
    console.log(
      `${String(result.dialogues).padStart(7)} dialogues x ${ITEMS} items, s (CPU s): tables ${seconds.tables} (${cpuSeconds.tables}), Remap ${seconds.remap} (${cpuSeconds.remap}), Adjust ${seconds.adjust} (${cpuSeconds.adjust}) in ${iterations} iterations, final lists ${seconds.final} (${cpuSeconds.final}); peak ${peakMB} MB`,
    );
  }
  console.log(
    JSON.stringify({
      bench: "data",
      threads: addon.deviceInfo().threads,
      isa: addon.deviceInfo().isa,
      cpu: cpus()[0]?.model,
      results,
    }),
  );
}
