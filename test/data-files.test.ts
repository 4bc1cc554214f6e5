// Export, split, catalogue and inspection.
import { execFileSync } from "node:child_process";
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import * as fc from "fast-check";
import { afterAll, describe, expect, it } from "vitest";

import { collectCatalog, writeCatalog } from "../src/data/catalog.ts";
import { exportData } from "../src/data/export.ts";
import { readRecords } from "../src/data/import.ts";
import { histogramOf, inspectData, spreadOf } from "../src/data/inspect.ts";
import { recordDialogue } from "../src/data/record.ts";
import { splitData } from "../src/data/split.ts";
import { Catalog } from "../src/ranking/catalog.ts";
import { loadTokenizer } from "../src/text/tokenizer.ts";
import { hasShared, shared } from "./shared.ts";

const folder = mkdtempSync(join(tmpdir(), "rank-grpo-data-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));
let files = 0;
const fresh = (suffix = ""): string => join(folder, `${files++}${suffix}`);
const writtenLines = (rows: readonly object[]): string => {
  const path = fresh(".jsonl");
  writeFileSync(path, rows.map((row) => `${JSON.stringify(row)}\n`).join(""));
  return path;
};
const readLines = (path: string): Record<string, unknown>[] =>
  readFileSync(path, "utf8")
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line) as Record<string, unknown>);
async function back(path: string, split?: string): Promise<Record<string, unknown>[]> {
  const rows: Record<string, unknown>[] = [];
  for await (const row of readRecords("huggingface", path, split ? { split } : {})) rows.push(row);
  return rows;
}
const sample = (id: string, more: object = {}): Record<string, unknown> => ({
  id,
  source: "test",
  prompt: [{ role: "user", content: `prompt of ${id}` }],
  groundtruth_with_release_year: [["Heat", "1995"]],
  seen_titles: ["Ronin"],
  ...more,
});

