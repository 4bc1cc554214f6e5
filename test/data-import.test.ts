// Importers: the field's own files where they lie beside the repository, small files of our own for the rest; and the streaming readers.
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { gzipSync } from "node:zlib";
import * as fc from "fast-check";
import { afterAll, describe, expect, it } from "vitest";
import { Years } from "../src/data/import/movie.ts";
import { type ImportOptions, importData, readRecords } from "../src/data/import.ts";
import { BadLines, conversationOf, type UnifiedRecord } from "../src/data/record.ts";
import { jsonElements, tableRows, textLines } from "../src/data/stream.ts";
import { Catalog } from "../src/ranking/catalog.ts";
import { formatItem, readList } from "../src/ranking/list.ts";
import { hits } from "../src/ranking/rewards.ts";
import { hasShared, shared } from "./shared.ts";

const folder = mkdtempSync(join(tmpdir(), "rank-grpo-import-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));
const fixture = (name: string): string => fileURLToPath(new URL(`./fixtures/data/${name}`, import.meta.url));
const written = (name: string, content: string | Uint8Array): string => {
  const path = join(folder, name);
  writeFileSync(path, content);
  return path;
};

async function all<T>(source: AsyncIterable<T>): Promise<T[]> {
  const items: T[] = [];
  for await (const item of source) items.push(item);
  return items;
}
const lines = (path: string): UnifiedRecord[] =>
  readFileSync(path, "utf8")
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line) as UnifiedRecord);

async function imported(format: string, path: string, options: ImportOptions = {}) {
  const bad = new BadLines(options.strict);
  return { records: await all(readRecords(format, path, options, bad)), bad };
}

/** What the unified files hold of a record, whatever the order of keys. */
const content = ({ prompt, completion, groundtruth_with_release_year, seen_titles }: UnifiedRecord) => ({
  prompt: prompt.map((m) => [m.role, m.content]),
  completion: completion?.map((m) => [m.role, m.content]),
  groundtruth_with_release_year,
  seen_titles,
});

