// What each token stands for: bytes per id, and ids back to text, as the decoder of tokenizer.json says (byte-level BPE, SentencePiece with
// byte fallback, whole words). The result is the Rust library's, byte for byte; it is written here because rewards, segments and stop
// strings need the bytes anyway, and because the JavaScript library loses a byte order mark and miscounts broken byte tokens.
import { RankGrpoError, shown } from "../errors.ts";
import { type AddedToken, type Step, steps, type TokenizerLayout } from "./layout.ts";

/** How tokens become text. */
interface Decoding {
  byteLevel: boolean;
  byteFallback: boolean;
  /** The text's first space belongs to the tokenizer, not to the text. */
  dropsFirstSpace: boolean;
  /** A space stands before every token (no decoder at all: whole words). */
  spaced: boolean;
  replacements: readonly [string, string][];
}

/** GPT-2's alphabet: a printable character for every byte. */
const byteOf: ReadonlyMap<string, number> = (() => {
  const map = new Map<string, number>();
  let next = 256;
  for (let b = 0; b < 256; b++) {
    const printable = (b >= 0x21 && b <= 0x7e) || (b >= 0xa1 && b <= 0xac) || b >= 0xae;
    map.set(String.fromCharCode(printable ? b : next++), b);
  }
  return map;
})();

/** Characters of GPT-2's alphabet that a vocabulary has no token for. */
export const bytesWithout = (vocab: Readonly<Record<string, number>>): string[] =>
  [...byteOf.keys()].filter((character) => !Object.hasOwn(vocab, character));

const utf8 = new TextEncoder();
const lossy = new TextDecoder("utf-8", { ignoreBOM: true });
const strict = new TextDecoder("utf-8", { ignoreBOM: true, fatal: true });
const byteToken = /^<0x([0-9A-Fa-f]{2})>$/;

function readDecoding(decoder: Step | null, where: string): Decoding {
  const replacements: [string, string][] = [];
  const found = { byteLevel: false, byteFallback: false, dropsFirstSpace: false, spaced: decoder === null };
  let fused = false;
  const refuseStep = (step: Step): never => {
    throw new RankGrpoError(
      "BAD_CHECKPOINT",
      `Expected a decoder of byte-level BPE, SentencePiece or whole words in ${where}, got ${shown(step)}.`,
    );
  };
  for (const step of steps(decoder, "decoders")) {
    if (step.type === "ByteLevel") found.byteLevel = true;
    else if (step.type === "ByteFallback") found.byteFallback = true;
    else if (step.type === "Fuse") fused = true;
    else if (step.type === "Metaspace") {
      replacements.push([String(step["replacement"] ?? "\u2581"), " "]);
      found.dropsFirstSpace =
        (step["prepend_scheme"] ?? (step["add_prefix_space"] === false ? "never" : "always")) !== "never";
    } else if (step.type === "Replace") {
      const pattern = step["pattern"] as { String?: unknown } | undefined;
      if (typeof pattern?.String !== "string" || typeof step["content"] !== "string") refuseStep(step);
      else replacements.push([pattern.String, step["content"]]);
    } else if (step.type === "Strip") {
      if (!fused || step["content"] !== " " || step["start"] !== 1 || step["stop"] !== 0) refuseStep(step);
      found.dropsFirstSpace = true;
    } else refuseStep(step);
  }
  return { ...found, dropsFirstSpace: found.dropsFirstSpace || found.spaced, replacements };
}

export class TokenBytes {
  /** By id; an id without a token has no bytes. SentencePiece's leading space is among them, as is the space between whole words. */
  readonly table: Uint8Array[];
  readonly #special: ReadonlySet<number>;
  readonly #decoding: Decoding;
  /** SentencePiece tokens of one raw byte. */
  readonly #single = new Set<number>();

  constructor(layout: TokenizerLayout, added: readonly AddedToken[], where: string) {
    this.#decoding = readDecoding(layout.decoder, where);
    this.#special = new Set(added.filter((token) => token.special).map((token) => token.id));
    const tokens: [string, number, boolean][] = Object.entries(layout.model.vocab).map(([token, id]) => [
      token,
      id,
      false,
    ]);
    for (const { content, id } of added) tokens.push([content, id, true]);
    const size = tokens.reduce((most, [, id]) => Math.max(most, id + 1), 0);
    this.table = Array.from({ length: size }, () => new Uint8Array());
    for (const [token, id, isAdded] of tokens) this.table[id] = this.#bytesOf(token, id, isAdded);
  }

  #bytesOf(token: string, id: number, added: boolean): Uint8Array {
    const { byteLevel, byteFallback, spaced, replacements } = this.#decoding;
    if (byteLevel) {
      const bytes = added ? [] : Array.from(token, (character) => byteOf.get(character));
      return added || bytes.includes(undefined) ? utf8.encode(token) : Uint8Array.from(bytes as number[]);
    }
    const byte = byteFallback ? byteToken.exec(token)?.[1] : undefined;
    if (byte !== undefined) {
      this.#single.add(id);
      return Uint8Array.of(Number.parseInt(byte, 16));
    }
    const text = replacements.reduce((t, [from, to]) => t.replaceAll(from, to), token);
    return utf8.encode(spaced ? ` ${text}` : text);
  }

  /** Text of ids; those without a token are passed over. Broken UTF-8 gives U+FFFD where and as often as the Rust library gives it. */
  decode(ids: ArrayLike<number>, keepSpecial: boolean): string {
    const parts: Uint8Array[] = [];
    let text = "";
    let run: number[] = []; // raw bytes of a run of byte tokens
    const flush = (): void => {
      if (run.length === 0) return;
      try {
        text += strict.decode(Uint8Array.from(run));
      } catch {
        text += "\ufffd".repeat(run.length);
      }
      run = [];
    };
    for (let i = 0; i < ids.length; i++) {
      const id = ids[i] as number;
      const bytes = this.table[id];
      if (bytes === undefined || bytes.length === 0 || (!keepSpecial && this.#special.has(id))) continue;
      if (this.#decoding.byteLevel) parts.push(bytes);
      else if (this.#single.has(id)) run.push(bytes[0] as number);
      else {
        flush();
        text += lossy.decode(bytes);
      }
    }
    flush();
    if (this.#decoding.byteLevel) text = lossy.decode(concatenate(parts));
    return this.#decoding.dropsFirstSpace && text.startsWith(" ") ? text.slice(1) : text;
  }
}

export function concatenate(parts: readonly Uint8Array[]): Uint8Array {
  const out = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    out.set(part, at);
    at += part.length;
  }
  return out;
}
