// The data pipeline: samples read from JSONL, lists read as titles, a catalog's tries, Remap's scores and Adjust's slope. What JavaScript
// does on text has no bound in bytes or operations; for JSONL it is the parser's own time on the same text, measured in the same run.
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";

import { readSamples } from "../data/samples.ts";
import { tfidf } from "../demonstrate/features.ts";
import { addon } from "../native.ts";
import { philox } from "../random.ts";
import { Catalog } from "../ranking/catalog.ts";
import { CatalogConstraint } from "../ranking/constraint.ts";
import { readList } from "../ranking/list.ts";
import { World } from "../world.ts";
import type { Harness } from "./harness.ts";
import { furthest } from "./kernels.ts";

const small = (error: number): { error: number; tolerance: number } => ({ error, tolerance: 0 });

async function text(harness: Harness, folder: string): Promise<void> {
  const world = new World({ genres: 12, itemsPerGenre: 250, ranks: 20 });
  const rows = Array.from({ length: 2000 }, (_, i) => JSON.stringify(world.sample(i, true)));
  const file = join(folder, "samples.jsonl");
  await writeFile(file, `${rows.join("\n")}\n`);
  const parse = Math.min(
    ...[1, 2, 3, 4, 5].map(() => {
      const started = performance.now();
      for (const row of rows) JSON.parse(row);
      return (performance.now() - started) / 1000;
    }),
  );
  await harness.measure({
    name: "samples read and checked",
    shape: `${rows.length} lines of JSON`,
    dtype: "text",
    bound: () => parse,
    validate: async () => {
      const samples = await readSamples(file);
      const same = samples.every(({ id }, i) => id === `world-${i}`) && samples.length === rows.length;
      return small(same ? 0 : 1);
    },
    run: () => readSamples(file),
  });
  const lists = Array.from({ length: 500 }, (_, i) => world.text(world.popularList([i])));
  await harness.measure({
    name: "lists read as titles",
    shape: `${lists.length} lists of 20 lines`,
    dtype: "text",
    validate: () => small(lists.reduce((bad, list) => bad + readList(list).filter((slot) => slot === null).length, 0)),
    run: () => lists.map((list) => readList(list)),
  });
  const catalog = Catalog.from(world.items);
  const tokenizer = world.tokenizer();
  const build = (): Promise<CatalogConstraint> => CatalogConstraint.create(catalog, tokenizer, 1, { length: 20 });
  await harness.measure({
    name: "catalog tokenised, tries built",
    shape: `${catalog.size} titles`,
    dtype: "text",
    validate: async () => small(Math.abs((await build()).tokens - 4 * catalog.size)), // three words and a newline each
    run: build,
  });
}

const dialogues = 256;
const items = 7404; // of Reddit-v2's catalog

async function demonstrations(harness: Harness): Promise<void> {
  let at = 0;
  const next = (below: number): number => (philox(11, 78, 1, at++, 0)[0] >>> 0) % below;
  const words = (count: number): string => Array.from({ length: count }, () => `w${next(2000)}`).join(" ");
  const distinct = (count: number): number[] => {
    const chosen = new Set<number>();
    while (chosen.size < count) chosen.add(next(items));
    return [...chosen];
  };
  const texts = Array.from({ length: items }, () => words(20));
  const contexts = Array.from({ length: dialogues }, () => words(30));
  const lists = Array.from({ length: dialogues }, () => distinct(20));
  const truths = Array.from({ length: dialogues }, () => distinct(2));
  const every = (step: number): Int32Array => Int32Array.from({ length: dialogues + 1 }, (_, d) => step * d);
  const { width, rows: embedded } = tfidf([texts, texts, contexts]);
  const scores = await addon.NativeStage1.create({
    dialogues,
    teacherItems: items,
    items,
    positions: {
      offsets: every(20),
      columns: Int32Array.from(lists.flat()),
      values: Float32Array.from({ length: 20 * dialogues }, (_, i) => 1 / Math.sqrt((i % 20) + 1)),
    },
    membership: Int32Array.from({ length: items }, (_, i) => i),
    features: { width, items: embedded[0]!, teacher: embedded[1]!, context: embedded[2]! },
    truths: { offsets: every(2), columns: Int32Array.from(truths.flat()) },
  });
  const rows = Int32Array.from({ length: dialogues }, (_, d) => d);
  const [w, b] = [new Float32Array(items).fill(1.5), new Float32Array(items).fill(-0.2)];
  const dense = await scores.dense(rows);
  const shape = `${dialogues} dialogues x ${items} items`;
  await harness.measure({
    name: "Remap: the 100 best items",
    shape,
    dtype: "f32",
    validate: async () => {
      const ranked = await scores.rank(rows, { n: 100 });
      let wrong = 0;
      for (const d of [0, 100, dialogues - 1]) {
        const own = dense.subarray(d * items, (d + 1) * items);
        const best = Array.from(own.keys())
          .sort((x, y) => own[y]! - own[x]! || x - y)
          .slice(0, 100);
        wrong += best.filter((item, k) => ranked.items[d * 100 + k] !== item).length;
      }
      return small(wrong);
    },
    run: () => scores.rank(rows, { n: 100 }),
  });
  await harness.measure({
    name: "Adjust: loss and slope",
    shape,
    dtype: "f32",
    validate: async () => {
      let wanted = 0;
      const [dw, db] = [new Float64Array(items), new Float64Array(items)];
      for (let d = 0; d < dialogues; d++) {
        const own = dense.subarray(d * items, (d + 1) * items);
        const y = Float64Array.from(own, (s) => 1.5 * s - 0.2);
        const top = y.reduce((m, x) => Math.max(m, x));
        const lse = top + Math.log(y.reduce((sum, x) => sum + Math.exp(x - top), 0));
        const slopes = y.map((x) => truths[d]!.length * Math.exp(x - lse));
        for (const truth of truths[d]!) {
          wanted += lse - y[truth]!;
          slopes[truth]! -= 1;
        }
        for (let i = 0; i < items; i++) {
          db[i]! += slopes[i]!;
          dw[i]! += slopes[i]! * own[i]!;
        }
      }
      const { loss, ...got } = await scores.slope(rows, w, b);
      const errors = [Math.abs(loss / wanted - 1), furthest(got.dw, dw), furthest(got.db, db)];
      return { error: Math.max(...errors), tolerance: 1e-5 };
    },
    run: () => scores.slope(rows, w, b),
  });
  scores.dispose();
}

export async function data(harness: Harness): Promise<void> {
  const folder = await mkdtemp(join(tmpdir(), "rank-grpo-bench-"));
  try {
    await text(harness, folder);
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
  await demonstrations(harness);
}