describe.skipIf(!hasShared)("the field's own files", () => {
  it("reads ReDial as published: the same records as the unified test set but where a year came from elsewhere", async () => {
    const { records, bad } = await imported("redial", shared("data/redial_raw/test_data.raw.jsonl"));
    expect(bad.count).toBe(0);
    const reference = new Map(lines(shared("data/unified/redial_test.jsonl")).map((record) => [record.id, record]));
    // Titles without a year get one here only from these files; the unified set knew all of ReDial (Uncle Buck, The Big Lebowski).
    const same = records.filter((record) => JSON.stringify(record) === JSON.stringify(reference.get(record.id)));
    expect(records).toHaveLength(3083);
    expect(same).toHaveLength(2884);
    const withoutYears = (text: string): string => text.replaceAll(/ \(\d{4}\)/g, "");
    for (const record of records) {
      const other = reference.get(record.id);
      if (!other) continue;
      expect(record.seen_titles).toEqual(other.seen_titles.filter((title) => title !== "")); // a name that is all year
      expect(withoutYears(conversationOf(record.prompt))).toBe(withoutYears(conversationOf(other.prompt)));
    }
  });

  it.each([
    ["train_subset.kepler.jsonl", 1260],
    ["valid_data.ievalm.jsonl", 2459],
    ["valid_subset.kepler.jsonl", 265],
  ])("reads ReDial's %s", async (name, count) => {
    const { records, bad } = await imported("redial", shared(`data/redial_raw/${name}`));
    expect(records).toHaveLength(count);
    expect(bad.count).toBe(0);
    expect(new Set(records.map((record) => record.id)).size).toBe(count);
    for (const { groundtruth_with_release_year: truths, seen_titles } of records) {
      expect(truths.length).toBeGreaterThan(0);
      for (const [title, year] of truths) {
        expect(year).toMatch(/^\d{4}$/);
        expect(seen_titles).not.toContain(title);
      }
    }
  });

  it("takes years from a catalogue", async () => {
    const path = shared("data/redial_raw/valid_subset.kepler.jsonl");
    const without = (await imported("redial", path)).records.flatMap((r) => r.groundtruth_with_release_year).length;
    const movies = (await Catalog.load(shared("data/unified/catalog_redial.tsv"))).items;
    const truths = (await imported("redial", path, { movies })).records.flatMap((r) => r.groundtruth_with_release_year);
    expect(truths.length).toBeGreaterThanOrEqual(without);
  });

  it("reads Reddit-v2's JSON as the unified sample", async () => {
    const { records, bad } = await imported(
      "reddit-v2",
      shared("data/reddit_v2/sft_with_assigned_traits_test.raw.json"),
    );
    const reference = lines(shared("data/unified/reddit_v2_sample.jsonl"));
    expect(bad.count).toBe(0);
    expect(records.map((r) => [r.id, r.source, content(r)])).toEqual(
      reference.map((r) => [r.id, r.source, content(r)]),
    );
  });

  it("reads the published pipeline's lists: all titles but one parse, are in the catalogue of the pickle, and the hit rule finds hits", async () => {
    const { records } = await imported("reddit-v2", shared("data/reddit_v2/sft_with_assigned_traits_test.raw.json"));
    const catalog = await Catalog.load(shared("data/reddit_v2/gt_catalog.pkl"));
    let [titles, inside, found] = [0, 0, 0];
    const unreadable: string[] = [];
    for (const record of records) {
      const listed = record.completion![0]!.content.split("\n");
      const slots = readList(record.completion![0]!.content);
      expect(slots).toHaveLength(20);
      for (const [k, slot] of slots.entries()) {
        titles++;
        if (slot === null) unreadable.push(listed[k]!);
        else {
          expect(listed[k]).toBe(formatItem(slot));
          if (catalog.has(slot)) inside++;
        }
      }
      const truths = record.groundtruth_with_release_year.map(([title, year]) => ({ title, year: Number(year) }));
      found += hits(slots, truths, new Set(record.seen_titles), catalog, 20).reduce((sum, hit) => sum + hit, 0);
    }
    expect(unreadable).toEqual(["The Wall (201)"]); // the catalogue's one wrong year
    expect(inside).toBe(1999);
    expect(titles).toBe(2000);
    expect(found).toBeGreaterThan(0);
  });

  const sft = hasShared ? lines(shared("data/unified/redial_sft.jsonl")) : [];
  it.each([
    ["save_to_disk", "train", 0, 300],
    ["save_to_disk", "test", 300, 60],
    ["save_to_disk/test", undefined, 300, 60],
    ["test.none.parquet", undefined, 300, 60],
    ["test.gzip.parquet", undefined, 300, 60],
    ["test.snappy.parquet", undefined, 300, 60],
    ["test.zstd.parquet", undefined, 300, 60],
  ])("reads Hugging Face's %s (%s)", async (path, split, from, count) => {
    const { records } = await imported("huggingface", shared(`data/huggingface/${path}`), split ? { split } : {});
    expect(records.map(content)).toEqual(sft.slice(from, from + count).map(content));
  });

  it("reads all splits of a folder with different ids, and refuses an unknown one", async () => {
    const { records } = await imported("huggingface", shared("data/huggingface/save_to_disk"));
    expect(records).toHaveLength(360);
    expect(new Set(records.map((record) => record.id)).size).toBe(360);
    await expect(imported("huggingface", shared("data/huggingface/save_to_disk"), { split: "dev" })).rejects.toThrow(
      'Expected train, test for split, got "dev"',
    );
  });
});

