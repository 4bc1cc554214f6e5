// Which token belongs to which line of a list, read from the tokens alone, and what each token is then told (method.md 3.2).
//
// The reading works on bytes, not on decoded text: for each id of the vocabulary it is found out once how the token's bytes move
// from line to line, so that a list costs one table look-up a token.
import { refuse } from "../errors.ts";
import type { Tokenizer } from "../text/types.ts";
import type { ReadingMode } from "./list.ts";

export interface TokenReading {
  /** Line of each token, from 0; never decreases. */
  readonly item: Int32Array;
  /** Number of lines. */
  readonly items: number;
  /** Index of the final stop token, or -1 where the list was cut. */
  readonly stop: number;
}

/** The published code's reading; `items` is what it calls emitted: lines counted by newlines, an empty last one included. */
export interface ReferenceReading extends TokenReading {
  readonly emitted: number;
}

/** Raw bytes of each id; with a whole tokenizer, special tokens inside a list count as empty, as they do in decoded text. */
export type VocabularyBytes =
  | readonly (Uint8Array | undefined)[]
  | (Pick<Tokenizer, "bytes"> & Partial<Pick<Tokenizer, "specialIds">>);

// What a token's bytes do to the reading.
const hasContent = 1; // a byte that is not part of a blank
const breaksFirst = 2; // a newline before the first such byte (or anywhere, if there is none)
const endsInLine = 4; // content after the last newline
const splitsBlank = 8; // the last bytes may be the start of a blank that the next token completes

export class ListReader {
  readonly #flags: Uint8Array;
  /** Lines that start inside the token after the one of its first content byte. */
  readonly #further: Uint16Array;
  readonly #newlines: Uint16Array;
  readonly #bytes: readonly (Uint8Array | undefined)[];
  readonly #empty: ReadonlySet<number>;
  readonly #stops: ReadonlySet<number>;

