// Tokens to lines: the golden readings and token advantages of both modes, for two tokenizers, and agreement with `readList`.
import fc from "fast-check";
import { describe, expect, it } from "vitest";

import { readList } from "../src/ranking/list.ts";
import {
  ListReader,
  paperShaping,
  referenceShaping,
  type ShapingOptions,
  shapeAdvantages,
  type TokenReading,
} from "../src/ranking/segments.ts";
import { makeTokenizer } from "../src/text/tokenizer.ts";
import type { Tokenizer } from "../src/text/types.ts";
import { hasShared, readShared } from "./shared.ts";

interface Reading {
  segment: number[];
  advantage: number[];
}
interface Case {
  name: string;
  tokenizer: string;
  n: number;
  text: string;
  ids: number[];
  rank_advantage: number[];
  reference: Reading & { ends_in_eos: boolean; emitted: number };
  aligned: Reading & { stopped: boolean; items: number };
}
interface Golden {
  tokenizers: Record<string, { eos: number; other_stop: number }>;
  cases: Case[];
}
const f32 = (values: number[]): number[] => values.map((value) => Math.fround(value) + 0);

describe.skipIf(!hasShared)("the golden segments", async () => {
  const golden = hasShared ? readShared<Golden>("goldens/ranking/segments.json") : { tokenizers: {}, cases: [] };
  const files: Record<string, string> = {
    smollm2: "models/smollm2-135m-instruct/tokenizer.json",
    qwen2_5: "tokenizers/qwen2_5_derived/tokenizer.json",
  };
  const tokenizers = new Map<string, Tokenizer>();
  for (const name of Object.keys(golden.tokenizers)) {
    tokenizers.set(name, makeTokenizer(readShared<Record<string, unknown>>(files[name]!)));
  }
  const readers = new Map(
    Object.entries(golden.tokenizers).map(([name, { eos, other_stop }]) => [
      name,
      new ListReader(tokenizers.get(name)!, [eos, other_stop]),
    ]),
  );

  it.each(golden.cases)("$name ($tokenizer)", (test) => {
    const reader = readers.get(test.tokenizer)!;
    const ids = Int32Array.from(test.ids);

    const aligned = reader.read(ids);
    expect([...aligned.item]).toEqual(test.aligned.segment);
    expect(aligned.items).toBe(test.aligned.items);
    expect(aligned.items).toBe(readList(test.text).length);
    expect(aligned.stop).toBe(test.aligned.stopped ? ids.length - 1 : -1);
    expect([...shapeAdvantages(aligned, test.rank_advantage, paperShaping)]).toEqual(f32(test.aligned.advantage));

    const reference = reader.readReference(ids, golden.tokenizers[test.tokenizer]!.eos);
    expect([...reference.item]).toEqual(test.reference.segment);
    expect([reference.emitted, reference.items]).toEqual([test.reference.emitted, test.reference.emitted]);
    expect(reference.stop).toBe(test.reference.ends_in_eos ? ids.length - 1 : -1);
    expect([...shapeAdvantages(reference, test.rank_advantage, referenceShaping)]).toEqual(
      f32(test.reference.advantage),
    );
  });

  it("reads any ids as the text that they decode to", () => {
    const tokenizer = tokenizers.get("smollm2")!;
    const reader = readers.get("smollm2")!;
    // ids around the single bytes come often: they split characters and blanks
    const id = fc.oneof(fc.nat(tokenizer.vocabSize - 1), fc.nat(300), fc.constantFrom(198, 216, 25, 28, 365));
    fc.assert(
      fc.property(fc.array(id, { maxLength: 60 }), (ids) => {
        expect(reader.read(Int32Array.from(ids)).items).toBe(readList(tokenizer.decode(ids)).length);
      }),
      { numRuns: 2000 },
    );
  });
});

