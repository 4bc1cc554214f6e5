// Baselines: what a small training file must give, and the known figures on the whole ReDial test set.
import { readFileSync } from "node:fs";
import fc from "fast-check";
import { describe, expect, it } from "vitest";

import type { Content, Sample } from "../src/data/sample.ts";
import { cooccurrenceLists, mixedLists, neighborLists, popularityLists } from "../src/ranking/baselines.ts";
import { Catalog } from "../src/ranking/catalog.ts";
import type { Item } from "../src/ranking/list.ts";
import { dialogueOf, measureLists } from "../src/ranking/metrics.ts";
import { groundTruths, seenTitles } from "../src/ranking/rewards.ts";
import { hasShared, shared } from "./shared.ts";

let index = 0;
const sample = (id: string, prompt: Content, truths: [string, unknown][] = [], seen: string[] = []): Sample => ({
  index: index++,
  id,
  prompt,
  columns: { groundtruth_with_release_year: truths, seen_titles: seen },
});
const user = (content: string) => [{ role: "user", content }];
const titles = (lists: Item[][]): string[][] => lists.map((list) => list.map((item) => item.title));

const catalog = Catalog.from(["Alien", "Big", "Coco", "Dune", "Elf"].map((title) => ({ title, year: 2000 })));
const train = [
  sample("t-1-1", user("List movies. I love scary space monsters"), [["Alien", "2000"]]),
  sample("t-2-1", user("List movies. Scary sand monsters please"), [
    ["Dune", 2000],
    ["Alien", 2000],
    ["Unknown", 2000],
  ]),
  sample("t-3-1", user("List movies. A funny christmas"), [
    ["Elf", 2000],
    ["Elf", 1980],
  ]),
  sample("t-4-1", user("List movies. Something funny for children"), [
    ["Coco", 2000],
    ["Elf", 2000],
  ]),
  sample("t-5-1", user("List movies. Something funny to laugh"), [["Elf", 2000]]),
];

describe("popularityLists", () => {
  it("ranks by votes, ties in catalogue order, without seen titles and items outside the catalogue", () => {
    const queries = [sample("q-1-1", user("anything")), sample("q-2-1", user("anything"), [], ["Elf", "Dune"])];
    expect(titles(popularityLists(train, queries, catalog, 3))).toEqual([
      ["Elf", "Alien", "Coco"],
      ["Alien", "Coco"],
    ]);
  });
  it("leaves out the votes of the sample's own dialogue", () => {
    const own = [
      sample("t-3-9", user("anything")),
      sample("t-2-9", user("anything")),
      sample("q-1-1", user("anything")),
    ];
    const before = titles(popularityLists(train, own, catalog, 4));
    expect(before).toEqual([
      ["Alien", "Elf", "Coco", "Dune"],
      ["Elf", "Alien", "Coco"],
      ["Elf", "Alien", "Coco", "Dune"],
    ]);
    expect(titles(popularityLists(train, own.toReversed(), catalog, 4))).toEqual(before.toReversed());
  });
});

