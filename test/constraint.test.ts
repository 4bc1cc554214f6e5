// Constrained lists against enumeration: every list of a small catalog is written out, and the engine's distribution, gradient, samples
// and searches are held against it; then properties over random catalogs, real tokenizers, and what is refused.
import { existsSync, mkdtempSync, readFileSync, rmSync, truncateSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import { afterAll, describe, expect, it } from "vitest";

import type { Sample } from "../src/data/sample.ts";
import { addon, type NativeBatch } from "../src/native.ts";
import { choices, forcedTokens, type Generated, Policy } from "../src/policy.ts";
import { Catalog } from "../src/ranking/catalog.ts";
import { CatalogConstraint, type ConstraintOptions } from "../src/ranking/constraint.ts";
import { scoreItems, searchLists } from "../src/ranking/items.ts";
import { formatItem, type Item, readList } from "../src/ranking/list.ts";
import { LineEncoder } from "../src/text/lines.ts";
import { loadTokenizer } from "../src/text/tokenizer.ts";
import { enumerate, reference, tinyPolicy, tinyShape, tinyTokenizer, titles } from "./lists.ts";
import { hasShared, shared } from "./shared.ts";

const folder = mkdtempSync(join(tmpdir(), "rank-grpo-constraint-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const stop = 1;
const prompt = Int32Array.from([5, 9, 3, 12, 4, 4, 7]);
const tokenizers = { plain: tinyTokenizer("plain"), joined: tinyTokenizer("joined"), loose: tinyTokenizer("loose") };
const kinds = ["plain", "joined", "loose"] as const;
const policies = {
  plain: await tinyPolicy(tokenizers.plain),
  joined: await tinyPolicy(tokenizers.joined),
  loose: await tinyPolicy(tokenizers.loose),
};
afterAll(() => {
  for (const policy of Object.values(policies)) policy.dispose();
});

const constrain = (
  kind: (typeof kinds)[number],
  items: readonly Item[],
  options: ConstraintOptions,
): Promise<CatalogConstraint> => CatalogConstraint.create(Catalog.from(items), tokenizers[kind], stop, options);
const linesOf = (kind: (typeof kinds)[number], items: readonly Item[]) =>
  items.map((item) => new LineEncoder(tokenizers[kind], stop).tokens(formatItem(item)));
const sample = (columns: Record<string, unknown> = {}): Sample =>
  ({ id: "row 3", index: 3, prompt: "a", columns }) as unknown as Sample;
/** Log-prob of every list. */
const listLogprobs = (lists: readonly { ids: readonly number[] }[], logprobs: Float32Array): number[] => {
  let at = 0;
  return lists.map(({ ids }) => {
    at += ids.length;
    return sum(logprobs.subarray(at - ids.length, at));
  });
};
const sum = (values: Iterable<number>): number => {
  let total = 0;
  for (const x of values) total += x;
  return total;
};
const same = (a: Generated | undefined, b: Generated | undefined): void => {
  expect([...a!.ids]).toEqual([...b!.ids]);
  expect(new Uint32Array(a!.logprobs.slice().buffer)).toEqual(new Uint32Array(b!.logprobs.slice().buffer));
  expect(a!.finish).toBe(b!.finish);
};
const ruleSets = [
  { length: 1 as const, excluded: [] },
  { length: 2 as const, excluded: [1] },
  { length: [1, 2] as const, excluded: [] },
  { length: [1, 3] as const, excluded: [0, 2, 5] },
  { length: [2, 9] as const, excluded: [1, 3, 4] }, // three are left: a list of three has to end
];

describe("the distribution", () => {
  for (const kind of kinds)
    for (const [n, { length, excluded }] of ruleSets.entries())
      it(`is the softmax over what enumeration allows (${kind}, rules ${n + 1})`, async () => {
        const constraint = await constrain(kind, titles, { length });
        const { lists, next } = enumerate(linesOf(kind, titles), constraint.rules, excluded);
        const within = constraint.excluding(excluded);
        const temperature = [0.7, 1, 1.6][n % 3]!;
        const groups = [{ prompt, completions: lists.map(({ ids }) => Int32Array.from(ids)) }];
        const got = await policies[kind].score(groups, { constraint: within, temperature, entropies: true });
        const wanted = await reference(policies[kind], prompt, next, temperature);
        const forced = forcedTokens(groups, within);
        const counts = choices(groups, within, 1000);
        let at = 0;
        let total = 0;
        for (const { ids } of lists) {
          let logprob = 0;
          for (const [t, id] of ids.entries()) {
            const set = wanted.get(ids.slice(0, t).join())!;
            expect(forced[at]).toBe(set.size === 1 ? 1 : 0);
            expect(counts[at]).toBe(set.size);
            if (set.size === 1) {
              expect(Object.is(got.logprobs[at], 0)).toBe(true);
              expect(Object.is(got.entropies![at], 0)).toBe(true);
            } else {
              expect(Math.abs(got.logprobs[at]! - set.get(id)!)).toBeLessThan(1e-5);
              const entropy = -sum([...set.values()].map((x) => Math.exp(x) * x));
              expect(Math.abs(got.entropies![at]! - entropy)).toBeLessThan(1e-5);
            }
            logprob += got.logprobs[at++]!;
          }
          total += Math.exp(logprob);
        }
        expect(Math.abs(total - 1)).toBeLessThan(1e-5);
      });

  it("has the gradient of that softmax, and none where a token has no alternative", async () => {
    for (const kind of kinds) {
      const tokenizer = tokenizers[kind];
      const native = await addon.NativePolicy.create(JSON.stringify(tinyShape(tokenizer.vocabSize)), {});
      await native.initialize(5, 0.3);
      const constraint = await constrain(kind, titles, { length: [1, 2] });
      const within = constraint.excluding([4]);
      const { lists, next } = enumerate(linesOf(kind, titles), constraint.rules, [4]);
      const list = lists.find(({ items }) => items.join() === "2,1")!;
      const slopes = list.ids.map((_, t) => Math.cos(3 * t) + 0.2);
      const batch = (completions: readonly (readonly number[])[]): NativeBatch => ({
        promptIds: prompt,
        promptOffsets: Int32Array.of(0, prompt.length),
        completionIds: Int32Array.from(completions.flat()),
        completionOffsets: Int32Array.from([
          0,
          ...completions.map((_, i) => sum(completions.slice(0, i + 1).map((c) => c.length))),
        ]),
        groupOffsets: Int32Array.of(0, completions.length),
      });
      const gradient = async (): Promise<number[][]> => {
        const all: number[][] = [];
        for (const name of native.describe().parameters) all.push([...(await native.getGradient(name))]);
        await native.zeroGradients();
        return all;
      };
      await native.backward(
        {
          ...batch([list.ids]),
          catalog: within.native,
          ...within.rules,
          excludedItems: Int32Array.of(4),
          excludedOffsets: Int32Array.of(0, 1),
        },
        Float32Array.from(slopes),
        undefined,
        { temperature: 1.3 },
      );
      const got = await gradient();
      // d log q(y) = d log p(y) - sum over the allowed of q(j) d log p(j): through the free distribution alone
      const wanted = await reference(policies[kind], prompt, next, 1.3);
      const completions: number[][] = [];
      const dlogprobs: number[] = [];
      for (const [t, id] of list.ids.entries())
        for (const [token, logprob] of wanted.get(list.ids.slice(0, t).join())!) {
          completions.push([...list.ids.slice(0, t), token]);
          dlogprobs.push(...new Array<number>(t).fill(0), slopes[t]! * ((token === id ? 1 : 0) - Math.exp(logprob)));
        }
      await native.backward(batch(completions), Float32Array.from(dlogprobs), undefined, { temperature: 1.3 });
      const free = await gradient();
      const norm = Math.sqrt(sum(free.flat().map((x) => x * x)));
      const difference = Math.sqrt(sum(got.flatMap((values, i) => values.map((x, j) => (x - free[i]![j]!) ** 2))));
      expect(norm).toBeGreaterThan(0.1);
      expect(difference / norm).toBeLessThan(2e-5);
      // slopes on forced tokens alone
      const forced = forcedTokens([{ prompt, completions: [Int32Array.from(list.ids)] }], within);
      expect(sum(forced)).toBeGreaterThan(3);
      await native.backward(
        {
          ...batch([list.ids]),
          catalog: within.native,
          ...within.rules,
          excludedItems: Int32Array.of(4),
          excludedOffsets: Int32Array.of(0, 1),
        },
        Float32Array.from(forced),
        Float32Array.from(forced),
        {},
      );
      expect((await gradient()).flat().every((x) => x === 0)).toBe(true);
      native.dispose();
    }
  });

  it("agrees with central differences of the list's log-prob", async () => {
    const kind = "joined";
    const native = await addon.NativePolicy.create(JSON.stringify(tinyShape(tokenizers[kind].vocabSize)), {});
    await native.initialize(9, 0.3);
    const constraint = await constrain(kind, titles, { length: 2 });
    const ids = Int32Array.from(enumerate(linesOf(kind, titles), constraint.rules).lists[7]!.ids);
    const batch: NativeBatch = {
      promptIds: prompt,
      promptOffsets: Int32Array.of(0, prompt.length),
      completionIds: ids,
      completionOffsets: Int32Array.of(0, ids.length),
      groupOffsets: Int32Array.of(0, 1),
      catalog: constraint.excluding([]).native,
      ...constraint.rules,
    };
    await native.backward(batch, new Float32Array(ids.length).fill(1), undefined, {});
    for (const name of native.describe().parameters) {
      const gradient = await native.getGradient(name);
      const weights = await native.getParameter(name);
      // along the gradient itself: the largest slope, far above what f32 rounds
      const norm = Math.sqrt(sum(gradient.map((x) => x * x)));
      const step = 0.02 / Math.max(norm, 1);
      const at = async (h: number): Promise<number> => {
        await native.setParameter(
          name,
          weights.map((w, i) => w + (h * gradient[i]!) / norm),
        );
        return sum((await native.score(batch, {})).logprobs);
      };
      const slope = ((await at(step)) - (await at(-step))) / (2 * step);
      await native.setParameter(name, weights);
      if (norm > 0.05) expect(Math.abs(slope / norm - 1), name).toBeLessThan(0.02);
    }
    native.dispose();
  });
});

describe("sampling", () => {
  it("draws lists as often as their probability says (chi-square)", async () => {
    for (const [kind, length, excluded] of [
      ["plain", [1, 2], [0, 3]],
      ["joined", 2, [5]],
      ["loose", [1, 2], [4, 5]],
    ] as const) {
      const constraint = await constrain(kind, titles, { length });
      const within = constraint.excluding(excluded);
      const { lists } = enumerate(linesOf(kind, titles), constraint.rules, excluded);
      const scores = await policies[kind].score(
        [{ prompt, completions: lists.map(({ ids }) => Int32Array.from(ids)) }],
        { constraint: within, temperature: 1.5 },
      );
      const probabilities = listLogprobs(lists, scores.logprobs).map(Math.exp);
      const count = 6000;
      const [drawn] = await policies[kind].generate([prompt], {
        groupSize: count,
        maxRows: 512,
        maxNewTokens: 60,
        temperature: 1.5,
        constraint: within,
        seed: 21,
      });
      const places = new Map(lists.map(({ ids }, i) => [ids.join(), i]));
      const seen = new Array<number>(lists.length).fill(0);
      for (const { ids } of drawn!) seen[places.get(ids.join())!]!++;
      // rare lists in one bin
      let statistic = 0;
      let bins = 0;
      let [rareSeen, rareWanted] = [0, 0];
      for (const [i, p] of probabilities.entries()) {
        if (p * count < 8) {
          rareSeen += seen[i]!;
          rareWanted += p * count;
          continue;
        }
        statistic += (seen[i]! - p * count) ** 2 / (p * count);
        bins++;
      }
      if (rareWanted > 8) {
        statistic += (rareSeen - rareWanted) ** 2 / rareWanted;
        bins++;
      }
      expect(bins).toBeGreaterThan(4);
      // mean k - 1, deviation sqrt(2 (k - 1)): four deviations, with a fixed seed
      expect(statistic).toBeLessThan(bins - 1 + 4 * Math.sqrt(2 * (bins - 1)));
    }
  });

  for (const compute of ["f32", "bf16"] as const)
    it(`has the scorer's and the trainer's bits in every batch (${compute})`, async () => {
      for (const kind of kinds) {
        const policy = await tinyPolicy(tokenizers[kind], { compute });
        const constraint = await constrain(kind, titles, { length: [2, 4] });
        const prompts = [
          prompt,
          Int32Array.of(3),
          Int32Array.from({ length: 40 }, (_, i) => 2 + ((7 * i) % 20)),
          prompt.slice(2),
        ];
        const excluded = [[], [1], [2, 4], [0]];
        const within = { ...constraint.excluding([]), excluded };
        const options = {
          groupSize: 5,
          maxNewTokens: 70,
          temperature: 0.9,
          seed: 4,
          step: 2,
          promptKeys: [10, 11, 12, 13],
        };
        const together = await policy.generate(prompts, { ...options, constraint: within });
        for (const maxRows of [1, 3, 7])
          for (const [p, group] of (
            await policy.generate(prompts, { ...options, maxRows, constraint: within })
          ).entries())
            for (const [g, one] of group.entries()) same(one, together[p]![g]);
        const order = [2, 0, 3, 1];
        const permuted = await policy.generate(
          order.map((p) => prompts[p]!),
          {
            ...options,
            promptKeys: order.map((p) => 10 + p),
            constraint: { ...within, excluded: order.map((p) => excluded[p]!) },
          },
        );
        for (const [i, p] of order.entries()) for (const [g, one] of permuted[i]!.entries()) same(one, together[p]![g]);
        const [alone] = await policy.generate([prompts[2]!], {
          ...options,
          promptKeys: [12],
          constraint: constraint.excluding([2, 4]),
        });
        for (const [g, one] of alone!.entries()) same(one, together[2]![g]);

        const groups = prompts.map((ids, p) => ({ prompt: ids, completions: together[p]!.map((one) => one.ids) }));
        const sampled = together.flat().flatMap((one) => [...one.logprobs]);
        for (const microBatchTokens of [1, 60, 4096]) {
          const forward = { temperature: 0.9, microBatchTokens, constraint: within };
          expect([...(await policy.score(groups, forward)).logprobs]).toEqual(sampled);
          expect([...(await policy.backward(groups, new Float32Array(sampled.length), forward)).logprobs]).toEqual(
            sampled,
          );
        }
        expect(sampled.some((x) => x < -0.5)).toBe(true);
        policy.dispose();
      }
    });

  it("samples from the weights as they are now, also where another policy samples in between", async () => {
    for (const compute of ["f32", "bf16"] as const) {
      const pair = [
        await tinyPolicy(tokenizers.plain, { compute }),
        await tinyPolicy(tokenizers.plain, { compute, seed: 6 }),
      ];
      const constraint = (await constrain("plain", titles, { length: 3 })).excluding([]);
      for (let round = 0; round < 3; round++)
        for (const policy of pair) {
          // few rows a step in the sampler, many at once in the scorer, which shares nothing with earlier calls
          const [lists] = await policy.generate([prompt], { groupSize: 40, maxNewTokens: 70, seed: 3, constraint });
          const groups = [{ prompt, completions: lists!.map(({ ids }) => ids) }];
          const { logprobs } = await policy.score(groups, { constraint });
          expect(logprobs.length - sum(forcedTokens(groups, constraint))).toBeGreaterThan(64);
          expect(lists!.flatMap((list) => [...list.logprobs])).toEqual([...logprobs]);
          for (const name of policy.parameterNames)
            await policy.setParameter(
              name,
              (await policy.parameter(name)).map((x, i) => x * (1 + 0.3 * Math.sin(i))),
            );
        }
      for (const policy of pair) policy.dispose();
    }
  });

  it("stops inside a list at the token limit, with the trainer's bits", async () => {
    const constraint = await constrain("plain", titles, { length: 4 });
    const within = constraint.excluding([]);
    for (const maxNewTokens of [1, 2, 5, 11, 19]) {
      const [group] = await policies.plain.generate([prompt], {
        groupSize: 6,
        maxNewTokens,
        constraint: within,
        seed: 8,
      });
      for (const { ids, logprobs, finish } of group!) {
        expect(finish).toBe("length");
        expect(ids.length).toBe(maxNewTokens);
        expect([
          ...(await policies.plain.score([{ prompt, completions: [ids] }], { constraint: within })).logprobs,
        ]).toEqual([...logprobs]);
      }
    }
  });

  it("keeps top-k, top-p, min-p and greedy inside the allowed tokens", async () => {
    const constraint = await constrain("joined", titles, { length: 3 });
    const within = constraint.excluding([1]);
    for (const options of [{ topK: 1 }, { topK: 2 }, { topP: 0.3 }, { minP: 0.4 }, { greedy: true }]) {
      const [group] = await policies.joined.generate([prompt], {
        ...options,
        groupSize: 4,
        maxNewTokens: 60,
        constraint: within,
        seed: 1,
      });
      for (const { ids, finish } of group!) {
        expect(finish).toBe("stop");
        expect(readList(tokenizers.joined.decode(ids)).length).toBe(3);
      }
    }
    const [best] = await policies.joined.generate([prompt], { greedy: true, maxNewTokens: 60, constraint: within });
    const [first] = await policies.joined.generate([prompt], {
      topK: 1,
      seed: 99,
      maxNewTokens: 60,
      constraint: within,
    });
    same(best![0], first![0]);
  });
});

interface PeerCase {
  model: string;
  lines: number[][];
  prompt: number[];
  excluded: number[];
  temperature: number;
  greedy: { ids: number[]; logprobs: number[] };
  sampled: { ids: number[]; logprobs: number[] }[];
  top: { items: number[]; logprobs: number[] };
}

describe.skipIf(!hasShared)("transformers with prefix_allowed_tokens_fn (test/peers/constraint.py)", () => {
  const recorded = JSON.parse(readFileSync(new URL("fixtures/constraint.json", import.meta.url), "utf8")) as {
    newline: number;
    stop: number;
    length: number;
    cases: PeerCase[];
  };
  for (const { model, lines, prompt: ids, excluded, temperature, greedy, sampled, top } of recorded.cases)
    it(`${model}: greedy and drawn lists have the same log-probs, beams the same items`, async () => {
      const ragged = (end: number): [Int32Array, Int32Array] => [
        Int32Array.from([0, ...lines.map((_, i) => sum(lines.slice(0, i + 1).map((line) => line.length + 1)))]),
        Int32Array.from(lines.flatMap((line) => [...line, end])),
      ];
      const [lineOffsets, lineTokens] = ragged(recorded.newline);
      const [lastOffsets, lastTokens] = ragged(recorded.stop);
      const names = lines.map((line) => line.join());
      const native = await addon.NativeCatalog.build({ names, lineOffsets, lineTokens, lastOffsets, lastTokens });
      const policy = await Policy.load(shared(`models/tiny/${model}`), { trainable: false });
      const within = { native, rules: { least: recorded.length, most: recorded.length }, excluded: [excluded] };
      const question = Int32Array.from(ids);
      const near = (got: ArrayLike<number>, wanted: readonly number[]): void => {
        expect(got.length).toBe(wanted.length);
        for (const [t, x] of wanted.entries()) expect(Math.abs(got[t]! - x)).toBeLessThan(1e-5);
      };
      const [[best]] = (await policy.generate([question], { greedy: true, maxNewTokens: 60, constraint: within })) as [
        [Generated],
      ];
      expect([...best.ids]).toEqual(greedy.ids);
      near(best.logprobs, greedy.logprobs);
      for (const { ids, logprobs } of sampled) {
        const groups = [{ prompt: question, completions: [Int32Array.from(ids)] }];
        near((await policy.score(groups, { temperature, constraint: within })).logprobs, logprobs);
      }
      const found = await policy.recommend(question, within, { top: top.items.length, last: true });
      expect([...found.items]).toEqual(top.items);
      near(found.logprobs, top.logprobs);
      policy.dispose();
    });
});

describe("properties", () => {
  const titleText = fc.string({ unit: fc.constantFrom("a", "b", "c", " ", "(", ")"), minLength: 1, maxLength: 5 });
  const item = fc.record({ title: titleText, year: fc.constantFrom(1999, 2000, 2001, 2010) });
  const readable = (items: readonly Item[]): Item[] =>
    Catalog.from(items).items.filter((one) => {
      const [slot, ...rest] = readList(formatItem(one));
      return rest.length === 0 && slot?.title === one.title && slot.year === one.year;
    });

  it("nothing off the catalog, nothing excluded, nothing twice, the right length, in every batch", async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.constantFrom(...kinds),
        fc.array(item, { minLength: 1, maxLength: 14 }),
        fc.infiniteStream(fc.nat(1000)),
        fc.boolean(),
        fc.constantFrom(0.3, 1, 3),
        fc.nat(1000),
        async (kind, drawn, numbers, repeats, temperature, seed) => {
          const items = readable(drawn);
          fc.pre(items.length > 0);
          const pick = (n: number): number => numbers.next().value! % n;
          const least = 1 + pick(repeats ? 3 : items.length);
          const most = least + pick(3);
          const constraint = await constrain(kind, items, {
            length: [least, most],
            exclude: repeats ? [] : ["repeated"],
          });
          const spare = items.length - (repeats ? 1 : least);
          const excluded = [0, 1, 2].map(() => [
            ...new Set(Array.from({ length: pick(spare + 1) }, () => pick(items.length))),
          ]);
          const prompts = [prompt, prompt.slice(3), Int32Array.of(4, 5)];
          const options = { groupSize: 3, maxNewTokens: 90, temperature, seed, promptKeys: [0, 1, 2] };
          const within = { ...constraint.excluding([]), excluded };
          const groups = await policies[kind].generate(prompts, {
            ...options,
            maxRows: 1 + pick(9),
            constraint: within,
          });
          const numbered = new Map(items.map((one, i) => [formatItem(one), i]));
          for (const [p, group] of groups.entries())
            for (const { ids, finish } of group) {
              const text = tokenizers[kind].decode(ids);
              if (finish === "length") continue; // cut: its last line may be part of one
              expect(ids.at(-1)).toBe(stop);
              const list = text.split("\n").map((line) => numbered.get(line));
              expect(list).not.toContain(undefined);
              expect(list.some((i) => excluded[p]!.includes(i!))).toBe(false);
              if (!repeats) expect(new Set(list).size).toBe(list.length);
              const longest = repeats ? most : Math.min(most, items.length - excluded[p]!.length);
              expect(list.length).toBeGreaterThanOrEqual(least);
              expect(list.length).toBeLessThanOrEqual(longest);
            }
          const p = pick(3);
          const [alone] = await policies[kind].generate([prompts[p]!], {
            ...options,
            promptKeys: [p],
            constraint: constraint.excluding(excluded[p]!),
          });
          for (const [g, one] of alone!.entries()) same(one, groups[p]![g]);
          const scored = await policies[kind].score(
            groups.map((group, q) => ({ prompt: prompts[q]!, completions: group.map((one) => one.ids) })),
            { temperature, constraint: within },
          );
          expect([...scored.logprobs]).toEqual(groups.flat().flatMap((one) => [...one.logprobs]));
        },
      ),
      { numRuns: 60, seed: 7 },
    );
  });

  it("search is what scoring every item gives", async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.constantFrom(...kinds),
        fc.array(item, { minLength: 1, maxLength: 20 }),
        fc.nat(20),
        fc.constantFrom(1, 2, 7, 64),
        fc.boolean(),
        async (kind, drawn, closed, branches, last) => {
          const items = readable(drawn);
          fc.pre(items.length > closed);
          const constraint = await constrain(kind, items, { length: 1 });
          const excluded = Array.from({ length: closed }, (_, i) => (i * 7) % items.length);
          const open = items.map((_, i) => i).filter((i) => !excluded.includes(i));
          const within = constraint.excluding([...new Set(excluded)]);
          const options = { temperature: 1.2, last };
          const found = await policies[kind].recommend(prompt, within, { ...options, top: open.length, branches });
          const scores = await scoreItems(
            policies[kind],
            prompt,
            open.map((i) => items[i]!),
            {
              constraint: within,
              temperature: 1.2,
              end: last ? "stop" : "newline",
            },
          );
          const byItem = new Map(open.map((i, at) => [i, scores[at]!]));
          expect([...found.items].sort((a, b) => a - b)).toEqual(open);
          for (const [i, number] of found.items.entries()) {
            expect(found.logprobs[i]).toBe(Math.fround(byItem.get(number)!));
            if (i > 0) expect(byItem.get(found.items[i - 1]!)!).toBeGreaterThanOrEqual(byItem.get(number)!);
          }
          const few = await policies[kind].recommend(prompt, within, {
            ...options,
            top: Math.min(3, open.length),
            branches: 3,
          });
          expect([...few.items]).toEqual([...found.items.slice(0, few.items.length)]);
          expect(Math.abs(sum([...found.logprobs].map(Math.exp)) - 1)).toBeLessThan(1e-5);
        },
      ),
      { numRuns: 60, seed: 3 },
    );
  });
});

