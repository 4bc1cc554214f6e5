// A small byte-level BPE with titles as tokens of their own, trained on the data: what a model of some million parameters needs to spend
// its weights on movies rather than on spelling.
import { makeTokenizer } from "../../src/text/tokenizer.ts";
import type { Tokenizer } from "../../src/text/types.ts";

/** GPT-2's letters for bytes: printable ones stand for themselves. */
const byteLetters = (() => {
  const letters: string[] = [];
  let next = 256;
  for (let byte = 0; byte < 256; byte++) {
    const printable = (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
    letters.push(String.fromCodePoint(printable ? byte : next++));
  }
  return letters;
})();

const pieces = /\n| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|[^\S\n]+/gu;

/** The most frequent neighbours become one token, again and again; ties by their text, so that equal data give equal merges. */
export function learnMerges(texts: readonly string[], count: number): [string, string][] {
  const words = new Map<string, { parts: string[]; times: number }>();
  for (const text of texts)
    for (const [piece] of text.matchAll(pieces)) {
      const word = words.get(piece);
      if (word) word.times++;
      else words.set(piece, { parts: Array.from(Buffer.from(piece), (byte) => byteLetters[byte]!), times: 1 });
    }
  const merges: [string, string][] = [];
  while (merges.length < count) {
    const pairs = new Map<string, number>();
    for (const { parts, times } of words.values())
      for (let i = 1; i < parts.length; i++) {
        const pair = `${parts[i - 1]} ${parts[i]}`;
        pairs.set(pair, (pairs.get(pair) ?? 0) + times);
      }
    let best: [string, number] | undefined;
    for (const entry of pairs)
      if (!best || entry[1] > best[1] || (entry[1] === best[1] && entry[0] < best[0])) best = entry;
    if (!best || best[1] < 2) break;
    const [left, right] = best[0].split(" ") as [string, string];
    merges.push([left, right]);
    for (const word of words.values()) {
      const joined: string[] = [];
      for (const part of word.parts) {
        if (part === right && joined.at(-1) === left) joined[joined.length - 1] = left + right;
        else joined.push(part);
      }
      word.parts = joined;
    }
  }
  return merges;
}

/** Special tokens, bytes, merges, then one token for each of `titles`. */
export function tokenizerOf(merges: readonly [string, string][], titles: readonly string[]): Tokenizer {
  const vocabulary = ["<pad>", "<eos>", ...byteLetters, ...new Set(merges.map((pair) => pair.join("")))];
  const added = (content: string, id: number, special: boolean): object => ({
    id,
    content,
    single_word: false,
    lstrip: false,
    rstrip: false,
    normalized: false,
    special,
  });
  return makeTokenizer(
    {
      version: "1.0",
      truncation: null,
      padding: null,
      added_tokens: [
        ...["<pad>", "<eos>"].map((content, id) => added(content, id, true)),
        ...titles.map((title, i) => added(title, vocabulary.length + i, false)),
      ],
      normalizer: null,
      pre_tokenizer: {
        type: "Sequence",
        pretokenizers: [
          { type: "Split", pattern: { Regex: pieces.source }, behavior: "Isolated", invert: false },
          { type: "ByteLevel", add_prefix_space: false, trim_offsets: true, use_regex: false },
        ],
      },
      post_processor: null,
      decoder: { type: "ByteLevel" },
      model: {
        type: "BPE",
        vocab: Object.fromEntries(vocabulary.map((token, id) => [token, id])),
        merges: merges.map((pair) => pair.join(" ")),
      },
    },
    { eos_token: "<eos>", pad_token: "<pad>" },
  );
}
