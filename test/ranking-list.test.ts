// Titles, years, the reading of lists and the catalogue's file formats.
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import { afterAll, beforeAll, describe, expect, it } from "vitest";

import { Catalog } from "../src/ranking/catalog.ts";
import { compact, formatItem, readList, type Slot } from "../src/ranking/list.ts";
import { normalizeTitle, parseYear } from "../src/ranking/title.ts";
import { hasShared, readShared, shared } from "./shared.ts";

type Pair = [string, number];
const pairs = (slots: readonly Slot[]): (Pair | null)[] => slots.map((slot) => slot && [slot.title, slot.year]);

describe("titles and years", () => {
  it("folds case fully, collapses blanks, and keeps accents and the dotless i", () => {
    const same = (a: string, b: string) => expect(normalizeTitle(a) === normalizeTitle(b), `${a} / ${b}`);
    same("Straße", "STRASSE").toBe(true);
    same("STRAẞE", "straße").toBe(true);
    same("ΟΔΟΣ", "οδός".normalize("NFD").replace(/\u0301/g, "")).toBe(true);
    same("The\t Cage ", "the cage").toBe(true);
    same("ﬁne", "FINE").toBe(true);
    same("Amélie", "Amelie").toBe(false);
    same("Amélie", "Ame\u0301lie").toBe(false);
    same("Kış", "Kiş").toBe(false);
    expect(normalizeTitle("Kış")).toBe("kış");
  });

  it("is the same for any case of a title", () => {
    fc.assert(
      fc.property(fc.string({ unit: "grapheme" }), (title) => {
        fc.pre(!title.includes("ı"));
        const form = normalizeTitle(title);
        expect(normalizeTitle(form)).toBe(form);
        expect(normalizeTitle(title.toUpperCase())).toBe(form);
        expect(normalizeTitle(title.toLowerCase())).toBe(form);
      }),
    );
  });

  it("reads years from integers and strings of ASCII digits alone", () => {
    for (const value of [1995, "1995", " 1995 ", "01995"]) expect(parseYear(value)).toBe(1995);
    for (const value of [
      "unknown",
      "",
      " ",
      "1995.0",
      "-1995",
      "+1995",
      "1e3",
      "١٩٩٥",
      null,
      undefined,
      1995.5,
      Number.NaN,
      [1995],
      true,
    ]) {
      expect(parseYear(value), String(value)).toBeUndefined();
    }
    expect(parseYear("9".repeat(30))).toBeUndefined();
  });
});

describe.skipIf(!hasShared)("the golden readings", () => {
  interface Case {
    name: string;
    text: string;
    slots: (Pair | null)[];
    reference: Pair[];
  }
  const { cases } = hasShared ? readShared<{ cases: Case[] }>("goldens/ranking/parse.json") : { cases: [] };
  it.each(cases)("$name", ({ text, slots, reference }) => {
    const read = readList(text);
    expect(pairs(read)).toEqual(slots);
    expect(pairs(compact(read))).toEqual(reference);
  });
});