  /** @param stopIds every id that ends a list (the full set, not the end-of-text token alone) */
  constructor(tokens: VocabularyBytes, stopIds: Iterable<number>) {
    this.#bytes = "bytes" in tokens ? tokens.bytes : tokens;
    this.#empty = ("bytes" in tokens ? tokens.specialIds : undefined) ?? new Set();
    this.#stops = new Set(stopIds);
    const size = this.#bytes.length;
    this.#flags = new Uint8Array(size);
    this.#further = new Uint16Array(size);
    this.#newlines = new Uint16Array(size);
    for (let id = 0; id < size; id++) {
      const bytes = this.#bytes[id];
      if (bytes === undefined || bytes.length === 0 || this.#empty.has(id)) continue;
      const kinds = classify(bytes);
      this.#flags[id] = flagsOf(kinds, 0, kinds.length) | (mayStartBlank(bytes) ? splitsBlank : 0);
      this.#further[id] = furtherLines(kinds, 0, kinds.length);
      this.#newlines[id] = bytes.reduce((count, byte) => count + (byte === 0x0a ? 1 : 0), 0);
    }
  }

  /**
   * The line-aligned reading, the one of `readList`: lines are the non-empty ones. A token belongs to the line of its first byte that
   * is not blank; one of blanks alone to the line before it (or to line 0), so newlines close the line that they end. A stop token
   * at the end belongs to the last line.
   *
   * @throws RankGrpoError `INVALID_ARGUMENT` for an id outside the vocabulary.
   */
  read(ids: Int32Array): TokenReading {
    const stop = this.#stops.has(ids.at(-1) ?? -1) ? ids.length - 1 : -1;
    const length = stop < 0 ? ids.length : stop;
    const item = new Int32Array(ids.length);
    let split = false;
    for (let t = 0; t < length && !split; t++) split = (this.#flagsOf(ids[t]!) & splitsBlank) !== 0;
    const joined = split ? this.#join(ids.subarray(0, length)) : undefined;

    let items = 0;
    let inLine = false;
    for (let t = 0; t < length; t++) {
      const id = ids[t]!;
      let flags = this.#flagsOf(id);
      let further = this.#further[id]!;
      if (joined !== undefined) {
        flags = flagsOf(joined.kinds, joined.offsets[t]!, joined.offsets[t + 1]!);
        further = furtherLines(joined.kinds, joined.offsets[t]!, joined.offsets[t + 1]!);
      }
      if ((flags & hasContent) !== 0) {
        if (!inLine || (flags & breaksFirst) !== 0) items++;
        item[t] = items - 1;
        items += further;
        inLine = (flags & endsInLine) !== 0;
      } else {
        item[t] = Math.max(items - 1, 0);
        if ((flags & breaksFirst) !== 0) inLine = false;
      }
    }
    if (stop >= 0) item[stop] = Math.max(items - 1, 0);
    return { item, items, stop };
  }

  /**
   * The published code's reading: a token's line is the number of newlines in the tokens before it, blank lines counted, and only
   * `eosId` as the last token is a stop.
   */
  readReference(ids: Int32Array, eosId: number): ReferenceReading {
    const item = new Int32Array(ids.length);
    let line = 0;
    for (let t = 0; t < ids.length; t++) {
      item[t] = line;
      this.#flagsOf(ids[t]!); // refuses an id outside the vocabulary
      line += this.#newlines[ids[t]!]!;
    }
    const emitted = ids.length === 0 ? 0 : item[ids.length - 1]! + 1;
    return { item, items: emitted, emitted, stop: ids.at(-1) === eosId ? ids.length - 1 : -1 };
  }

  #flagsOf(id: number): number {
    return (
      this.#flags[id] ??
      refuse("INVALID_ARGUMENT", `an id in [0, ${this.#flags.length})`, "a token of a list to read", id)
    );
  }

  /** The bytes of all tokens classified together, for lists in which a blank may be split over tokens. */
  #join(ids: Int32Array): { kinds: Uint8Array; offsets: Int32Array } {
    const offsets = new Int32Array(ids.length + 1);
    const parts = Array.from(ids, (id) => (this.#empty.has(id) ? undefined : this.#bytes[id]));
    for (const [t, part] of parts.entries()) offsets[t + 1] = offsets[t]! + (part?.length ?? 0);
    const bytes = new Uint8Array(offsets[ids.length]!);
    for (const [t, part] of parts.entries()) if (part !== undefined) bytes.set(part, offsets[t]!);
    return { kinds: classify(bytes), offsets };
  }
}

// ---- bytes ----

const content = 0;
const blank = 1;
const newline = 2;

/** What each byte of UTF-8 text is part of. Blanks are those of ECMAScript's `\s`; broken sequences are content. */
function classify(bytes: Uint8Array): Uint8Array {
  const kinds = new Uint8Array(bytes.length);
  for (let i = 0; i < bytes.length; ) {
    const length = blankLength(bytes, i);
    kinds.fill(bytes[i] === 0x0a ? newline : blank, i, i + length);
    i += Math.max(length, 1);
  }
  return kinds;
}

/** Bytes of the blank that starts at i, 0 if none does. */
function blankLength(bytes: Uint8Array, i: number): number {
  const a = bytes[i]!;
  if ((a >= 0x09 && a <= 0x0d) || a === 0x20) return 1;
  const b = bytes[i + 1];
  const c = bytes[i + 2];
  if (a === 0xc2) return b === 0xa0 ? 2 : 0; // U+00A0
  if (b === undefined || c === undefined) return 0;
  const wide =
    (a === 0xe1 && b === 0x9a && c === 0x80) || // U+1680
    (a === 0xe2 && b === 0x80 && ((c >= 0x80 && c <= 0x8a) || c === 0xa8 || c === 0xa9 || c === 0xaf)) || // U+2000-200A, 2028, 2029, 202F
    (a === 0xe2 && b === 0x81 && c === 0x9f) || // U+205F
    (a === 0xe3 && b === 0x80 && c === 0x80) || // U+3000
    (a === 0xef && b === 0xbb && c === 0xbf); // U+FEFF
  return wide ? 3 : 0;
}

/** Whether the last one or two bytes are the start of a blank of several bytes. */
function mayStartBlank(bytes: Uint8Array): boolean {
  const last = bytes.at(-1)!;
  if (last === 0xc2 || last === 0xe1 || last === 0xe2 || last === 0xe3 || last === 0xef) return true;
  const before = bytes.at(-2);
  return (
    (before === 0xe1 && last === 0x9a) ||
    (before === 0xe2 && (last === 0x80 || last === 0x81)) ||
    (before === 0xe3 && last === 0x80) ||
    (before === 0xef && last === 0xbb)
  );
}

function flagsOf(kinds: Uint8Array, from: number, to: number): number {
  let flags = 0;
  for (let i = from; i < to; i++) {
    if (kinds[i] === content) flags |= hasContent | endsInLine;
    else if (kinds[i] === newline) flags = (flags | ((flags & hasContent) === 0 ? breaksFirst : 0)) & ~endsInLine;
  }
  return flags;
}

function furtherLines(kinds: Uint8Array, from: number, to: number): number {
  let lines = 0;
  let inLine = false;
  for (let i = from; i < to; i++) {
    if (kinds[i] === newline) inLine = false;
    else if (kinds[i] === content && !inLine) {
      lines++;
      inLine = true;
    }
  }
  return Math.max(lines - 1, 0);
}

// ---- advantages of the tokens ----

/** How a list's length is rewarded, in units of advantage (added after normalisation). */
export interface ShapingOptions {
  /** Which reading the advantages are for; see `shapeAdvantages`. */
  readonly mode: ReadingMode;
  /** On the stop token of a list with fewer than N items. Default -0.1 (paper, App. C); 0 turns it off. */
  readonly earlyStop: number;
  /** On what stands beyond rank N. Default -0.1. */
  readonly overflow: number;
  /** Whether `overflow` is for each token beyond rank N (published code), or is shared evenly by the tokens of each item there. */
  readonly overflowPer: "token" | "item";
  /** On the stop token of a list of exactly N items. 0 in the paper, 0.1 in the published code. */
  readonly exactLength: number;
  /** Advantage where no rank's stands, which the above are added to: that of the whole list, where every token has it. Default 0. */
  readonly base?: number;
}

/** The paper's constants on the line-aligned reading. */
export const paperShaping: ShapingOptions = {
  mode: "aligned",
  earlyStop: -0.1,
  overflow: -0.1,
  overflowPer: "token",
  exactLength: 0,
};

/** The published code's constants on its own reading. */
export const referenceShaping: ShapingOptions = { ...paperShaping, mode: "reference", exactLength: 0.1 };

/**
 * The advantage of each token from those of the ranks: a token of rank k has the advantage of rank k, one beyond rank N `base` and the
 * overflow penalty.
 *
 * - `aligned` (with `ListReader.read`): the stop token has the advantage of its item, plus `exactLength` where the list has exactly N
 *   items; after fewer than N it has `base` and `earlyStop` alone.
 * - `reference` (with `readReference`): the stop token has no rank's advantage, only `base` with `exactLength` or `earlyStop`, and the
 *   penalty if it stands beyond rank N.
 *
 * @param rankAdvantages [N]
 * @returns f32 [tokens]
 */
export function shapeAdvantages(
  reading: TokenReading,
  rankAdvantages: ArrayLike<number>,
  options: ShapingOptions,
): Float32Array {
  const { item, items, stop } = reading;
  const { base = 0 } = options;
  const n = rankAdvantages.length;
  const lengths = options.overflowPer === "item" ? tokenCounts(item) : undefined;
  const advantages = new Float32Array(item.length);
  for (let t = 0; t < item.length; t++) {
    const rank = item[t]!;
    if (rank >= n) advantages[t] = base + options.overflow / (lengths?.get(rank) ?? 1);
    else advantages[t] = t === stop && options.mode === "reference" ? base : rankAdvantages[rank]!;
  }
  if (stop < 0) return advantages;
  if (items < n) advantages[stop] = base + options.earlyStop;
  else if (items === n) advantages[stop]! += options.exactLength;
  return advantages;
}

function tokenCounts(item: Int32Array): Map<number, number> {
  const counts = new Map<number, number>();
  for (const rank of item) counts.set(rank, (counts.get(rank) ?? 0) + 1);
  return counts;
}