describe("ListReader", () => {
  const encoder = new TextEncoder();
  // One id for each byte, then some longer tokens, a special token and two stop tokens.
  const words = ["Heat", " (1995)\n", "\n\n", "a\nb\nc", "\n  b", "b  \n ", "\r\n", "\u3000", "a\u00a0\n"];
  const table = [
    ...Array.from({ length: 256 }, (_, byte) => Uint8Array.of(byte)),
    ...words.map((word) => encoder.encode(word)),
  ];
  const special = table.push(encoder.encode("<|special|>")) - 1;
  const stop = table.push(encoder.encode("<|stop|>")) - 1;
  const otherStop = table.push(encoder.encode("<|other|>")) - 1;
  const reader = new ListReader({ bytes: table, specialIds: new Set([special, stop, otherStop]) }, [stop, otherStop]);
  const bytes = (text: string): number[] => [...encoder.encode(text)];
  const word = (text: string): number => 256 + words.indexOf(text);

  const token = fc.oneof(
    fc.integer({ min: 256, max: table.length - 1 }),
    fc.constantFrom(...bytes("\n\r a\u00a0\u3000\ufeff\u2028é")),
    fc.nat(255),
  );

  /** The definition, byte by byte: which line the first non-blank byte of each token lies in. */
  function plainReading(ids: number[]): { item: number[]; items: number } {
    const isStop = (t: number) => t === ids.length - 1 && (ids[t] === stop || ids[t] === otherStop);
    const parts = ids.map((id, t) => (id >= special || isStop(t) ? new Uint8Array() : table[id]!));
    // Broken bytes as the letter x, one for one, so that offsets in the text are offsets in the bytes.
    const all = Buffer.concat(parts);
    const owner: ("x" | " " | "\n")[] = [];
    for (let i = 0; i < all.length; ) {
      const length = [4, 3, 2, 1].find((size) => {
        const part = all.subarray(i, i + size);
        return (
          part.length === size && [...part.toString("utf8")].length === 1 && !part.toString("utf8").includes("\ufffd")
        );
      });
      const character = length === undefined ? "x" : all.subarray(i, i + length).toString("utf8");
      const kind = character === "\n" ? "\n" : /^\s$/.test(character) ? " " : "x";
      for (let k = 0; k < (length ?? 1); k++) owner.push(kind);
      i += length ?? 1;
    }
    const lineOf: number[] = []; // of each byte that is not blank
    let items = 0;
    let open = false;
    for (const [i, kind] of owner.entries()) {
      if (kind === "\n") open = false;
      if (kind !== "x") continue;
      if (!open) items++;
      open = true;
      lineOf[i] = items - 1;
    }
    const item: number[] = [];
    let offset = 0;
    for (const part of parts) {
      let last = 0;
      for (let i = 0; i < offset; i++) last = lineOf[i] ?? last;
      const own = lineOf.slice(offset, offset + part.length).find((line) => line !== undefined);
      item.push(own ?? last);
      offset += part.length;
    }
    return { item, items };
  }

  it("gives every token the line of its first byte that is not blank", () => {
    fc.assert(
      fc.property(fc.array(token, { maxLength: 40 }), (ids) => {
        const reading = reader.read(Int32Array.from(ids));
        const plain = plainReading(ids);
        expect([...reading.item]).toEqual(plain.item);
        expect(reading.items).toBe(plain.items);
        const last = ids.at(-1);
        expect(reading.stop).toBe(last === stop || last === otherStop ? ids.length - 1 : -1);
      }),
      { numRuns: 2000 },
    );
  });

  it("agrees with the reading of the decoded text, whatever the cut into tokens", () => {
    fc.assert(
      fc.property(fc.array(token, { maxLength: 40 }), (ids) => {
        const text = new TextDecoder().decode(
          Buffer.concat(ids.map((id) => (id >= special ? new Uint8Array() : table[id]!))),
        );
        expect(reader.read(Int32Array.from(ids)).items).toBe(readList(text).length);
      }),
      { numRuns: 2000 },
    );
  });

  it("finds the lines inside a token that holds several", () => {
    expect([...reader.read(Int32Array.of(word("Heat"), word("a\nb\nc"), word("Heat"))).item]).toEqual([0, 0, 2]);
    expect([...reader.read(Int32Array.of(word("\n  b"), word("\n  b"), word("b  \n "), word("Heat"))).item]).toEqual([
      0, 1, 1, 2,
    ]);
  });

  it("takes special tokens inside a list for nothing, and only the last token for the stop", () => {
    const ids = Int32Array.of(word("Heat"), special, word(" (1995)\n"), stop, word("Heat"), otherStop);
    expect(reader.read(ids)).toEqual({ item: Int32Array.of(0, 0, 0, 0, 1, 1), items: 2, stop: 5 });
    expect(reader.readReference(ids, stop).stop).toBe(-1);
    expect(reader.readReference(ids, otherStop).stop).toBe(5);
  });

  it("reads an id without bytes as nothing, and refuses one outside the vocabulary", () => {
    const sparse = new ListReader([encoder.encode("a"), undefined, encoder.encode("\n")], []);
    expect([...sparse.read(Int32Array.of(0, 1, 2, 1, 0)).item]).toEqual([0, 0, 0, 0, 1]);
    for (const id of [-1, 3]) {
      const error = expect.objectContaining({
        code: "INVALID_ARGUMENT",
        message: expect.stringContaining(`got ${id}`),
      });
      expect(() => sparse.read(Int32Array.of(0, id))).toThrow(error);
      expect(() => sparse.readReference(Int32Array.of(0, id), 2)).toThrow(error);
    }
  });
});

