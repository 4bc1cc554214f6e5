// Segmentations: which tokens of a completion share one importance ratio. The built-in ones are made by name; one of your own is any function
// of the type `Segmentation`.
import { refuse } from "../errors.ts";
import type { Tokenizer } from "../text/types.ts";

/** A completion as a segmentation sees it. T tokens; their texts, one after the other, are `text`. */
export interface TokenText {
  /** [T] */
  readonly ids: Int32Array;
  /** Decoded; special tokens (the stop token) are empty. */
  readonly text: string;
  /** [T + 1]: token t is text.slice(offsets[t], offsets[t + 1]), in UTF-16 units; a token within a character is empty. */
  readonly offsets: Int32Array;
  /** [T]: line of each token, from 0, as ranks are read (`ListReader.read`). */
  readonly lines: Int32Array;
}

/** Segment of each token, from 0; -1 leaves a token out of loss and KL. [T] */
export type Segmentation = (completion: TokenText) => ArrayLike<number>;

/** Names of the built-in segmentations, as the configuration spells them. */
export const segmentationNames = ["token", "line", "sequence", "sentence", "regex", "json", "width"] as const;
export type SegmentationName = (typeof segmentationNames)[number];

export interface SegmentationOptions {
  /** Of regex, which needs it: what ends a segment and belongs to it. JavaScript's syntax with flags `gu`. */
  readonly pattern?: string | undefined;
  /** Of width, which needs it: tokens of a segment, from 1. */
  readonly width?: number | undefined;
}

const sentenceEnd = /(?:[.!?…]+["'”’)\]]*\s+|[。！？]+["'”’」』）]*\s*|\n+)/gu;

/**
 * A built-in segmentation by name:
 *
 *   token      each token by itself (GRPO)
 *   line       lines, as ranks are read: Rank-GRPO's items
 *   sequence   the whole completion (GSPO)
 *   sentence   up to . ! ? … and a blank after it, or a line's end
 *   regex      up to what `pattern` matches
 *   json       elements of the first array of the text, each with the comma that ends it; without an array, all of it
 *   width      `width` tokens each, counted from the start
 *
 * A token belongs to the segment of its first character that is no blank; one of blanks alone, and the stop token, to the segment before.
 *
 * @throws RankGrpoError INVALID_ARGUMENT for an unknown name, and where pattern or width is missing or wrong.
 */
export function createSegmentation(name: string, options: SegmentationOptions = {}): Segmentation {
  switch (name as SegmentationName) {
    case "token":
      return ({ ids }) => Int32Array.from(ids.keys());
    case "line":
      return ({ lines }) => lines;
    case "sequence":
      return ({ ids }) => new Int32Array(ids.length);
    case "sentence":
      return (completion) => between(completion, endsOf(completion.text, sentenceEnd));
    case "regex": {
      const pattern = readPattern(options.pattern);
      return (completion) => between(completion, endsOf(completion.text, pattern));
    }
    case "json":
      return (completion) => between(completion, elementEnds(completion.text));
    case "width": {
      const { width } = options;
      if (width === undefined || !Number.isSafeInteger(width) || width < 1)
        refuse("INVALID_ARGUMENT", "a whole number from 1", "width of segmentation width", width);
      return ({ ids }) => Int32Array.from(ids.keys(), (t) => Math.floor(t / width));
    }
    default:
      return refuse("INVALID_ARGUMENT", `one of ${segmentationNames.join(", ")}`, "the segmentation's name", name);
  }
}

function readPattern(pattern: string | undefined): RegExp {
  if (!pattern) refuse("INVALID_ARGUMENT", "a regular expression", "pattern of segmentation regex", pattern);
  try {
    return new RegExp(pattern, "gu");
  } catch (error) {
    const why = error instanceof Error ? error.message : String(error);
    return refuse("INVALID_ARGUMENT", "a regular expression", "pattern of segmentation regex", pattern, `${why}.`);
  }
}

/** Where the matches end, ascending; empty matches end nothing. */
const endsOf = (text: string, pattern: RegExp): number[] =>
  [...text.matchAll(pattern)].filter((match) => match[0] !== "").map((match) => match.index + match[0].length);

/** Behind each comma between elements of the first array. */
function elementEnds(text: string): number[] {
  const ends: number[] = [];
  let depth = 0; // of brackets, from the first [ on
  let quoted = false;
  for (let i = 0; i < text.length; i++) {
    const c = text[i]!;
    if (quoted) {
      if (c === "\\") i++;
      else if (c === '"') quoted = false;
    } else if (c === '"') quoted = true;
    else if (c === "[" || (c === "{" && depth > 0)) depth++;
    else if ((c === "]" || c === "}") && depth > 0) {
      if (--depth === 0) break;
    } else if (c === "," && depth === 1) ends.push(i + 1);
  }
  return ends;
}

/** Segments that end at these places of the text. */
function between({ text, offsets }: TokenText, ends: readonly number[]): Int32Array {
  const segments = new Int32Array(offsets.length - 1);
  let before = 0;
  let passed = 0;
  for (let t = 0; t < segments.length; t++) {
    const at = offsets[t]! + text.slice(offsets[t], offsets[t + 1]).search(/\S/u);
    if (at >= offsets[t]!) {
      while (passed < ends.length && ends[passed]! <= at) passed++;
      before = passed;
    }
    segments[t] = before;
  }
  return segments;
}

/** The text of a completion with the place of each token. */
export function tokenText(ids: Int32Array, tokenizer: Tokenizer | undefined, lines: Int32Array): TokenText {
  const decoder = new TextDecoder("utf-8", { ignoreBOM: true });
  const offsets = new Int32Array(ids.length + 1);
  let text = "";
  for (const [t, id] of ids.entries()) {
    if (tokenizer && !tokenizer.specialIds.has(id)) text += decoder.decode(tokenizer.bytes[id], { stream: true });
    offsets[t + 1] = text.length;
  }
  return { ids, text, offsets, lines };
}

/** Runs a segmentation and checks what it gives. @throws RankGrpoError INVALID_ARGUMENT naming segmentation and token */
export function segmentsOf(name: string, segmentation: Segmentation, completion: TokenText): Int32Array {
  const segments = segmentation(completion);
  const T = completion.ids.length;
  const count = (segments as ArrayLike<number> | undefined)?.length;
  if (count !== T) refuse("INVALID_ARGUMENT", `${T} numbers, one for each token,`, `segmentation ${name}`, count);
  const out = new Int32Array(T);
  for (let t = 0; t < T; t++) {
    const segment = segments[t]!;
    if (!Number.isSafeInteger(segment) || segment < -1 || segment > 0x7fffffff)
      refuse("INVALID_ARGUMENT", "a whole number from -1", `segmentation ${name} at token ${t}`, segment);
    out[t] = segment;
  }
  return out;
}
