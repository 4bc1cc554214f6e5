// Stage 1: native scores against a float64 reference and central differences, the parts of each stage, and the whole on ReDial.
import { spawnSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import * as fc from "fast-check";
import { afterAll, describe, expect, it } from "vitest";

import type { Message, Sample } from "../src/data/sample.ts";
import { readSamples, toSample } from "../src/data/samples.ts";
import { fitAdjustment } from "../src/demonstrate/adjust.ts";
import { readItems, readRatings } from "../src/demonstrate/answer.ts";
import { Grounding, teachByNeighbors, trainableCatalog } from "../src/demonstrate/demonstrate.ts";
import { cooccurrence, tfidf, unitRows } from "../src/demonstrate/features.ts";
import { MetadataTable, readMetadata } from "../src/demonstrate/metadata.ts";
import { minimize } from "../src/demonstrate/minimize.ts";
import { nameItems } from "../src/demonstrate/remap.ts";
import { demonstrate } from "../src/demonstrate/stages.ts";
import { addon, type NativeScoreInputs, type NativeSparse } from "../src/native.ts";
import { permutation, Stream, uniform } from "../src/random.ts";
import { Catalog } from "../src/ranking/catalog.ts";
import { formatItem, type Item } from "../src/ranking/list.ts";
import { hasShared, shared } from "./shared.ts";

const folder = mkdtempSync(join(tmpdir(), "rank-grpo-stage1-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

// ---- a small random problem, and its scores in float64 ----

const random = (a: number, b = 0): number => uniform(7, 99, a, b);

interface Problem extends NativeScoreInputs {
  s: number[][];
}

/** D dialogues, U named items, I catalogue items, F features; odd sizes on purpose. */
function problem(D: number, U: number, I: number, F: number, dense: boolean, seed = 0): Problem {
  let at = 1000 * seed;
  const next = (): number => random(at++);
  const matrix = (rows: number): number[][] =>
    Array.from({ length: rows }, () => {
      const row = Array.from({ length: F }, () => (next() < 0.4 ? Math.fround(next() - 0.3) : 0));
      return row;
    });
  const sparse = (rows: readonly number[][]): NativeSparse => {
    const columns = rows.flatMap((row) => row.flatMap((value, f) => (value === 0 ? [] : [f])));
    const values = Float32Array.from(rows.flatMap((row) => row.filter((value) => value !== 0)));
    const offsets = new Int32Array(rows.length + 1);
    rows.forEach((row, i) => {
      offsets[i + 1] = offsets[i]! + row.filter((value) => value !== 0).length;
    });
    return { offsets, columns: Int32Array.from(columns), values };
  };
  const [items, teacher, context] = [matrix(I), matrix(U), matrix(D)];
  const lists = Array.from({ length: D }, () => [
    ...new Set(Array.from({ length: Math.floor(next() * 5) }, () => Math.floor(next() * U))),
  ]);
  const membership = Array.from({ length: U }, () => (next() < 0.6 ? Math.floor(next() * I) : -1));
  const truths = Array.from({ length: D }, () => [
    ...new Set(Array.from({ length: Math.floor(next() * 3) }, () => Math.floor(next() * I))),
  ]);
  const lambda = 0.7;
  const dot = (a: readonly number[], b: readonly number[]): number =>
    a.reduce((sum, value, i) => sum + value * b[i]!, 0);
  const s = lists.map((list, d) =>
    items.map((item, i) => {
      let score = lambda * dot(context[d]!, item);
      list.forEach((u, k) => {
        score += Math.fround(1 / Math.sqrt(k + 1)) * (dot(teacher[u]!, item) + (membership[u] === i ? 1 : 0));
      });
      return score;
    }),
  );
  const rows = (all: readonly number[][]) => ({
    offsets: Int32Array.from([0, ...all.map((_, i) => all.slice(0, i + 1).reduce((sum, row) => sum + row.length, 0))]),
    columns: Int32Array.from(all.flat()),
  });
  return {
    s,
    dialogues: D,
    teacherItems: U,
    items: I,
    positions: {
      ...rows(lists),
      values: Float32Array.from(lists.flatMap((list) => list.map((_, k) => 1 / Math.sqrt(k + 1)))),
    },
    membership: Int32Array.from(membership),
    lambda,
    truths: rows(truths),
    features: dense
      ? {
          width: F,
          dense: true,
          items: Float32Array.from(items.flat()),
          teacher: Float32Array.from(teacher.flat()),
          context: Float32Array.from(context.flat()),
        }
      : { width: F, items: sparse(items), teacher: sparse(teacher), context: sparse(context) },
  };
}

const truthsOf = ({ truths }: NativeScoreInputs): number[][] =>
  Array.from({ length: truths!.offsets.length - 1 }, (_, d) => [
    ...truths!.columns.subarray(truths!.offsets[d], truths!.offsets[d + 1]),
  ]);
const every = (n: number): Int32Array => Int32Array.from({ length: n }, (_, i) => i);

/** -sum over positives of log softmax(w s + b), in float64. */
function lossOf(
  s: readonly number[][],
  truths: readonly number[][],
  w: ArrayLike<number>,
  b: ArrayLike<number>,
): number {
  let loss = 0;
  s.forEach((row, d) => {
    const logits = row.map((value, i) => value * w[i]! + b[i]!);
    const top = Math.max(...logits);
    const lse = top + Math.log(logits.reduce((sum, value) => sum + Math.exp(value - top), 0));
    for (const j of truths[d]!) loss += lse - logits[j]!;
  });
  return loss;
}

describe("native scores", () => {
  const shapes: [number, number, number, number, boolean][] = [
    [1, 1, 1, 1, false],
    [1, 1, 1, 1, true],
    [37, 19, 23, 7, false],
    [37, 19, 23, 7, true],
    [600, 50, 129, 33, false], // columns beyond a vector
    [600, 50, 129, 33, true],
    [2100, 20, 35, 9, false], // more than one block of rows
    [2100, 20, 35, 9, true],
    [40, 1100, 1300, 12, false], // more than one tile of columns
    [40, 1100, 1300, 12, true],
  ];

  it.each(shapes)(
    "Remap of %i dialogues, %i named, %i catalogue items, %i features (dense %s) agrees with float64",
    async (D, U, I, F, dense) => {
      const given = problem(D, U, I, F, dense);
      const scores = await addon.NativeStage1.create(given);
      const found = await scores.dense(every(D));
      given.s.flat().forEach((value, i) => {
        expect(Math.abs(found[i]! - value)).toBeLessThan(2e-6 * (1 + Math.abs(value)));
      });
      // any subset of rows, in any order, has the same bits
      const rows = Int32Array.from([D - 1, 0, Math.floor(D / 2), 0]);
      const some = await scores.dense(rows);
      rows.forEach((row, k) => {
        expect(some.subarray(k * I, (k + 1) * I)).toEqual(found.subarray(row * I, (row + 1) * I));
      });
      scores.dispose();
    },
  );

  it.each(shapes)(
    "the likelihood of %i x %i x %i x %i (dense %s), its slope and its curvature agree with float64 and central differences",
    async (D, U, I, F, dense) => {
      const given = problem(D, U, I, F, dense, 1);
      const scores = await addon.NativeStage1.create(given);
      const truths = truthsOf(given);
      const w = Float32Array.from({ length: I }, (_, i) => 1 + 0.5 * (random(i, 1) - 0.5));
      const b = Float32Array.from({ length: I }, (_, i) => random(i, 2) - 0.5);
      const { loss, dw, db } = await scores.slope(every(D), w, b);
      const reference = lossOf(given.s, truths, w, b);
      expect(Math.abs(loss - reference)).toBeLessThan(1e-5 * (1 + reference));
      const h = 1e-4;
      for (let i = 0; i < I; i += Math.ceil(I / 12))
        for (const [values, slope] of [
          [w, dw],
          [b, db],
        ] as const) {
          const moved = (by: number): number => {
            const shifted = Float64Array.from(values);
            shifted[i]! += by;
            return values === w ? lossOf(given.s, truths, shifted, b) : lossOf(given.s, truths, w, shifted);
          };
          const difference = (moved(h) - moved(-h)) / (2 * h);
          expect(Math.abs(slope[i]! - difference)).toBeLessThan(
            2e-5 * (1 + Math.abs(difference)) + (1e-7 * reference) / 1,
          );
        }
      const { ww, wb, bb } = await scores.curvature(every(D), w, b);
      const step = 3e-3;
      for (let i = 0; i < I; i += Math.ceil(I / 12)) {
        const at = (byW: number, byB: number): number =>
          lossOf(
            given.s,
            truths,
            Float64Array.from(w, (value, j) => value + (j === i ? byW * step : 0)),
            Float64Array.from(b, (value, j) => value + (j === i ? byB * step : 0)),
          );
        for (const [found, difference] of [
          [ww[i]!, at(1, 0) - 2 * at(0, 0) + at(-1, 0)],
          [bb[i]!, at(0, 1) - 2 * at(0, 0) + at(0, -1)],
          [wb[i]!, (at(1, 1) - at(1, -1) - at(-1, 1) + at(-1, -1)) / 4],
        ] as const)
          expect(Math.abs(found - difference / step ** 2)).toBeLessThan(1e-4 * (1 + Math.abs(found)));
      }
      scores.dispose();
    },
  );

  it("adds ratings, and ranks by w s + b without excluded items, ties to the lower index", async () => {
    const given = problem(5, 6, 17, 3, false, 2);
    const excluded = { offsets: Int32Array.from([0, 2, 2, 2, 2, 2]), columns: Int32Array.from([0, 3]) };
    const scores = await addon.NativeStage1.create({ ...given, excluded });
    const before = await scores.dense(every(5));
    await scores.setRatings(
      {
        offsets: Int32Array.from([0, 0, 2, 2, 2, 2]),
        columns: Int32Array.from([4, 9]),
        values: Float32Array.from([2, -1]),
      },
      0.5,
    );
    const after = await scores.dense(every(5));
    before.forEach((value, i) => {
      expect(after[i]).toBe(Math.fround(value + (i === 17 + 4 ? 1 : i === 17 + 9 ? -0.5 : 0)));
    });
    const w = Float32Array.from({ length: 17 }, (_, i) => 1 + i / 20);
    const b = Float32Array.from({ length: 17 }, (_, i) => (i % 3) / 7);
    for (const options of [{ n: 17 }, { n: 4, w, b }]) {
      const { items } = await scores.rank(every(5), options);
      for (let d = 0; d < 5; d++) {
        const value = (i: number): number =>
          Math.fround("w" in options ? after[d * 17 + i]! * w[i]! + b[i]! : after[d * 17 + i]!);
        const wanted = [...Array(17).keys()]
          .filter((i) => d > 0 || (i !== 0 && i !== 3))
          .sort((x, y) => value(y) - value(x) || x - y);
        const found = [...items.subarray(d * options.n, (d + 1) * options.n)];
        expect(found).toEqual([...wanted, -1, -1].slice(0, options.n));
      }
    }
    scores.dispose();
  });

  it("gives the same bits with one thread and with two", () => {
    const script = join(folder, "threads.mts");
    const source = new URL("../src/native.ts", import.meta.url).href;
    const given = problem(300, 40, 61, 9, false, 6);
    const dense = problem(300, 40, 61, 9, true, 6);
    const plain = JSON.stringify(
      [given, dense].map(({ s: _s, ...inputs }) => inputs),
      (_key, value: unknown) =>
        value instanceof Int32Array ? { i: [...value] } : value instanceof Float32Array ? { f: [...value] } : value,
    );
    writeFileSync(
      script,
      `import { createHash } from "node:crypto";
       import { addon } from ${JSON.stringify(source)};
       const revive = (_key, value) => (value?.i ? Int32Array.from(value.i) : value?.f ? Float32Array.from(value.f) : value);
       const hash = createHash("sha256");
       for (const inputs of JSON.parse(${JSON.stringify(plain)}, revive)) {
         const scores = await addon.NativeStage1.create(inputs);
         const rows = Int32Array.from({ length: 300 }, (_, i) => i);
         const { loss, dw, db } = await scores.slope(rows, new Float32Array(61).fill(1.5), new Float32Array(61).fill(0.25));
         const { items } = await scores.rank(rows, { n: 7 });
         hash.update(new Float64Array([loss])).update(dw).update(db).update(items);
       }
       console.log(addon.deviceInfo().threads, hash.digest("hex"));`,
    );
    const loader = new URL("../node_modules/tsx/dist/loader.mjs", import.meta.url).href;
    const outputs = ["1", "2"].map((threads) =>
      spawnSync(process.execPath, ["--import", loader, script], {
        encoding: "utf8",
        env: { ...process.env, RANK_GRPO_THREADS: threads },
      })
        .stdout.trim()
        .split(" "),
    );
    expect(outputs.map(([threads]) => threads)).toEqual(["1", "2"]);
    expect(outputs[0]![1]).toMatch(/^[0-9a-f]{64}$/);
    expect(outputs[1]![1]).toBe(outputs[0]![1]);
  });

  it("refuses what does not fit together", async () => {
    const given = problem(4, 3, 5, 2, false);
    const refused = async (change: object): Promise<unknown> =>
      addon.NativeStage1.create({ ...given, ...change } as NativeScoreInputs).then(
        () => "accepted",
        (error: Error) => error.message,
      );
    expect(await refused({ membership: Int32Array.from([0, 1]) })).toContain("3 entries for membership");
    expect(await refused({ membership: Int32Array.from([0, 1, 5]) })).toContain("below 5 for membership");
    expect(await refused({ positions: { ...given.positions, columns: given.positions.columns.map(() => 3) } })).toMatch(
      /below 3|accepted/,
    );
    expect(await refused({ positions: { ...given.positions, offsets: Int32Array.from([0, 1]) } })).toContain(
      "5 offsets for positions",
    );
    expect(
      await refused({ positions: { ...given.positions, values: given.positions.values.map(() => Number.NaN) } }),
    ).toContain("finite numbers for positions");
    expect(
      await refused({ truths: { offsets: Int32Array.from([0, 1, 1, 1, 1]), columns: Int32Array.from([9]) } }),
    ).toContain("below 5 for truths");
    expect(
      await refused({ features: { width: 2, dense: true, items: new Float32Array(9), teacher: new Float32Array(6) } }),
    ).toContain("10 values for features of the items");
    expect(() => addon.NativeStage1.create({ ...given, positions: undefined as never })).toThrow(TypeError);
    const scores = await addon.NativeStage1.create(given);
    await expect(scores.dense(Int32Array.from([4]))).rejects.toThrow("below 4 for rows");
    await expect(scores.slope(every(4), new Float32Array(4), new Float32Array(5))).rejects.toThrow(
      "5 values for w and b",
    );
    await expect(scores.curvature(every(4), new Float32Array(5).fill(Number.NaN), new Float32Array(5))).rejects.toThrow(
      "finite curvature",
    );
    await expect(scores.slope(every(4), new Float32Array(5).fill(Number.NaN), new Float32Array(5))).rejects.toThrow(
      "finite",
    );
    await expect(
      scores.rank(every(4), { n: 2, w: new Float32Array(5), b: Float32Array.from([0, 0, Number.NaN, 0, 0]) }),
    ).rejects.toThrow("finite numbers for b");
    scores.dispose();
    scores.dispose();
    await expect(scores.dense(every(1))).rejects.toMatchObject({ code: "DISPOSED" });
  });
});

describe("Adjust", () => {
  it("finds the minimum of the regularised loss: the gradient vanishes in float64", async () => {
    const given = problem(300, 20, 31, 5, false, 3);
    const scores = await addon.NativeStage1.create(given);
    const losses: number[] = [];
    const fit = await fitAdjustment([{ scores, rows: every(300) }], 31, {
      weightDecay: 0.1,
      biasDecay: 0.1,
      tolerance: 1e-9,
      onIteration: ({ loss }) => losses.push(loss),
    });
    expect(fit.converged).toBe(true);
    expect(fit.loss).toBeLessThan(fit.initialLoss);
    losses.slice(1).forEach((loss, i) => {
      expect(loss).toBeLessThanOrEqual(losses[i]!);
    });
    const truths = truthsOf(given);
    const total = (w: Float64Array, b: Float64Array): number =>
      lossOf(given.s, truths, w, b) +
      w.reduce((sum, value) => sum + 0.1 * (value - 1) ** 2, 0) +
      b.reduce((sum, value) => sum + 0.1 * value ** 2, 0);
    const [w, b] = [Float64Array.from(fit.w), Float64Array.from(fit.b)];
    const best = total(w, b);
    expect(Math.abs(best - fit.loss)).toBeLessThan(1e-4 * best);
    for (const values of [w, b])
      for (let i = 0; i < 31; i += 3)
        for (const by of [0.02, -0.02]) {
          values[i]! += by;
          expect(total(w, b)).toBeGreaterThan(best - 1e-6 * best);
          values[i]! -= by;
        }
    // several tables of rows are one likelihood
    const halves = [every(150), Int32Array.from({ length: 150 }, (_, i) => 150 + i)].map((rows) => ({ scores, rows }));
    const split = await fitAdjustment(halves, 31, { weightDecay: 0.1, biasDecay: 0.1, tolerance: 1e-9 });
    split.b.forEach((value, i) => {
      expect(Math.abs(value - fit.b[i]!)).toBeLessThan(2e-2);
    });
    scores.dispose();
  });

  it("ten copies of every row with ten times the decays end where the rows end, over many blocks", async () => {
    const given = problem(2100, 9, 12, 4, false, 5);
    const scores = await addon.NativeStage1.create(given);
    // decays that make the minimum sharper than the float32 noise of the loss (1e-7 of it) can blur: 0.006 in w and b
    const options = { weightDecay: 10, biasDecay: 10, tolerance: 1e-9 };
    const few = await fitAdjustment([{ scores, rows: every(2100) }], 12, options);
    const rows = Int32Array.from({ length: 21_000 }, (_, i) => i % 2100);
    const many = await fitAdjustment([{ scores, rows }], 12, { ...options, weightDecay: 100, biasDecay: 100 });
    expect(Math.abs(many.loss / 10 - few.loss)).toBeLessThan(1e-5 * few.loss);
    expect(Math.abs(many.initialLoss / 10 - few.initialLoss)).toBeLessThan(1e-5 * few.initialLoss);
    for (let i = 0; i < 12; i++) {
      expect(Math.abs(many.w[i]! - few.w[i]!)).toBeLessThan(2e-2);
      expect(Math.abs(many.b[i]! - few.b[i]!)).toBeLessThan(2e-2);
    }
    scores.dispose();
  });

  it("stands still where nothing may move, and refuses rows without positives", async () => {
    const given = problem(40, 9, 12, 4, false, 4);
    const scores = await addon.NativeStage1.create(given);
    const fit = await fitAdjustment([{ scores, rows: every(40) }], 12, { weightDecay: 1e9, biasDecay: 1e9 });
    fit.w.forEach((value, i) => {
      expect(Math.abs(value - 1) + Math.abs(fit.b[i]!)).toBeLessThan(1e-6);
    });
    await expect(fitAdjustment([{ scores, rows: new Int32Array(0) }], 12)).rejects.toMatchObject({ code: "BAD_DATA" });
    await expect(fitAdjustment([{ scores, rows: every(40) }], 12, { biasDecay: -1 })).rejects.toMatchObject({
      code: "INVALID_ARGUMENT",
    });
    scores.dispose();
  });

  it("the minimiser reaches the bottom of an ill-scaled bowl, at once where the curvature is known", async () => {
    const scale = Float64Array.from({ length: 20 }, (_, i) => 10 ** (i / 8 - 1));
    const run = (curvature: Float64Array) =>
      minimize(
        new Float64Array(20),
        async (x) => ({
          loss: x.reduce((sum, value, i) => sum + 0.5 * scale[i]! * (value - i) ** 2, 1),
          gradient: x.map((value, i) => scale[i]! * (value - i)),
        }),
        {
          inverseAt: async () => (v) => v.map((value, i) => value / curvature[i]!),
          tolerance: 1e-12,
          maxIterations: 500,
        },
      );
    for (const [curvature, most] of [
      [new Float64Array(20).fill(1), 200],
      [scale, 4],
    ] as const) {
      const minimum = await run(curvature);
      expect(minimum.converged).toBe(true);
      expect(minimum.iterations).toBeLessThanOrEqual(most);
      minimum.x.forEach((value, i) => {
        expect(Math.abs(value - i)).toBeLessThan(1e-3);
      });
    }
  });
});

describe("embeddings without a model", () => {
  it("TF-IDF rows have length 1 and match only on shared words", () => {
    const { rows, width } = tfidf([["red fish", "blue fish", "green bird"], ["red red bird"], ["nothing known"]]);
    const dense = (sparse: NativeSparse, row: number): Float64Array => {
      const out = new Float64Array(width);
      for (let i = sparse.offsets[row]!; i < sparse.offsets[row + 1]!; i++) out[sparse.columns[i]!] = sparse.values[i]!;
      return out;
    };
    const cosine = (a: Float64Array, b: Float64Array): number => a.reduce((sum, value, i) => sum + value * b[i]!, 0);
    const [items, teacher, contexts] = rows as [NativeSparse, NativeSparse, NativeSparse];
    for (let i = 0; i < 3; i++) expect(cosine(dense(items, i), dense(items, i))).toBeCloseTo(1, 6);
    expect(cosine(dense(teacher, 0), dense(items, 1))).toBe(0);
    expect(cosine(dense(teacher, 0), dense(items, 0))).toBeGreaterThan(0.4);
    expect(contexts.columns).toHaveLength(0);
  });

  it("co-occurrence is the shrunk cosine of occurrences", () => {
    const dialogues = [new Set([0, 1]), new Set([0, 1, 2]), new Set([2])];
    const { items, contexts, width } = cooccurrence(dialogues, 4, [[0, 3], []], 1);
    const product = (u: number, v: number): number => {
      const of = (row: number): Map<number, number> =>
        new Map(
          Array.from({ length: items.offsets[row + 1]! - items.offsets[row]! }, (_, i) => [
            items.columns[items.offsets[row]! + i]!,
            items.values[items.offsets[row]! + i]!,
          ]),
        );
      const other = of(v);
      return [...of(u)].reduce((sum, [column, value]) => sum + value * (other.get(column) ?? 0), 0);
    };
    expect(width).toBe(3);
    expect(product(0, 1)).toBeCloseTo(2 / 3, 6); // together twice; sqrt((2 + 1) (2 + 1))
    expect(product(0, 2)).toBeCloseTo(1 / 3, 6);
    expect(product(0, 3)).toBe(0);
    expect([...contexts.offsets]).toEqual([0, 2, 2]);
    expect(
      unitRows([
        new Map([
          [2, 3],
          [0, 4],
        ]),
      ]).values,
    ).toEqual(Float32Array.from([0.8, 0.6]));
  });
});

describe("reading answers", () => {
  const heat = { title: "Heat", year: 1995 };
  const fargo = { title: "Fargo", year: 1996 };
  it.each([
    ["plain lines", "Heat (1995)\nFargo (1996)"],
    ["numbers, quotes and marks", '1. "Heat" (1995) - a classic\n2. **Fargo** (1996)'],
    ["a preamble and an ending", "Here are some:\nHeat (1995)\n\nFargo (1996)\nEnjoy!"],
    ["a code fence", "```\nHeat (1995)\nFargo (1996)\n```"],
    ["a JSON list", '["Heat (1995)", "Fargo (1996)"]'],
    [
      "JSON objects in a fence",
      '```json\n{"movies": [{"title": "Heat", "year": 1995}, {"title": "Fargo", "release_year": "1996"}]}\n```',
    ],
    ["repeats", "Heat (1995)\nheat (1995)\nFargo (1996)"],
  ])("a list as %s", (_name, text) => {
    expect(readItems(text, 20)).toEqual([heat, fargo]);
  });

  it("an unreadable list is empty, a long one is cut", () => {
    expect(readItems("I am sorry, I cannot help with that.", 20)).toEqual([]);
    expect(readItems('["broken', 20)).toEqual([]);
    expect(readItems("Heat (1995)\nFargo (1996)", 1)).toEqual([heat]);
  });

  it("ratings as asked, in words, with slips of year, and what is unreadable", () => {
    const candidates: Item[] = [
      heat,
      fargo,
      { title: "Ronin", year: 1998 },
      { title: "Alien", year: 1979 },
      { title: "Thief", year: 1981 },
    ];
    const text =
      'Heat (1995)####2\n2. "Fargo" (1997) #### -1\nRonin####good\nAlien (1979)####7\nnonsense\nThief (1981)####**not good**\nHeat (1995)####-2';
    const { ratings, unreadable } = readRatings(text, candidates);
    expect([...ratings].sort()).toEqual([
      [0, 2],
      [1, -1],
      [2, 1],
      [4, -1],
    ]);
    expect(unreadable).toBe(2);
    expect(readRatings("Heat (1995)####3", candidates, 3).ratings.get(0)).toBe(3);
  });

  it("metadata in the asked form and near it", () => {
    expect(readMetadata("Heat (1995)\n**Keywords:** crime, heist\n**Plot:** A thief\nand a detective.")).toEqual({
      keywords: "crime, heist",
      plot: "A thief and a detective.",
    });
    expect(readMetadata("I do not know it.")).toBeUndefined();
  });
});

describe("grounding", () => {
  const catalog = Catalog.from([
    { title: "Heat", year: 1995 },
    { title: "Heat", year: 1986 },
    { title: "Fargo", year: 1996 },
    { title: "The Wall", year: 201 },
    { title: "Solaris", year: 1972 },
    { title: "Solaris", year: 1973 },
  ]);

  it("a named item is the catalogue's of the same title and nearest year, or outside", () => {
    const named = nameItems(
      [
        [
          { title: "HEAT", year: 1994 },
          { title: "Fargo", year: 1990 },
          { title: "Heat", year: 1986 },
        ],
      ],
      catalog,
    );
    expect([...named.membership]).toEqual([0, -1, 1]);
  });

  it("leaves out titles that a list cannot carry", () => {
    expect(trainableCatalog(catalog).items.map(formatItem)).not.toContain("The Wall (201)");
    expect(trainableCatalog(catalog).size).toBe(5);
  });

  /** Dialogues about one of two genres: likes follow the genre, and the genre's word stands in the prompt. */
  const world = (count: number, seed = 0): { samples: Sample[]; catalog: Catalog } => {
    const titles = Array.from({ length: 40 }, (_, i) => ({
      title: `${i < 20 ? "Space" : "Western"} film ${i}`,
      year: 1980 + i,
    }));
    const samples = Array.from({ length: count }, (_, d) => {
      const genre = uniform(seed, 50, d) < 0.5 ? 0 : 20;
      const pick = (k: number): Item => titles[genre + Math.floor(20 * uniform(seed, 51, d, k) ** 2)]!;
      const [seen, ...liked] = [pick(0), pick(1), pick(2)];
      return toSample(
        {
          id: `world-${d}-0`,
          source: "world",
          prompt: `USER: I liked ${seen!.title} and ${genre === 0 ? "rockets" : "horses"}`,
          seen_titles: [seen!.title],
          groundtruth_with_release_year: liked
            .filter((item) => item !== seen)
            .map((item) => [item.title, String(item.year)]),
        },
        d,
      );
    });
    return { samples, catalog: Catalog.from(titles) };
  };
  const hitsOf = (samples: readonly Sample[], lists: readonly (readonly Item[])[]): number =>
    samples.reduce(
      (sum, sample, i) =>
        sum +
        (sample.columns["groundtruth_with_release_year"] as string[][]).filter(([title]) =>
          lists[i]!.some((item) => item.title === title),
        ).length,
      0,
    );

  it("a row's own ground truth never shapes its list", async () => {
    const { samples, catalog } = world(60);
    const listsOf = async (given: readonly Sample[]): Promise<Item[][]> => {
      const taught = teachByNeighbors(given, given, catalog, 5, 20);
      const grounding = await Grounding.build(given, given, taught, catalog, {
        embedding: { kind: "cooccurrence" },
        folds: 3,
      });
      const remapped = await grounding.lists(5);
      grounding.dispose();
      return remapped;
    };
    const lists = await listsOf(samples);
    // another ground truth for row 7 alone: its own list stays, others' may not
    const changed = samples.map((sample, i) =>
      i === 7
        ? toSample(
            {
              ...sample.columns,
              groundtruth_with_release_year: [
                ["Western film 39", "2019"],
                ["Space film 19", "1999"],
              ],
            },
            7,
          )
        : sample,
    );
    const other = await listsOf(changed);
    expect(other[7]).toEqual(lists[7]);
    expect(other).not.toEqual(lists);
  });

  it("every list has the asked length, no repeat, no seen title, and is in the catalogue; the same seed gives the same bits", async () => {
    const { samples, catalog } = world(80);
    const run = async (): Promise<Item[][]> => {
      const grounding = await Grounding.build(
        samples,
        samples,
        teachByNeighbors(samples, samples, catalog, 10, 30),
        catalog,
        { embedding: { kind: "tfidf" }, folds: 4, seed: 3 },
      );
      await grounding.adjust({ biasDecay: 1 });
      const lists = await grounding.lists(10);
      grounding.dispose();
      return lists;
    };
    const lists = await run();
    lists.forEach((list, i) => {
      expect(list).toHaveLength(10);
      expect(new Set(list.map(formatItem)).size).toBe(10);
      for (const item of list) {
        expect(catalog.has(item)).toBe(true);
        expect(samples[i]!.columns["seen_titles"]).not.toContain(item.title);
      }
    });
    expect(await run()).toEqual(lists);
  });

  it("Adjust learns what is liked more than a teacher without taste says", async () => {
    const { samples, catalog } = world(400);
    const lists = samples.map((sample, d) => {
      const from = String(sample.prompt).includes("rockets") ? 0 : 20;
      return [...permutation(20, 1, Stream.demonstrate, d)].map((i) => catalog.items[from + i]!);
    });
    const grounding = await Grounding.build(samples, samples, lists, catalog, { embedding: { kind: "none" } });
    const before = hitsOf(samples, await grounding.lists(5));
    const adjustments = await grounding.adjust({ biasDecay: 1 });
    expect(adjustments).toHaveLength(6); // five folds and all feedback
    expect(hitsOf(samples, await grounding.lists(5))).toBeGreaterThan(1.3 * before);
    grounding.dispose();
  });

  it("two years of one movie never stand in one list; co-occurrence needs folds", async () => {
    const samples = [
      toSample({ id: "x-1-0", prompt: "USER: Solaris?", groundtruth_with_release_year: [["Heat", "1995"]] }, 0),
    ];
    const grounding = await Grounding.build(
      samples,
      samples,
      [
        [
          { title: "Solaris", year: 1972 },
          { title: "Solaris", year: 1973 },
        ],
      ],
      catalog,
      { embedding: { kind: "none" } },
    );
    expect((await grounding.lists(5)).map((list) => list.filter((item) => item.title === "Solaris"))).toEqual([
      [{ title: "Solaris", year: 1972 }],
    ]);
    grounding.dispose();
    await expect(
      Grounding.build(samples, samples, [[]], catalog, { embedding: { kind: "cooccurrence" }, folds: 1 }),
    ).rejects.toThrow("at least 2 folds");
  });

  it("reads metadata tables", async () => {
    const path = join(folder, "metadata.csv");
    writeFileSync(path, 'title,year,keywords,plot\nHeat,1995,"crime, heist",A thief.\n');
    const table = await MetadataTable.load(path);
    expect(table.text({ title: "heat", year: 1995 })).toBe("heat (1995)\nKeywords: crime, heist\nPlot: A thief.");
    expect(table.text({ title: "Fargo", year: 1996 })).toBe("Fargo (1996)");
    writeFileSync(path, "title,year\nHeat,soon\n");
    await expect(MetadataTable.load(path)).rejects.toMatchObject({ code: "BAD_DATA" });
  });

  it("whole runs on files: demonstrations for every row, stages kept, an adjustment used on other rows", async () => {
    const { samples, catalog } = world(100);
    const write = (name: string, rows: readonly Sample[]): string => {
      writeFileSync(join(folder, name), rows.map((sample) => `${JSON.stringify(sample.columns)}\n`).join(""));
      return join(folder, name);
    };
    const [train, rest] = [write("train.jsonl", samples.slice(0, 80)), write("rest.jsonl", samples.slice(80))];
    const items = join(folder, "catalog.tsv");
    writeFileSync(items, catalog.items.map(({ title, year }) => `${title}\t${year}\n`).join(""));
    const base = {
      data: train,
      feedback: train,
      catalog: items,
      teacher: "none" as const,
      embedding: { kind: "cooccurrence" as const },
      listLength: 5,
      neighbors: 20,
    };
    const first = await demonstrate({ ...base, output: join(folder, "sft.jsonl"), ablate: true });
    expect(first).toMatchObject({ rows: 80, kept: [], unreadable: { lists: 0 } });
    expect(first.effects.map((effect) => effect.stage)).toEqual(["popularity", "neighbour voting", "remap", "adjust"]);
    const rows = await readSamples(join(folder, "sft.jsonl"));
    expect(rows.map((row) => row.id)).toEqual(samples.slice(0, 80).map((sample) => sample.id));
    for (const row of rows) expect((row.completion as readonly Message[])[0]!.content.split("\n")).toHaveLength(5);

    const again = await demonstrate({ ...base, output: join(folder, "sft.jsonl"), overwrite: true });
    expect(again.kept).toEqual(["teach"]);
    const other = await demonstrate({ ...base, output: join(folder, "sft.jsonl"), overwrite: true, neighbors: 10 });
    expect(other.kept).toEqual([]);
    await expect(demonstrate({ ...base, output: join(folder, "sft.jsonl") })).rejects.toMatchObject({ code: "IO" });

    const adjustment = join(folder, "sft.jsonl.stages/adjustment.json");
    const used = await demonstrate({ ...base, data: rest, output: join(folder, "rest-sft.jsonl"), adjustment });
    expect(used.adjustments).toEqual([]);
    expect(readFileSync(join(folder, "rest-sft.jsonl"), "utf8").trim().split("\n")).toHaveLength(20);
  });

  it("any list of any samples is grounded without failing", async () => {
    const { catalog } = world(1);
    const item = fc.record({ title: fc.string({ maxLength: 12 }), year: fc.integer({ min: 1, max: 3000 }) });
    await fc.assert(
      fc.asyncProperty(fc.array(fc.array(item, { maxLength: 6 }), { minLength: 1, maxLength: 4 }), async (lists) => {
        const samples = lists.map((_, i) => toSample({ id: `f-${i}-0`, prompt: `USER: ${i}` }, i));
        const grounding = await Grounding.build(samples, samples, lists, catalog, {
          embedding: { kind: "tfidf" },
          folds: 2,
        });
        for (const list of await grounding.lists(20)) expect(list).toHaveLength(20);
        grounding.dispose();
      }),
      { numRuns: 25 },
    );
  });

  it.skipIf(!hasShared)(
    "ReDial without a teacher: beats popularity and the given demonstrations, and Adjust adds",
    async () => {
      const data = shared("data/unified/redial_train.jsonl");
      const { effects } = await demonstrate({
        data,
        feedback: data,
        catalog: shared("data/unified/catalog_redial.tsv"),
        output: join(folder, "redial.jsonl"),
        teacher: "none",
        embedding: { kind: "cooccurrence" },
        ablate: true,
      });
      const of = (stage: string) => effects.find((effect) => effect.stage === stage)!;
      const { metrics, gain } = of("adjust");
      expect(metrics["recall@20"]).toBeGreaterThan(2 * of("popularity").metrics["recall@20"]);
      expect(metrics["recall@20"]).toBeGreaterThan(0.164); // redial_sft.jsonl
      expect(metrics["ndcg@20"]).toBeGreaterThan(0.072);
      expect(metrics).toMatchObject({ in_catalog: 1, duplicates: 0, list_length: 20, unreadable_lines: 0 });
      expect(gain!.ndcg).toBeGreaterThan(gain!.stderr!); // over Remap, the same rows
      expect(gain!.ndcg).toBeGreaterThan(0);
    },
  );
});