describe("shapeAdvantages", () => {
  const list = (items: number[], count: number, stopped = true): TokenReading => ({
    item: Int32Array.from(items),
    items: count,
    stop: stopped ? items.length - 1 : -1,
  });
  const shaping: ShapingOptions = {
    mode: "aligned",
    earlyStop: -0.5,
    overflow: -0.25,
    overflowPer: "token",
    exactLength: 0.125,
  };
  const shape = (reading: TokenReading, options: Partial<ShapingOptions> = {}) => [
    ...shapeAdvantages(reading, [1, 2], { ...shaping, ...options }),
  ];

  it("adds the bonus to the stop token of an exact list alone", () => {
    expect(shape(list([0, 1, 1], 2))).toEqual([1, 2, 2.125]);
    expect(shape(list([0, 1, 1], 2), { mode: "reference" })).toEqual([1, 2, 0.125]);
    expect(shape(list([0, 1, 1], 2, false))).toEqual([1, 2, 2]);
  });
  it("gives an early stop its penalty alone, and a cut list none", () => {
    expect(shape(list([0, 0], 1))).toEqual([1, -0.5]);
    expect(shape(list([0, 0], 1), { mode: "reference" })).toEqual([1, -0.5]);
    expect(shape(list([0, 0], 1, false))).toEqual([1, 1]);
    expect(shape(list([0], 0))).toEqual([-0.5]);
    expect(shape(list([], 0, false))).toEqual([]);
  });
  it("charges each token beyond rank N, or each item once", () => {
    const reading = list([0, 1, 2, 2, 2, 2, 3, 3], 4);
    expect(shape(reading)).toEqual([1, 2, -0.25, -0.25, -0.25, -0.25, -0.25, -0.25]);
    const each = [1, 2, -0.0625, -0.0625, -0.0625, -0.0625, -0.125, -0.125];
    expect(shape(reading, { overflowPer: "item" })).toEqual(each);
    expect(shape(reading, { overflowPer: "item", mode: "reference" })).toEqual(each);
  });
  it("adds all of it to the list's own advantage, where every token has that", () => {
    const whole = (reading: TokenReading, options: Partial<ShapingOptions> = {}) => [
      ...shapeAdvantages(reading, [2, 2], { ...shaping, base: 2, ...options }),
    ];
    const none = { earlyStop: 0, overflow: 0, exactLength: 0 };
    for (const mode of ["aligned", "reference"] as const) {
      for (const reading of [list([0, 0], 1), list([0, 1, 1], 2), list([0, 1, 2, 2], 3), list([0], 0)])
        expect(whole(reading, { mode, ...none })).toEqual(Array.from(reading.item, () => 2));
      expect(whole(list([0, 0], 1), { mode })).toEqual([2, 1.5]);
      expect(whole(list([0, 1, 1], 2), { mode })).toEqual([2, 2, 2.125]);
      expect(whole(list([0, 1, 2, 2], 3), { mode })).toEqual([2, 2, 1.75, 1.75]);
    }
  });
});