describe("small files of each format", () => {
  it("inspired: merges a speaker's utterances, counts bad lines", async () => {
    const { records, bad } = await imported("inspired", fixture("inspired.tsv"));
    expect(records.map((r) => [r.id, r.groundtruth_with_release_year, r.seen_titles])).toEqual([
      [
        "inspired-202001011010107-2",
        [
          ["Collateral", "2004"],
          ["Thief", "1981"],
        ],
        ["Heat", "Ronin"],
      ],
      ["inspired-202001011010107-4", [["Drive", "2011"]], ["Heat", "Ronin", "Collateral", "Thief"]],
      ["inspired-202001021111118-1", [["Fargo", "1996"]], []],
    ]);
    expect(conversationOf(records[0]!.prompt)).toBe(
      'SYSTEM: Hello, what do you like?\nUSER: I loved "Heat" and Ronin.\n',
    );
    expect(bad.first.map(({ line, reason }) => [line, reason])).toEqual([
      [9, "too few fields"],
      [10, 'the speaker "NARRATOR"'],
    ]);
  });

  it("opendialkg: movies are entities of the walk that the message says and the graph dates", async () => {
    const { records, bad } = await imported("opendialkg", fixture("opendialkg.csv"));
    expect(records.map((r) => [r.id, r.groundtruth_with_release_year, r.seen_titles])).toEqual([
      [
        "opendialkg-0-1",
        [
          ["Turbo", "2013"],
          ["Zodiac", "2007"],
        ],
        [],
      ],
      ["opendialkg-0-3", [["Fargo", "1996"]], ["Turbo", "Zodiac"]],
    ]);
    expect(conversationOf(records[1]!.prompt)).toContain("USER: Thanks, more?\n");
    expect(bad.count).toBe(1);
    expect(bad.first[0]!.line).toBe(3);
  });

  it("trl: text, messages, other columns; numbers as years become text", async () => {
    const { records, bad } = await imported("trl", fixture("trl.jsonl"));
    expect(records).toHaveLength(2);
    expect(records[0]).toMatchObject({
      prompt: [{ role: "user", content: "Recommend." }],
      completion: [{ role: "assistant", content: "Heat (1995)" }],
      weight: 2,
    });
    expect(records[1]).toMatchObject({
      prompt: [{ role: "system" }, { role: "user", content: "U" }],
      completion: [{ role: "assistant", content: "A" }],
      groundtruth_with_release_year: [["Heat", "1995"]],
    });
    expect(bad.first.map(({ line }) => line)).toEqual([3, 4, 5]);
  });

  it("generic: a column mapping, quoted fields over lines, years that are missing", async () => {
    const columns = { id: "key", prompt: "question", groundtruth: "answers", seen: "known" };
    const { records, bad } = await imported("generic", fixture("generic.csv"), { columns });
    expect(records.map((r) => [r.id, r.prompt[0]!.content, r.groundtruth_with_release_year, r.seen_titles])).toEqual([
      [
        "7",
        'something like "Heat",\nplease',
        [
          ["Ronin", "1998"],
          ["Thief", "1981"],
        ],
        ["Heat"],
      ],
    ]);
    expect(bad.first.map(({ line, reason }) => [line, reason])).toEqual([
      [4, "too many fields"],
      [5, 'the ground truth "Ronin" without a year'],
    ]);
    const dated = await imported("generic", fixture("generic.csv"), {
      columns,
      instruct: true,
      movies: [{ title: "Ronin", year: 1998 }],
    });
    expect(dated.records.at(-1)!.groundtruth_with_release_year).toEqual([["Ronin", "1998"]]);
    expect(conversationOf(dated.records[0]!.prompt)).toBe('USER: something like "Heat", please\n');
  });

  it("generic: a mapping to a column that no row has is refused, where all have one it is fine", async () => {
    const jsonl = written("mapped.jsonl", '{"question": "Q"}\n{"question": "R", "answers": ["Heat (1995)"]}\n');
    const columns = { prompt: "question", groundtruth: "answers" };
    const { records } = await imported("generic", jsonl, { columns });
    expect(records.map((r) => r.groundtruth_with_release_year)).toEqual([[], [["Heat", "1995"]]]);
    for (const path of [jsonl, fixture("generic.csv")])
      await expect(imported("generic", path, { columns: { ...columns, seen: "knwon" } })).rejects.toMatchObject({
        code: "BAD_DATA",
        message: expect.stringMatching(/^Expected a column knwon \(seen\) for .*, got ".*question, answers/) as string,
      });
  });

  it("interactions: the last liked titles in time are the ground truth", async () => {
    const { records, bad } = await imported("interactions", fixture("ratings.csv"));
    expect(records.map((r) => [r.id, r.groundtruth_with_release_year, r.seen_titles, r["time"]])).toEqual([
      ["interactions:1", [["Heat", "1995"]], ["The Matrix", "1999"].slice(0, 1).concat("Thief"), 300],
      ["interactions:3", [["Thief", "1981"]], ["Heat"], 7],
    ]);
    expect(bad.count).toBe(2); // an unknown item, a row without a time
    const more = await imported("interactions", fixture("ratings.csv"), {
      interactions: { minRating: 2, targets: 2, history: 1 },
    });
    expect(more.records[0]!.groundtruth_with_release_year).toEqual([
      ["Thief", "1981"],
      ["Heat", "1995"],
    ]);
    expect(conversationOf(more.records[0]!.prompt)).toContain("liked Fargo (1996). What");
  });

  it("interactions read compressed items as they read compressed ratings", async () => {
    const ratings = written("likes.tsv.gz", gzipSync("user\titem\ttime\n1\ta\t1\n1\tb\t2\n"));
    const items = written("names.tsv.gz", gzipSync("item\ttitle\na\tHeat (1995)\nb\tMe, Myself & Irene (2000)\n"));
    const { records, bad } = await imported("interactions", ratings, { items });
    expect([records[0]?.groundtruth_with_release_year, bad.count]).toEqual([[["Me, Myself & Irene", "2000"]], 0]);
  });

  it("interactions refuses a file that is not grouped by user", async () => {
    const path = written(
      "mixed.csv",
      "userId,movieId,rating,timestamp\n1,Heat (1995),5,1\n2,Heat (1995),5,1\n1,Heat (1995),5,2\n",
    );
    await expect(imported("interactions", path)).rejects.toMatchObject({
      code: "BAD_DATA",
      message: expect.stringContaining("user 1 again at line 4") as string,
    });
  });
});

describe("what is wrong with a file", () => {
  it("strict fails at the first bad line, with its number", async () => {
    await expect(imported("trl", fixture("trl.jsonl"), { strict: true })).rejects.toMatchObject({
      code: "BAD_DATA",
      message: expect.stringContaining("trl.jsonl:3") as string,
    });
  });

  it("keeps the first ten bad lines and counts all", async () => {
    const { bad } = await imported("trl", written("bad.jsonl", `${"{\n".repeat(25)}{"prompt":"x"}\n`));
    expect(bad.count).toBe(25);
    expect(bad.first.map(({ line }) => line)).toEqual([1, 2, 3, 4, 5, 6, 7, 8, 9, 10]);
  });

  it("writes nothing where nothing could be read, and never over a file", async () => {
    const output = join(folder, "none.jsonl");
    await expect(importData("trl", written("all-bad.jsonl", "{\n"), output)).rejects.toMatchObject({
      code: "BAD_DATA",
    });
    expect(() => readFileSync(output)).toThrow();
    await importData("trl", fixture("trl.jsonl"), output);
    await expect(importData("trl", fixture("trl.jsonl"), output)).rejects.toMatchObject({ code: "IO" });
    await importData("trl", fixture("trl.jsonl"), output, { overwrite: true });
    expect(lines(output)).toHaveLength(2);
  });

  it("names unknown formats and missing files", async () => {
    await expect(imported("nonsense", fixture("trl.jsonl"))).rejects.toMatchObject({ code: "INVALID_ARGUMENT" });
    await expect(imported("trl", join(folder, "missing"))).rejects.toMatchObject({ code: "IO" });
  });

  it("refuses other encodings than UTF-8, whose titles would match nothing", async () => {
    const table = Buffer.from("prompt,groundtruth_with_release_year\nhello,Am\xe9lie (2001)\n", "latin1");
    await expect(imported("generic", written("latin.csv", table))).rejects.toMatchObject({
      code: "BAD_DATA",
      message: expect.stringMatching(/UTF-8 in .*latin\.csv.*iconv/) as string,
    });
  });

  it("tells of cut gzip and of files that are no parquet", async () => {
    const whole = gzipSync(readFileSync(fixture("trl.jsonl")));
    await expect(imported("trl", written("cut.jsonl.gz", whole.subarray(0, whole.length - 12)))).rejects.toMatchObject({
      code: "BAD_DATA",
    });
    await expect(imported("huggingface", written("not.parquet", "PAR1 but no"))).rejects.toMatchObject({
      code: "BAD_DATA",
    });
    await expect(imported("huggingface", written("not.arrow", "nothing of the kind"))).rejects.toMatchObject({
      code: "BAD_DATA",
    });
  });
});

describe("streams", () => {
  // one line of text, compressed by zstd 1.5 (level 3)
  const zst = Buffer.from("KLUv/SAxiQEAeyJwcm9tcHQiOiAiaGVsbG8iLCAiY29tcGxldGlvbiI6ICJIZWF0ICgxOTk1KSJ9Cg==", "base64");

  it("reads gzip by its first bytes, whatever the name", async () => {
    const path = written("compressed.jsonl", gzipSync(readFileSync(fixture("trl.jsonl"))));
    expect((await imported("trl", path)).records).toHaveLength(2);
  });

  it("reads Zstandard", async () => {
    const path = written("compressed.jsonl.zst", zst);
    const read = await imported("trl", path).catch((error: unknown) => error);
    expect(read).toMatchObject({
      records: [{ prompt: [{ content: "hello" }], completion: [{ content: "Heat (1995)" }] }],
    });
  });

  it("splits lines at \\n and \\r\\n only, and drops a byte order mark", async () => {
    const path = written("lines.txt", "\ufeffa\u2028b\r\n\nlast");
    expect((await all(textLines(path))).map(({ line, text }) => [line, text])).toEqual([
      [1, "a\u2028b"],
      [2, ""],
      [3, "last"],
    ]);
  });

  it("reads back any table that was written with quotes", async () => {
    const field = fc.string({ unit: fc.constantFrom("a", ",", '"', "\n", "\r", " ", "é", "\u2028"), maxLength: 8 });
    await fc.assert(
      fc.asyncProperty(fc.array(fc.tuple(field, field), { minLength: 1, maxLength: 6 }), async (rows) => {
        const text = rows.map((row) => row.map((value) => `"${value.replaceAll('"', '""')}"`).join(",")).join("\r\n");
        const path = written("table.csv", `x,y\n${text}`);
        const read = (await all(tableRows(path))).map(({ fields }) => [fields["x"], fields["y"]]);
        expect(read).toEqual(rows);
      }),
      { numRuns: 60 },
    );
  });

  it("keeps quotes that are a part of a text", async () => {
    const path = written(
      "quotes.tsv",
      'id\ttitle\n1\t"Crocodile" Dundee (1986)\n2\t"""Crocodile"" Dundee (1986)"\n3\t"Heat" \n',
    );
    const titles = (await all(tableRows(path, { delimiter: "\t" }))).map(({ fields }) => fields["title"]);
    expect(titles).toEqual(['"Crocodile" Dundee (1986)', '"Crocodile" Dundee (1986)', "Heat "]);
  });

  it("reads the elements of a JSON list one by one", async () => {
    const values = [{ a: 'x]},{\\"' }, [1, [2]], "s,]", 4, null];
    for (const text of [JSON.stringify(values), JSON.stringify({ about: "x", samples: values, more: [1] }, null, 2)]) {
      const found = await all(jsonElements(written("list.json", text)));
      expect(found.map((element) => ("value" in element ? element.value : element.error))).toEqual(values);
    }
    await expect(all(jsonElements(written("open.json", "[1, 2")))).rejects.toMatchObject({ code: "BAD_DATA" });
  });

  it("does not guess the year of a title with several", () => {
    const years = new Years();
    for (const name of ["Heat (1995)", "Heat (1986)", "Ronin  (1998)", "ronin (1998)"]) years.addName(name);
    expect(years.movie("HEAT")).toEqual({ title: "HEAT", year: undefined });
    expect(years.movie(" Ronin ")).toEqual({ title: "Ronin", year: "1998" });
  });
});