describe("export and back", () => {
  const rows = [
    sample("a", {
      completion: [{ role: "assistant", content: "Heat (1995)\nFargo (1996)" }],
      score: 1,
      tags: [],
      note: null,
      deep: { x: [1.5], y: "é\u2028😀" },
    }),
    sample("b", {
      completion: [{ role: "assistant", content: "" }],
      score: 9007199254740991,
      tags: ["t"],
      flag: true,
      seen_titles: [],
      groundtruth_with_release_year: [],
    }),
    sample("c", {
      completion: [{ role: "assistant", content: "x" }],
      score: -3,
      tags: ["u", "v"],
      deep: { x: [], y: "" },
      mixed: 1,
    }),
    sample("d", { completion: [{ role: "assistant", content: "x" }], score: 0, mixed: "one" }),
  ];

  it.each(["parquet", "huggingface"] as const)(
    "%s keeps every value; missing ones are null, mixed ones JSON text",
    async (format) => {
      const output = fresh(format === "parquet" ? ".parquet" : "");
      expect(await exportData(format, writtenLines(rows), output)).toBe(4);
      const read = await back(output);
      expect(read.map((row) => row["id"])).toEqual(["a", "b", "c", "d"]);
      rows.forEach((row, i) => {
        for (const [name, value] of Object.entries(row))
          expect([name, read[i]![name]]).toEqual([name, name === "mixed" ? JSON.stringify(value) : value]);
        for (const name of Object.keys(read[i]!))
          if (!(name in row)) expect([name, read[i]![name]]).toEqual([name, null]);
      });
    },
  );

  it.each(["parquet", "huggingface"] as const)("%s keeps ground truths whose years are numbers", async (format) => {
    const output = fresh(format === "parquet" ? ".parquet" : "");
    const truths = [["Heat", 1995] as const, ["Fargo", "1996"] as const];
    await exportData(format, writtenLines([sample("a", { groundtruth_with_release_year: truths })]), output);
    const [row] = await back(output);
    expect(row!["groundtruth_with_release_year"]).toEqual([
      ["Heat", "1995"],
      ["Fargo", "1996"],
    ]);
  });

  it("keeps objects that are always empty, in parquet as JSON text", async () => {
    const input = writtenLines([sample("a", { about: {}, deep: [{ x: {} }] }), sample("b", { about: {}, deep: [] })]);
    const read = async (format: "parquet" | "huggingface", suffix = ""): Promise<unknown[]> => {
      const output = fresh(suffix);
      await exportData(format, input, output);
      return (await back(output)).map((row) => [row["about"], row["deep"]]);
    };
    expect(await read("parquet", ".parquet")).toEqual([
      ["{}", [{ x: "{}" }]],
      ["{}", []],
    ]);
    expect(await read("huggingface")).toEqual([
      [{}, [{ x: {} }]],
      [{}, []],
    ]);
  });

  it("does not replace a folder that holds its input", async () => {
    const output = fresh();
    mkdirSync(output);
    const input = join(output, "train.jsonl");
    writeFileSync(input, readFileSync(writtenLines(rows)));
    await expect(exportData("huggingface", { train: input }, output, { overwrite: true })).rejects.toMatchObject({
      code: "INVALID_ARGUMENT",
      message: expect.stringContaining(`holds ${input}`) as string,
    });
    expect(readLines(input)).toHaveLength(4);
  });

  it("what reads twice refuses a pipe", async () => {
    const pipe = fresh();
    execFileSync("mkfifo", [pipe]);
    const refused = { code: "IO", message: expect.stringContaining(`read twice, got ${pipe}, a pipe`) as string };
    await expect(exportData("parquet", pipe, fresh())).rejects.toMatchObject(refused);
    await expect(exportData("huggingface", { train: pipe }, fresh())).rejects.toMatchObject(refused);
    await expect(splitData(pipe, fresh())).rejects.toMatchObject(refused);
    await expect(readRecords("redial", pipe).next()).rejects.toMatchObject(refused);
  });

  it("writes shards of whole batches, and splits as a dictionary of data sets", async () => {
    const many = writtenLines(Array.from({ length: 2500 }, (_, i) => sample(`m:${i}`)));
    const output = fresh();
    expect(
      await exportData("huggingface", { train: many, test: writtenLines(rows) }, output, { shardRows: 1000 }),
    ).toBe(2504);
    expect(
      readdirSync(join(output, "train"))
        .filter((name) => name.endsWith(".arrow"))
        .sort(),
    ).toEqual([0, 1, 2].map((i) => `data-0000${i}-of-00003.arrow`));
    expect((await back(output, "train")).map((row) => row["id"])).toEqual(
      Array.from({ length: 2500 }, (_, i) => `m:${i}`),
    );
    expect(await back(output)).toHaveLength(2504);
  });

  it.skipIf(!hasShared)("gives ReDial's file back from every format", async () => {
    const input = shared("data/unified/redial_sft.jsonl");
    const reference = readLines(input);
    for (const format of ["jsonl", "parquet", "huggingface"] as const) {
      const output = fresh(`.${format}`);
      await exportData(format, input, output);
      const read = format === "jsonl" ? readLines(output) : await back(output);
      expect(read).toEqual(reference);
    }
  });

  it("refuses what would lose or overwrite data, and leaves nothing behind", async () => {
    const bad = fresh(".jsonl");
    writeFileSync(bad, '{"id":1}\n{broken\n');
    const output = fresh(".parquet");
    await expect(exportData("parquet", bad, output)).rejects.toMatchObject({ code: "BAD_DATA" });
    await expect(exportData("huggingface", bad, output)).rejects.toMatchObject({ code: "BAD_DATA" });
    expect(existsSync(output)).toBe(false);
    expect(readdirSync(folder).filter((name) => /part|tmp-/.test(name))).toEqual([]);
    await exportData("parquet", writtenLines(rows), output);
    await expect(exportData("parquet", writtenLines(rows), output)).rejects.toMatchObject({ code: "IO" });
    await expect(exportData("parquet", { a: bad }, fresh())).rejects.toMatchObject({ code: "INVALID_ARGUMENT" });
    await expect(exportData("xml" as "jsonl", bad, fresh())).rejects.toMatchObject({ code: "INVALID_ARGUMENT" });
  });
});