describe("neighborLists", () => {
  it("lets the nearest dialogues vote first and fills up by popularity", () => {
    const query = sample("q-1-1", user("List movies. Scary sand worms"));
    expect(titles(neighborLists(train, [query], catalog, 5, { neighbors: 1 }))).toEqual([
      ["Alien", "Dune", "Elf", "Coco"],
    ]);
    expect(titles(neighborLists(train, [query], catalog, 2, { neighbors: 2 }))).toEqual([["Alien", "Dune"]]);
  });
  it("leaves out seen titles and the sample's own dialogue", () => {
    const seen = sample("q-1-1", user("List movies. Scary sand worms"), [], ["Alien"]);
    expect(titles(neighborLists(train, [seen], catalog, 1))).toEqual([["Dune"]]);
    const own = sample("t-2-5", user("List movies. Scary sand worms"));
    expect(titles(neighborLists(train, [own], catalog, 2, { neighbors: 1 }))).toEqual([["Alien", "Elf"]]);
  });
  it("falls back to popularity where no word is shared, and gives nothing from nothing", () => {
    const query = sample("q-1-1", user("List movies. Xyzzy"));
    expect(neighborLists(train, [query], catalog, 4)).toEqual(popularityLists(train, [query], catalog, 4));
    expect(neighborLists([], [query], catalog, 4)).toEqual([[]]);
    expect(neighborLists(train, [], catalog, 4)).toEqual([]);
  });
  it("compares prompts of token ids by their ids, and texts by their words whatever their case", () => {
    const coded = [
      sample("i-1-1", Int32Array.of(7, 8, 9), [["Big", 2000]]),
      sample("i-2-1", Int32Array.of(7, 1, 2), [["Coco", 2000]]),
    ];
    expect(titles(neighborLists(coded, [sample("q-1-1", Int32Array.of(1, 7))], catalog, 1))).toEqual([["Coco"]]);
    const query = (prompt: Content) => titles(neighborLists(train, [sample("q-1-1", prompt)], catalog, 3));
    expect(query("SCARY sand!")).toEqual(query(user("scary, Sand")));
  });
  it("does not depend on the other samples, and orders neighbours as a plain TF-IDF does", () => {
    const words = fc.array(fc.constantFrom("a", "b", "c", "d", "e", "f"), { minLength: 1, maxLength: 8 });
    fc.assert(
      fc.property(
        fc.array(words, { minLength: 1, maxLength: 8 }),
        words,
        fc.integer({ min: 1, max: 9 }),
        (texts, text, k) => {
          const docs = texts.map((doc, i) => sample(`t-${i}-1`, doc.join(" "), [[catalog.items[i % 5]!.title, 2000]]));
          const vector = (doc: string[]) =>
            ["a", "b", "c", "d", "e", "f"].map((word) => {
              const count = doc.filter((other) => other === word).length;
              const idf = Math.log(
                (texts.length + 1) / (texts.filter((other) => other.some((term) => term === word)).length + 1),
              );
              return count === 0 ? 0 : (1 + Math.log(count)) * idf;
            });
          const dot = (x: number[], y: number[]) => x.reduce((sum, value, i) => sum + value * y[i]!, 0);
          const similarity = texts.map((doc) => {
            const norm = Math.sqrt(dot(vector(doc), vector(doc)));
            return norm === 0 ? 0 : dot(vector(text), vector(doc)) / norm;
          });
          const near = [...texts.keys()]
            .filter((i) => similarity[i]! > 0)
            .sort((x, y) => similarity[y]! - similarity[x]!);
          // similarities that differ by rounding alone have no order
          fc.pre(near.every((i, rank) => rank === 0 || similarity[near[rank - 1]!]! - similarity[i]! > 1e-9));
          const score = new Map<number, number>();
          for (const i of near.slice(0, k)) score.set(i % 5, (score.get(i % 5) ?? 0) + similarity[i]!);
          const scores = [...score.values()].sort((x, y) => y - x);
          fc.pre(scores.every((value, rank) => rank === 0 || scores[rank - 1]! - value > 1e-9));
          const want = [...score.keys()]
            .sort((x, y) => score.get(y)! - score.get(x)!)
            .map((i) => catalog.items[i]!.title);
          const query = sample("q-1-1", text.join(" "));
          const other = sample("q-2-1", "a b");
          const [, got] = titles(neighborLists(docs, [other, query], catalog, 5, { neighbors: k }));
          expect(got!.slice(0, want.length)).toEqual(want);
        },
      ),
    );
  });
  it.each([0, 1.5, Number.NaN])("refuses %s neighbours", (neighbors) => {
    expect(() => neighborLists(train, [], catalog, 5, { neighbors })).toThrow(
      expect.objectContaining({ code: "INVALID_ARGUMENT" }),
    );
  });
});

describe("cooccurrenceLists", () => {
  const named = [
    sample("t-1-1", user("one"), [["Big", 2000]], ["Alien"]),
    sample("t-2-1", user("two"), [["Coco", 2000]], ["Alien"]),
    sample("t-2-2", user("three"), [["Dune", 2000]], ["Alien", "Coco"]),
    sample("t-3-1", user("four"), [["Coco", 2000]], ["Dune"]),
    sample("t-4-1", user("five"), [["Elf", 2000]], ["Big"]),
  ];
  it("adds up the shares of dialogues that name an item beside each seen title, then goes by popularity", () => {
    // Alien stands in dialogues 1 and 2: Big, Coco, Dune half each; Big in 1 and 4: Alien, Elf half each. Seen ones are no answer.
    const query = sample("q-1-1", user("x"), [], ["Alien", "Big"]);
    expect(titles(cooccurrenceLists(named, [query], catalog, 3, { shrink: 0 }))).toEqual([["Coco", "Dune", "Elf"]]);
    // Dune: Coco in 2 of 2, Alien in 1 of 2; no dialogue with Dune has Big or Elf, which popularity orders
    const dune = sample("q-2-1", user("x"), [], ["Dune"]);
    expect(titles(cooccurrenceLists(named, [dune], catalog, 4, { shrink: 0 }))).toEqual([
      ["Coco", "Alien", "Big", "Elf"],
    ]);
  });
  it("shrinks what rare titles say", () => {
    const rare = [
      ...["1", "2", "3"].map((id) => sample(`t-${id}-1`, user("x"), [["Big", 2000]], ["Alien"])),
      ...["4", "5"].map((id) => sample(`t-${id}-1`, user("x"), [], ["Alien"])),
      sample("t-6-1", user("x"), [["Coco", 2000]], ["Dune"]),
    ];
    const query = sample("q-1-1", user("x"), [], ["Alien", "Dune"]);
    const lists = (shrink: number) => titles(cooccurrenceLists(rare, [query], catalog, 2, { shrink }));
    expect(lists(0)).toEqual([["Coco", "Big"]]); // 1 of 1 against 3 of 5
    expect(lists(5)).toEqual([["Big", "Coco"]]); // 1 of 6 against 3 of 10
    expect(() => lists(-1)).toThrow(expect.objectContaining({ code: "INVALID_ARGUMENT" }));
  });
  it("does not hear the sample's own dialogue", () => {
    const own = sample("t-2-9", user("x"), [], ["Alien"]);
    expect(titles(cooccurrenceLists(named, [own], catalog, 1))).toEqual([["Big"]]);
  });
});