describe("items and lists", () => {
  it("scores free items as the model does", async () => {
    const items = titles.slice(0, 4);
    for (const end of ["newline", "stop"] as const) {
      const got = await scoreItems(policies.joined, prompt, items, { end, temperature: 0.8 });
      for (const [i, item] of items.entries()) {
        const { line, last } = new LineEncoder(tokenizers.joined, stop).tokens(formatItem(item));
        const completions = [Int32Array.from(end === "stop" ? last : line)];
        expect(got[i]).toBe(
          sum((await policies.joined.score([{ prompt, completions }], { temperature: 0.8 })).logprobs),
        );
      }
    }
    expect((await scoreItems(policies.joined, prompt, [])).length).toBe(0);
    const constraint = await constrain("joined", titles, { length: 1 });
    await expect(
      scoreItems(policies.joined, prompt, [{ title: "cc", year: 2000 }], { constraint: constraint.excluding([]) }),
    ).rejects.toThrow(/catalog allows at position/);
    await expect(
      scoreItems(policies.joined, prompt, [titles[1]!], { constraint: constraint.excluding([1]) }),
    ).rejects.toThrow(/catalog allows at position/);
  });

  it("finds the most probable lists where beams hold them all", async () => {
    for (const kind of kinds) {
      const constraint = await constrain(kind, titles, { length: 3 });
      const { lists } = enumerate(linesOf(kind, titles), constraint.rules, [2]);
      const within = constraint.excluding([2]);
      const { logprobs } = await policies[kind].score(
        [{ prompt, completions: lists.map(({ ids }) => Int32Array.from(ids)) }],
        { constraint: within },
      );
      const sums = listLogprobs(lists, logprobs);
      const all = lists.map(({ items }, i) => ({ items, logprob: sums[i]! })).sort((a, b) => b.logprob - a.logprob);
      const found = await searchLists(policies[kind], prompt, constraint, [2], { beams: 60 });
      expect(found.length).toBe(60);
      for (const [i, { items, logprob }] of found.slice(0, 10).entries()) {
        expect(items).toEqual(all[i]!.items);
        expect(Math.abs(logprob - all[i]!.logprob)).toBeLessThan(1e-5);
      }
      const [greedy] = await searchLists(policies[kind], prompt, constraint, [2], { beams: 1 });
      const [first] = (await policies[kind].recommend(prompt, within, { top: 1 })).items;
      expect(greedy!.items[0]).toBe(first);
    }
    const ranged = await constrain("plain", titles, { length: [1, 2] });
    await expect(searchLists(policies.plain, prompt, ranged, [], { beams: 2 })).rejects.toThrow(/lists of one length/);
  });
});