describe("split", () => {
  it("never puts a dialogue, or a prompt, on two sides, and loses no row", async () => {
    const row = fc.record({
      dialogue: fc.integer({ min: 0, max: 12 }),
      prompt: fc.integer({ min: 0, max: 40 }),
      time: fc.integer({ min: 0, max: 99 }),
    });
    await fc.assert(
      fc.asyncProperty(
        fc.array(row, { minLength: 8, maxLength: 60 }),
        fc.constantFrom("dialogue", "time"),
        fc.integer({ min: 0, max: 9 }),
        async (given, by, seed) => {
          const rows = given.map(({ dialogue, prompt, time }, i) =>
            sample(`test-${dialogue}-${i}`, { prompt: `p${prompt}`, time }),
          );
          const output = fresh();
          const { parts } = await splitData(writtenLines(rows), output, { by, seed, validation: 0.2, test: 0.2 });
          const sides = new Map<string, string>();
          let total = 0;
          for (const [name, { rows: count }] of Object.entries(parts)) {
            const written = readLines(join(output, `${name}.jsonl`));
            expect(written).toHaveLength(count);
            total += count;
            for (const record of written)
              for (const key of [`d${recordDialogue(record)}`, `p${String(record["prompt"])}`]) {
                expect(sides.get(key) ?? name).toBe(name);
                sides.set(key, name);
              }
          }
          expect(total).toBe(rows.length);
          rmSync(output, { recursive: true });
        },
      ),
      { numRuns: 40 },
    );
  });

  it("by time tests the newest; the same seed gives the same split", async () => {
    const rows = Array.from({ length: 20 }, (_, i) =>
      sample(`test-${i}-0`, { time: i % 2 ? `2022-${String((i % 12) + 1).padStart(2, "0")}-01` : Date.UTC(2020, i) }),
    );
    const input = writtenLines(rows);
    const output = fresh();
    await splitData(input, output, { by: "time" });
    const times = (name: string): number[] =>
      readLines(join(output, `${name}.jsonl`)).map((row) =>
        typeof row["time"] === "number" ? row["time"] : Date.parse(String(row["time"])),
      );
    expect(Math.max(...times("train"))).toBeLessThanOrEqual(Math.min(...times("validation")));
    expect(Math.max(...times("validation"))).toBeLessThanOrEqual(Math.min(...times("test")));
    const [one, two, other] = [fresh(), fresh(), fresh()];
    await splitData(input, one, { seed: 5 });
    await splitData(input, two, { seed: 5 });
    await splitData(input, other, { seed: 6 });
    expect(readFileSync(join(one, "test.jsonl"), "utf8")).toBe(readFileSync(join(two, "test.jsonl"), "utf8"));
    expect(readFileSync(join(one, "test.jsonl"), "utf8")).not.toBe(readFileSync(join(other, "test.jsonl"), "utf8"));
    await splitData(input, one, { seed: 5, test: 0, overwrite: true }); // its rows train now: no file may still test by them
    expect(readdirSync(one).sort()).toEqual(["train.jsonl", "validation.jsonl"]);
  });

  it("tells prompts of token ids apart, and joins equal ones", async () => {
    const prompts = Array.from({ length: 40 }, (_, i) => [1, Math.floor(i / 2)]);
    const shapes = [
      prompts.map((ids) => ({ prompt_ids: ids })),
      prompts.map((ids, i) => ({ input_ids: [...ids, 5, i], completion_mask: [0, 0, 1, 1] })),
      prompts.map(([, i]) => ({ prompt: `p${i}` })),
    ];
    for (const rows of shapes) {
      const output = fresh();
      const { parts } = await splitData(writtenLines(rows), output);
      expect(parts).toEqual({
        train: { rows: 32, groups: 16 },
        validation: { rows: 4, groups: 2 },
        test: { rows: 4, groups: 2 },
      });
      const file = (name: string): string => join(output, `${name}.jsonl`);
      const found = await inspectData(file("train"), { against: [file("test")] });
      expect([found.duplicates.prompts, found.leaks[file("test")]]).toEqual([16, { dialogues: 0, prompts: 0 }]);
    }
  });

  it("does not replace its own input", async () => {
    const output = fresh();
    await splitData(writtenLines(Array.from({ length: 20 }, (_, i) => sample(`test-${i}-0`))), output);
    const input = join(output, "train.jsonl");
    const before = readFileSync(input, "utf8");
    await expect(splitData(input, output, { overwrite: true })).rejects.toMatchObject({
      code: "INVALID_ARGUMENT",
      message: expect.stringContaining("train.jsonl is the input") as string,
    });
    expect(readFileSync(input, "utf8")).toBe(before);
  });

  it("refuses impossible shares, rows without a time, and folders in use", async () => {
    const input = writtenLines([sample("test-1-0")]);
    await expect(splitData(input, fresh(), { test: 0.6, validation: 0.5 })).rejects.toMatchObject({
      code: "INVALID_ARGUMENT",
    });
    await expect(splitData(input, fresh(), { by: "time" })).rejects.toMatchObject({
      code: "BAD_DATA",
      message: expect.stringContaining("--time-column") as string,
    });
    await expect(splitData(input, folder)).rejects.toMatchObject({ code: "IO" });
  });

  it.skipIf(!hasShared)("keeps ReDial's dialogues whole", async () => {
    const output = fresh();
    const { parts } = await splitData(shared("data/unified/redial_train.jsonl"), output);
    expect(Object.values(parts).reduce((sum, part) => sum + part.rows, 0)).toBe(3951);
    const dialogues = ["train", "validation", "test"].map(
      (name) => new Set(readLines(join(output, `${name}.jsonl`)).map(recordDialogue)),
    );
    expect([...dialogues[0]!].filter((dialogue) => dialogues[1]!.has(dialogue))).toEqual([]);
    expect([...dialogues[0]!, ...dialogues[1]!].filter((dialogue) => dialogues[2]!.has(dialogue))).toEqual([]);
  });
});