describe("own dialogues", () => {
  it("vote in no list, however many a sample is made of", () => {
    const one = sample("t-1-9", user("scary monsters, funny christmas"), [], ["Big"]);
    const own = () => ["t-2", "t-3"];
    const rest = train.filter(({ id }) => !id.startsWith("t-2") && !id.startsWith("t-3"));
    const other = sample("q-9-9", one.prompt, [], ["Big"]); // no dialogue of the file
    for (const make of [neighborLists, cooccurrenceLists, mixedLists])
      expect(titles(make(train, [one], catalog, 4, { own }))).toEqual(titles(make(rest, [other], catalog, 4)));
    expect(titles(neighborLists(train, [other], catalog, 4, { own }))).not.toEqual(
      titles(neighborLists(train, [other], catalog, 4)),
    );
  });
});

describe("mixedLists", () => {
  const query = sample("q-1-1", user("List movies. Scary sand worms"), [], ["Elf"]);
  it("is its parts at either end, and weighs them between", () => {
    const mixed = (cooccurrence: number) =>
      titles(mixedLists(train, [query], catalog, 4, { cooccurrence, popularity: 0, neighbors: 2 }));
    expect(mixed(0)).toEqual(titles(neighborLists(train, [query], catalog, 4, { neighbors: 2 })));
    expect(mixed(1)).toEqual(titles(cooccurrenceLists(train, [query], catalog, 4)));
    expect(mixed(0.5)).toEqual([["Coco", "Alien", "Dune"]]); // Coco alone is liked beside Elf, Alien and Dune share the votes
    expect(mixed(0.3)).toEqual([["Alien", "Dune", "Coco"]]);
    expect(titles(mixedLists([], [query], catalog, 4))).toEqual([[]]);
  });
  it.each([{ cooccurrence: 1.1 }, { popularity: Number.NaN }, { neighbors: 0 }, { shrink: -1 }])(
    "refuses %j",
    (options) => {
      expect(() => mixedLists(train, [query], catalog, 4, options)).toThrow(
        expect.objectContaining({ code: "INVALID_ARGUMENT" }),
      );
    },
  );
});

describe.skipIf(!hasShared)("on all 3,134 test rows of ReDial", async () => {
  const load = (name: string): Sample[] =>
    readFileSync(shared(`data/unified/${name}`), "utf8")
      .trimEnd()
      .split("\n")
      .map((line, i) => {
        const columns = JSON.parse(line) as { id: string; prompt: Content };
        return { index: i, id: columns.id, prompt: columns.prompt, columns: { ...columns } };
      });
  const redial = hasShared ? await Catalog.load(shared("data/unified/catalog_redial.tsv")) : catalog;
  const [training, test] = hasShared ? [load("redial_train.jsonl"), load("redial_test.jsonl")] : [[], []];
  const evaluate = (lists: Item[][]) =>
    measureLists(
      test.map((row, i) => ({
        slots: lists[i]!,
        truths: groundTruths(row),
        seen: seenTitles(row),
        dialogue: dialogueOf(row.id),
      })),
      redial,
    );

  it("popularity reaches the known Recall@20 of .084 and NDCG@20 of .040", () => {
    const result = evaluate(popularityLists(training, test, redial, 20));
    expect(result["recall@20"]).toBeCloseTo(0.0837, 3);
    expect(result["ndcg@20"]).toBeCloseTo(0.0401, 3);
    expect(result).toMatchObject({ rows: 3134, dialogues: 1319, in_catalog: 1, duplicates: 0, list_length: 20 });
  });

  it("neighbour voting reaches at least the known .140 and .068", () => {
    // 50 neighbours give about those figures (.139 and .073); the default of 200, chosen on training dialogues, more.
    const result = evaluate(neighborLists(training, test, redial, 20));
    expect(result["recall@20"]).toBeCloseTo(0.1716, 2);
    expect(result["ndcg@20"]).toBeCloseTo(0.0863, 2);
    expect(result["recall@20"]).toBeGreaterThan(0.14);
    expect(result["ndcg@20"]).toBeGreaterThan(0.068);
    expect(result["recall@20_stderr_dialogue"]!).toBeGreaterThan(result["recall@20_stderr"]!);
  });

  it("co-occurrence and the mix reach at least the known .146 / .073 and .155 / .078", () => {
    const alone = evaluate(cooccurrenceLists(training, test, redial, 20));
    expect(alone["recall@20"]).toBeGreaterThan(0.146);
    expect(alone["ndcg@20"]).toBeGreaterThan(0.073);
    const mixed = evaluate(mixedLists(training, test, redial, 20));
    expect(mixed["recall@20"]).toBeCloseTo(0.1961, 3);
    expect(mixed["ndcg@20"]).toBeCloseTo(0.0968, 3);
  }, 60_000);
});