describe.skipIf(!hasShared)("real tokenizers", () => {
  const catalogs = ["redial", "reddit_v2"] as const;
  for (const path of ["tokenizers/qwen2_5_derived", "tokenizers/llama3_1", "models/smollm2-135m-instruct"])
    it(`${path}: every list decodes to catalog lines, and is tokenised as the tokenizer writes it`, async () => {
      const tokenizer = (await loadTokenizer(shared(path)))!;
      const stopId = tokenizer.eosId!;
      const policy = await Policy.create(
        { ...tinyShape(tokenizer.vocabSize), hidden_size: 8, num_attention_heads: 1, max_position_embeddings: 512 },
        { seed: 2, std: 0.5, trainable: false, tokenizer },
      );
      for (const name of catalogs) {
        const all = await Catalog.load(shared(`data/unified/catalog_${name}.tsv`));
        const constraint = await CatalogConstraint.create(Catalog.from(all.items.slice(0, 1500)), tokenizer, stopId, {
          length: [4, 6],
          unreadable: "skip",
        });
        const known = new Set(constraint.items.map(formatItem));
        const seen = constraint.items[0]!.title;
        const within = constraint.forSamples([sample({ seen_titles: [seen] })]);
        const [group] = await policy.generate([prompt], {
          groupSize: 12,
          maxNewTokens: 400,
          constraint: within,
          seed: 3,
        });
        for (const { ids, finish, logprobs } of group!) {
          expect(finish).toBe("stop");
          const text = tokenizer.decode(ids);
          const lines = text.split("\n");
          expect(lines.length >= 4 && lines.length <= 6 && new Set(lines).size === lines.length).toBe(true);
          for (const line of lines) expect(known.has(line) && !line.startsWith(`${seen} (`), line).toBe(true);
          expect([...ids]).toEqual([...tokenizer.encode(text), stopId]);
          expect([...(await policy.score([{ prompt, completions: [ids] }], { constraint: within })).logprobs]).toEqual([
            ...logprobs,
          ]);
        }
      }
      policy.dispose();
    });

  it("finds as many tokens and choices in Reddit-v2's catalog as were counted before", async () => {
    const tokenizer = (await loadTokenizer(shared("models/smollm2-135m-instruct")))!;
    const all = await Catalog.load(shared("data/unified/catalog_reddit_v2.tsv"));
    const constraint = await CatalogConstraint.create(all, tokenizer, tokenizer.eosId!, {
      length: 1,
      unreadable: "skip",
    });
    expect(constraint.items.length).toBe(7403);
    const completions = constraint.items.map((_, i) => Int32Array.from(constraint.lineOf(i)));
    const within = { ...constraint.excluding([]), rules: { least: 2, most: 2, repeats: true } };
    const forced = forcedTokens([{ prompt, completions }], within);
    expect((forced.length / completions.length).toFixed(1)).toBe("11.1"); // experiments.md, section 2
    expect(((forced.length - sum(forced)) / completions.length).toFixed(1)).toBe("2.5");
    expect(constraint.bytes / constraint.tokens).toBeLessThan(7);
  });
});

