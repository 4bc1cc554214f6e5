// Lines put together from words have the ids that the whole line has, for every tokenizer that says so of itself.
import fc from "fast-check";
import { describe, expect, it } from "vitest";

import { LineEncoder } from "../src/text/lines.ts";
import { loadTokenizer } from "../src/text/tokenizer.ts";
import type { Tokenizer } from "../src/text/types.ts";
import { World } from "../src/world.ts";
import { hasShared, shared } from "./shared.ts";

/** The same tokenizer, by whole lines alone. */
const slow = (tokenizer: Tokenizer): Tokenizer => ({
  ...tokenizer,
  bytes: tokenizer.bytes,
  specialIds: tokenizer.specialIds,
  fingerprint: tokenizer.fingerprint,
  encode: (text) => tokenizer.encode(text),
  decode: (ids, options) => tokenizer.decode(ids, options),
  renderChat: (messages, options) => tokenizer.renderChat(messages, options),
  isWordwise: () => false,
});

const outcome = (encoder: LineEncoder, text: string): unknown => {
  try {
    return encoder.tokens(text);
  } catch (error) {
    return (error as Error).message;
  }
};

const letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
const strange = [..."0123456789.,:;!?'\"()[]-_&/*$%#@<>|éüßñÅøÇ日本語한국я́𝕏😀½²₃\u00a0\u2009\u200b\t\r"];
const word = fc.oneof(
  fc.string({ unit: fc.constantFrom(...letters), minLength: 1, maxLength: 9 }),
  fc.string({ unit: fc.constantFrom(...letters, ...strange), minLength: 1, maxLength: 7 }),
  fc.constantFrom(
    "'s",
    "L'Avventura",
    "(1995)",
    "13",
    "2001:",
    "--",
    "...",
    "I'M",
    "<|im_start|>",
    "<|eot_id|>",
    "É",
    "E\u0301",
  ),
);
const line = fc
  .tuple(fc.array(word, { minLength: 1, maxLength: 7 }), fc.constantFrom(" ", " ", " ", "  "))
  .map(([words, space]) => words.join(space));

const folders = [
  "tokenizers/llama3_1",
  "tokenizers/qwen2_5_derived",
  "models/smollm2-135m-instruct/SmolLM2-135M-Instruct.Q4_1.gguf",
];

describe.skipIf(!hasShared)("a line from its words", () => {
  for (const folder of folders)
    it(`is the whole line's, or refused alike: ${folder}`, async () => {
      const tokenizer = (await loadTokenizer(shared(folder)))!;
      const stop = tokenizer.eosId!;
      const [fast, whole] = [new LineEncoder(tokenizer, stop), new LineEncoder(slow(tokenizer), stop)];
      expect(tokenizer.isWordwise("The Big Sick (2017)")).toBe(true);
      let wordwise = 0;
      fc.assert(
        fc.property(line, (text) => {
          if (tokenizer.isWordwise(text)) wordwise++;
          expect(outcome(fast, text)).toEqual(outcome(whole, text));
        }),
        { numRuns: 3000, seed: 4 },
      );
      expect(wordwise).toBeGreaterThan(1000);
    }, 60_000);

  it("is not taken from words where spaces, added tokens or composed letters may join them", async () => {
    const tokenizer = (await loadTokenizer(shared(folders[1]!)))!;
    for (const text of [
      "two  spaces",
      " before",
      "after ",
      "a\tb",
      "a\u00a0b",
      "<|im_start|> one",
      "E\u0301tude",
      "",
      "a\n\nb",
    ])
      expect(tokenizer.isWordwise(text), JSON.stringify(text)).toBe(false);
    const none = (await loadTokenizer(shared("models/stories260K")).catch(() => undefined))!;
    if (none) expect(none.isWordwise("The end")).toBe(false);
  });
});

it("a world's lines are put together from their words", () => {
  const world = new World({ genres: 20, itemsPerGenre: 100 });
  const tokenizer = world.tokenizer();
  const [fast, whole] = [new LineEncoder(tokenizer, 1), new LineEncoder(slow(tokenizer), 1)];
  for (const { title, year } of world.items.slice(0, 200)) {
    const text = `${title} (${year})`;
    expect(tokenizer.isWordwise(text)).toBe(true);
    expect(fast.tokens(text)).toEqual(whole.tokens(text));
  }
  expect(outcome(fast, "Unknown Words (1999)")).toEqual(outcome(whole, "Unknown Words (1999)"));
});