describe("the reading of a list", () => {
  const line = fc
    .oneof(
      fc.string(),
      fc.string({ unit: fc.constantFrom(..."\"'“”«»()*_ ~`-1.ab ") }).map((text) => `${text} (1999)`),
      fc.constantFrom("", " ", "\t", "\u3000", "\ufeff", "\r"),
    )
    .map((text) => text.replaceAll("\n", " "));

  it("reads every line on its own, so a bad line shifts nothing", () => {
    fc.assert(
      fc.property(fc.array(line, { maxLength: 8 }), (lines) => {
        const whole = readList(lines.join("\n"));
        expect(whole).toEqual(lines.flatMap((text) => readList(text)));
        expect(whole.length).toBe(lines.filter((text) => text.trim() !== "").length);
        expect(readList(lines.map((text) => `${text} \r`).join("\n\n"))).toEqual(whole);
      }),
    );
  });

  it("gives clean titles: trimmed, blanks collapsed, no pair around them", () => {
    fc.assert(
      fc.property(line, (text) => {
        for (const item of compact(readList(text))) {
          expect(item.title).toBe(item.title.replace(/\s+/g, " ").trim());
          expect(item.title).not.toBe("");
          expect(item.title).not.toMatch(/^".*"$|^“.*”$|^[*_`~]|[*_`~]$/);
        }
      }),
    );
  });

  it("is stable: a title without marks in front reads back as itself", () => {
    fc.assert(
      fc.property(line, (text) => {
        for (const item of compact(readList(text))) {
          fc.pre(!/^(?:[-+*•·–—>]|#{1,6}) |^[0-9]+ ?[.)-][*_`~]* | \([0-9]{4}\)/.test(`${item.title} `));
          expect(readList(formatItem(item))).toEqual([item]);
        }
      }),
    );
  });

  it("is linear in hostile titles", () => {
    for (const part of ['"', "“", "”", "(", ")", "'", "*", "- ", "1. ", "«»", '("'] as const) {
      const text = `${part.repeat(200_000)}Heat${part.repeat(200_000)} (1995)`;
      expect(readList(text)).toHaveLength(1); // quadratic work would run into the test's time limit
    }
  });
});

describe("the catalogue", () => {
  let folder: string;
  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), "rank-grpo-catalog-"));
  });
  afterAll(() => rm(folder, { recursive: true }));
  const file = async (name: string, content: string | Uint8Array): Promise<string> => {
    const path = join(folder, name);
    await writeFile(path, content);
    return path;
  };
  const load = async (name: string, content: string | Uint8Array): Promise<Catalog> =>
    Catalog.load(await file(name, content));

  it("answers exactly and loosely, and merges duplicates", () => {
    const heat = { title: "Heat", year: 1995 };
    const catalog = Catalog.from([
      heat,
      { title: "Up", year: 2009 },
      { title: "Heat", year: 1995 },
      { title: " ", year: 1999 },
    ]);
    expect(catalog.items).toEqual([heat, { title: "Up", year: 2009 }]);
    expect([catalog.size, catalog.skipped]).toEqual([2, 1]);
    expect([
      catalog.has(heat),
      catalog.has({ title: "heat", year: 1995 }),
      catalog.has({ title: "Heat", year: 1996 }),
    ]).toEqual([true, false, false]);
    expect(catalog.hasLoosely({ title: "HEAT", year: 1997 })).toBe(true);
    expect(catalog.hasLoosely({ title: "Heat", year: 1998 })).toBe(false);
    expect(catalog.items.map((item) => catalog.indexOf(item))).toEqual([0, 1]);
    expect(catalog.indexOf({ title: "Heat", year: 1996 })).toBe(-1);
  });

  it("reads TSV, JSON in both shapes, and years as strings", async () => {
    const expected = [
      { title: "Heat", year: 1995 },
      { title: "[Rec]²", year: 2009 },
    ];
    expect((await load("a.tsv", "Heat\t1995\r\n\t2007\n[Rec]²\t2009\nHeat\t1995\n\n")).items).toEqual(expected);
    expect((await load("b.tsv", "\ufeffHeat\t1995\n[Rec]²\t 2009")).items).toEqual(expected);
    expect((await load("a.json", '[["Heat", 1995], ["", 1999], ["[Rec]²", "2009"]]')).items).toEqual(expected);
    expect(
      (await load("b.json", '[{"title": "Heat", "year": "1995"}, {"title": "[Rec]²", "year": 2009}]')).items,
    ).toEqual(expected);
  });

  it("counts titles that are empty", async () => {
    expect((await load("c.tsv", "\t2007\n\t2015\nHeat\t1995\n")).skipped).toBe(2);
  });

  it.each([
    ["no tab", "a.tsv", "Heat\t1995\nUp 2009\n", /title TAB year for line 2 .*got "Up 2009"/],
    ["a bad year", "a.tsv", "Heat\t1995\n\nUp\tsoon\n", /whole number as year for line 3 .*got "soon"/],
    ["nothing", "a.tsv", "", /at least one title/],
    ["only empty titles", "a.tsv", "\t1999\n", /at least one title .*got "1 empty titles"/],
    ["bytes that are no text", "a.tsv", Uint8Array.of(0xff, 0xfe, 0x00), /UTF-8/],
    ["broken JSON", "a.json", '[["Heat", 1995]', /Expected JSON/],
    ["an object", "a.json", '{"Heat": 1995}', /list of \[title, year\]/],
    ["a triple", "a.json", '[["Heat", 1995], ["Up", 2009, 1]]', /entry 2/],
    ["a title that is no text", "a.json", "[[5, 1995]]", /text as title for entry 1/],
    ["a year that is none", "a.json", '[["Heat", 1995.5]]', /whole number as year for entry 1/],
    ["an empty pickle", "a.pkl", "", /as a pickle/],
    ["a pickle cut off", "a.pkl", Uint8Array.of(0x80, 4, 0x5d, 0x94, 0x28, 0x8c, 40, 65), /as a pickle/],
    [
      "a pickle of a list that holds itself",
      "a.pkl",
      Uint8Array.of(0x80, 4, 0x5d, 0x94, 0x28, 0x68, 0, 0x68, 0, 0x65, 0x2e),
      /text as title for entry 1/,
    ],
    ["a pickle of a number", "a.pkl", Uint8Array.of(0x80, 4, 0x4b, 5, 0x2e), /list of \[title, year\]/],
  ] as [string, string, string | Uint8Array, RegExp][])("refuses %s", async (_, name, content, message) => {
    await expect(load(name, content)).rejects.toMatchObject({
      code: "BAD_DATA",
      message: expect.stringMatching(message),
    });
  });

  it("refuses a file that is not there", async () => {
    await expect(Catalog.load(join(folder, "none.tsv"))).rejects.toMatchObject({ code: "IO" });
  });

  it("runs nothing that a pickle asks for", async () => {
    // os.system("true") at protocols 0 and 4, a persistent id, an extension
    const text = (line: string) => new TextEncoder().encode(line);
    const hostile = [
      text("cos\nsystem\n(S'true'\ntR."),
      Uint8Array.of(
        0x80,
        4,
        0x8c,
        2,
        ...text("os"),
        0x8c,
        6,
        ...text("system"),
        0x93,
        0x8c,
        4,
        ...text("true"),
        0x85,
        0x52,
        0x2e,
      ),
      Uint8Array.of(0x80, 4, 0x8c, 1, 65, 0x51, 0x2e),
      Uint8Array.of(0x80, 2, 0x82, 1, 0x2e),
    ];
    for (const bytes of hostile) {
      await expect(load("hostile.pkl", bytes)).rejects.toMatchObject({
        code: "BAD_DATA",
        message: expect.stringMatching(/refers to (os\.system|persistent id A|extension 1)/),
      });
    }
  });

  it("survives any bytes as a pickle", async () => {
    await fc.assert(
      fc.asyncProperty(fc.uint8Array({ maxLength: 60 }), fc.integer({ min: 2, max: 5 }), async (bytes, protocol) => {
        const error = await load("random.pkl", Uint8Array.of(0x80, protocol, ...bytes)).catch(
          (reason: unknown) => reason,
        );
        if (!(error instanceof Catalog)) expect(error).toMatchObject({ code: "BAD_DATA" });
      }),
      { numRuns: 300 },
    );
  });

  describe.skipIf(!hasShared)("of the published data", () => {
    it("is the same from the pickle and from TSV, and reads back but for the one wrong year", async () => {
      const pickled = await Catalog.load(shared("data/reddit_v2/gt_catalog.pkl"));
      const tsv = await Catalog.load(shared("data/unified/catalog_reddit_v2.tsv"));
      expect(pickled.size).toBe(7404);
      expect(new Set(pickled.items.map(formatItem))).toEqual(new Set(tsv.items.map(formatItem)));
      const changed = pickled.items.filter((item) => {
        const slot = readList(formatItem(item))[0];
        return slot?.title !== item.title || slot.year !== item.year;
      });
      expect(changed.map((item) => item.year)).toEqual([201]);
    });

    it("of ReDial skips its two empty titles", async () => {
      const redial = await Catalog.load(shared("data/unified/catalog_redial.tsv"));
      expect([redial.size, redial.skipped]).toEqual([6302, 2]);
    });
  });
});