describe("catalogue from data", () => {
  it("holds ground truths and demonstrations, and loads as a catalogue", async () => {
    const input = writtenLines([
      sample("a", {
        groundtruth_with_release_year: [
          ["Heat", "1995"],
          ["Heat", 1995],
          ["No year", "?"],
          ["", "1999"],
        ],
        completion: "Fargo (1996)\nno item",
      }),
      sample("b"),
    ]);
    const items = await collectCatalog([input]);
    expect(items).toEqual([
      { title: "Fargo", year: 1996, count: 1 },
      { title: "Heat", year: 1995, count: 3 },
    ]);
    expect((await collectCatalog([input], { completions: false, minCount: 2 })).map((item) => item.title)).toEqual([
      "Heat",
    ]);
    const path = fresh(".tsv");
    await writeCatalog(path, items);
    expect((await Catalog.load(path)).items).toEqual([
      { title: "Fargo", year: 1996 },
      { title: "Heat", year: 1995 },
    ]);
    await expect(writeCatalog(path, items)).rejects.toMatchObject({ code: "IO" });
  });
});

describe("inspection", () => {
  const catalog = Catalog.from([
    { title: "Heat", year: 1995 },
    { title: "Fargo", year: 1996 },
    { title: "Ronin", year: 1998 },
  ]);
  const clean = sample("test-1-0", { completion: "Heat (1995)\nFargo (1996)" });
  const other = sample("test-2-0", { completion: "Heat (1995)\nFargo (1996)" });
  const inspect = (rows: readonly object[], options = {}) =>
    inspectData(writtenLines(rows), { catalog, listLength: 2, ...options });

  it("has nothing to say of clean data", async () => {
    const found = await inspect([clean, other]);
    expect(found.warnings).toEqual([]);
    expect(found).toMatchObject({
      rows: 2,
      dialogues: 2,
      groundTruths: { total: 2, inCatalog: { exact: 2, missing: 0 } },
      completions: { hitsPerList: 1, inCatalog: 1 },
    });
  });

  const truth = (...pairs: unknown[]) => ({ groundtruth_with_release_year: pairs });
  const { groundtruth_with_release_year: _truths, ...noTruths } = clean;
  const { seen_titles: _seen, ...noSeen } = clean;
  it.each<[string, object[], object, string]>([
    ["no column of ground truths", [noTruths], {}, "every reward is 0. Map it"],
    ["rows without ground truth", [other, { ...clean, ...truth() }], {}, "have no ground truth"],
    [
      "years that cannot be read",
      [{ ...clean, ...truth(["Heat", "1995"], ["Fargo", "MCMXCVI"]) }],
      {},
      "no whole number",
    ],
    ["years of two types", [{ ...clean, ...truth(["Heat", "1995"], ["Fargo", 1996]) }], {}, "numbers in 1"],
    [
      "ground truths that are seen",
      [{ ...clean, ...truth(["Heat", "1995"], ["Ronin", "1998"]) }],
      {},
      "own seen_titles",
    ],
    ["no seen titles", [noSeen], {}, "No row has seen_titles"],
    ["the wrong catalogue", [{ ...clean, ...truth(["Alien", "1979"]) }], {}, "Is it the catalogue of these data?"],
    [
      "titles outside the catalogue",
      [{ ...clean, ...truth(["Heat", "1995"], ["Alien", "1979"]) }],
      {},
      "are not in the catalogue",
    ],
    ["other capitals", [{ ...clean, ...truth(["Heat", "1995"], ["FARGO", "1996"]) }], {}, "other capitals"],
    ["a year off", [{ ...clean, ...truth(["Heat", "1995"], ["Fargo", "1997"]) }], {}, "year within 2"],
    [
      "odd years in the catalogue",
      [clean],
      { catalog: Catalog.from([...catalog.items, { title: "The Wall", year: 201 }]) },
      "outside 1870",
    ],
    [
      "empty titles in the catalogue",
      [clean],
      { catalog: Catalog.from([...catalog.items, { title: " ", year: 2007 }]) },
      "empty title",
    ],
    ["short lists", [{ ...clean, completion: "Heat (1995)" }], {}, "as few as 1"],
    ["long lists", [{ ...clean, completion: "Heat (1995)\nFargo (1996)\nRonin (1999)" }], {}, "up to 3"],
    ["unreadable lines", [{ ...clean, completion: "Heat (1995)\nFargo (1996)\nthat is all" }], {}, 'no "Title (Year)"'],
    ["repeats", [{ ...clean, completion: "Heat (1995)\nHeat (1995)" }], {}, "repeat an earlier"],
    ["seen titles in lists", [{ ...clean, completion: "Heat (1995)\nRonin (1998)" }], {}, "already seen"],
    [
      "lists outside the catalogue",
      [{ ...clean, completion: "Heat (1995)\nAlien (1979)" }],
      {},
      "titles are not in the catalogue",
    ],
    ["lists that never hit", [{ ...clean, completion: "Fargo (1996)\nFargo (1996)" }], {}, "No demonstration hits"],
    ["rows without a list", [clean, sample("test-3-0")], {}, "SFT cannot use them"],
    ["the same id", [clean, { ...other, id: clean["id"] }], {}, "ids occur again"],
    ["the same prompt", [clean, { ...other, prompt: clean["prompt"] }], {}, "prompts occur again"],
  ])("warns of %s", async (_name, rows, options, text) => {
    expect((await inspect(rows, options)).warnings.filter((warning) => warning.includes(text))).toHaveLength(1);
  });

  it("warns of leaks between splits", async () => {
    const against = writtenLines([sample("test-1-5"), { ...sample("test-9-9"), prompt: other["prompt"] }]);
    const found = await inspect([clean, other], { against: [against] });
    expect(found.leaks[against]).toEqual({ dialogues: 1, prompts: 1 });
    expect(found.warnings.join()).toContain("not held out");
    const { id: _, ...unnamed } = clean; // the column alone says which dialogue it is
    const turn = writtenLines([{ ...unnamed, dialogue: "d", prompt: "another turn" }]);
    const { leaks } = await inspect([{ ...unnamed, dialogue: "d" }], { against: [turn] });
    expect(leaks[turn]).toEqual({ dialogues: 1, prompts: 0 });
  });

  it.skipIf(!hasShared)("counts tokens with a checkpoint's tokenizer and renders its template", async () => {
    const tokenizer = (await loadTokenizer(shared("models/smollm2-135m-instruct")))!;
    const found = await inspect([{ ...clean, prompt: [{ role: "user", content: "Hello" }] }], {
      tokenizer,
      maxTokens: 10,
    });
    expect(found.tokens!.prompt.count).toBe(1);
    expect(found.sample).toContain("<|im_start|>user\nHello<|im_end|>");
    expect(found.warnings.join()).toContain("longer than 10 tokens");
    expect(found.tokens!.promptHistogram.counts.reduce((a, b) => a + b, 0)).toBe(1);
  });

  it("sums up numbers", () => {
    expect(spreadOf([3, 1, 2])).toEqual({ count: 3, min: 1, median: 2, p95: 3, max: 3, mean: 2 });
    expect(spreadOf([])).toMatchObject({ count: 0, mean: 0 });
    const { from, counts } = histogramOf([0, 99, 100, 640]);
    expect(from.slice(0, 3)).toEqual([0, 100, 200]);
    expect(counts).toEqual([2, 1, 0, 0, 0, 0, 1]);
  });

  it("refuses an empty file", async () => {
    await expect(inspect([])).rejects.toMatchObject({ code: "BAD_DATA" });
  });
});