describe("what is refused", () => {
  it("names the items of one tokenisation, the title that is not read back, and the row that excludes too much", async () => {
    const options = { length: 2 };
    await expect(constrain("plain", [], options)).rejects.toMatchObject({ code: "BAD_DATA" });
    // a and A are one token for this tokenizer: what it cannot write, it writes as <pad>
    await expect(constrain("plain", [{ title: "aX", year: 2001 }, ...titles], options)).rejects.toThrow(
      /reads back unchanged.*aX/,
    );
    await expect(constrain("plain", [...titles, { title: "a.", year: 201 }], options)).rejects.toThrow(
      /item 7.*a\. \(201\)/,
    );
    await expect(constrain("plain", [...titles, { title: "(a)", year: 2010 }], options)).rejects.toThrow(/item 7/);
    const skipped = await constrain("plain", [...titles, { title: "(a)", year: 2010 }], {
      ...options,
      unreadable: "skip",
    });
    expect(skipped.items.length).toBe(titles.length);
    const twins = CatalogConstraint.create(Catalog.from(titles.slice(0, 2)), tokenizers.plain, stop, {
      length: 1,
      line: () => "a (2001)",
    });
    await expect(twins).rejects.toThrow(/"a \(2001\)" and "a \(2001\)"/);
    const lines = { length: 1, line: (item: Item) => `${item.title}\n` };
    await expect(constrain("plain", titles.slice(0, 2), lines)).rejects.toThrow(/one line of text/);
    await expect(constrain("plain", titles, { length: [3, 2] })).rejects.toThrow(/least <= most/);
    await expect(constrain("plain", titles, { length: 0 })).rejects.toThrow(/whole number from 1/);

    const constraint = await constrain("plain", titles, { length: 4, excludeColumn: "gone" });
    expect(constraint.forSamples([sample({ seen_titles: ["ab"], gone: [] })]).excluded).toEqual([[1, 2]]);
    expect(constraint.forSamples([sample({ gone: [["b", 2010], "a", ["unknown", 2000]] })]).excluded).toEqual([[0, 4]]);
    const tooMuch = sample({ seen_titles: ["ab"], gone: ["b"] });
    expect(() => constraint.forSamples([tooMuch])).toThrow(/at least 4 items after exclusions for sample row 3, got 3/);
    expect(() => constraint.forSamples([sample({ gone: 5 })])).toThrow(/gone of sample row 3/);
    for (const entry of [7, ["b"], ["b", null], ["b", "in 2010"]])
      expect(() => constraint.forSamples([sample({ gone: [entry] })])).toThrow(/gone of sample row 3/);
    constraint.check([sample({}), sample({ gone: ["b"] })]);
    expect(() => constraint.check([sample({}), sample({ gnoe: ["b"] })])).toThrow(
      /a column that some sample has for excludeColumn, got "gone"/,
    );
    expect(() => constraint.check([sample({ gone: [] }), tooMuch])).toThrow(/at least 4 items after exclusions/);
    const native = { ...constraint.excluding([]), excluded: [[0, 1, 2]] };
    await expect(policies.plain.generate([prompt], { constraint: native })).rejects.toThrow(
      /4 items after exclusions for prompt 0, got 3/,
    );
    await expect(policies.plain.generate([prompt], { constraint: { ...native, excluded: [[99]] } })).rejects.toThrow(
      /items from 0 to 5/,
    );
    await expect(policies.plain.generate([prompt], { constraint: { ...native, excluded: [] } })).rejects.toThrow(
      /1 sets of excluded items/,
    );
    const wrong = { prompt, completions: [Int32Array.of(2, 2, 2)] };
    await expect(policies.plain.score([wrong], { constraint: constraint.excluding([]) })).rejects.toMatchObject({
      code: "INVALID_ARGUMENT",
    });
    await expect(policies.plain.recommend(prompt, constraint.excluding([0]), { top: 6 })).rejects.toThrow(
      /from 1 to 5/,
    );
  });

  it("a model whose vocabulary is smaller than the catalog's tokens", async () => {
    const small = await Policy.create(tinyShape(12), { seed: 1, trainable: false });
    const constraint = await constrain("plain", titles, { length: 1 });
    const within = constraint.excluding([]);
    await expect(small.generate([Int32Array.of(3)], { constraint: within })).rejects.toThrow(/token ids below 12/);
    await expect(small.recommend(Int32Array.of(3), within, { top: 1 })).rejects.toThrow(/token ids below 12/);
    small.dispose();
  });

  it.skipIf(!hasShared)("a tokenizer that writes a line differently at the start of a list", async () => {
    const tokenizer = (await loadTokenizer(shared("models/stories260K/hf")))!;
    await expect(CatalogConstraint.create(Catalog.from(titles), tokenizer, 2, { length: 1 })).rejects.toThrow(
      /alike at the start of a list/,
    );
  });

  it("a cache of another catalog or tokenizer, and a torn or changed one; what is written is opened", async () => {
    const cache = join(folder, "titles.cache");
    const options = { length: 2, cache };
    await constrain("plain", titles, options);
    expect(existsSync(cache)).toBe(true);
    const bytes = readFileSync(cache);
    const constraint = await constrain("plain", titles, options);
    const request = { maxNewTokens: 60, seed: 6, groupSize: 4 };
    const fresh = await constrain("plain", titles, { length: 2 });
    const [opened] = await policies.plain.generate([prompt], { ...request, constraint: constraint.excluding([1]) });
    const [built] = await policies.plain.generate([prompt], { ...request, constraint: fresh.excluding([1]) });
    for (const [g, one] of opened!.entries()) same(one, built![g]);
    await expect(constrain("joined", titles, options)).rejects.toMatchObject({ code: "BAD_CHECKPOINT" });
    await expect(constrain("plain", titles.slice(1), options)).rejects.toThrow(/catalog and tokenizer/);
    truncateSync(cache, bytes.length - 8);
    await expect(constrain("plain", titles, options)).rejects.toMatchObject({ code: "BAD_CHECKPOINT" });
    const changed = Buffer.from(bytes);
    changed[bytes.length >> 1]! ^= 4;
    writeFileSync(cache, changed);
    await expect(constrain("plain", titles, options)).rejects.toThrow(/changed or torn/);
    writeFileSync(cache, "");
    await expect(constrain("plain", titles, options)).rejects.toMatchObject({ code: "BAD_CHECKPOINT" });
  });
});
