// The layout of tokenizer.json (Hugging Face `tokenizers`), checked before anything is built from it: model, vocabulary, merges, added
// tokens. What this project cannot tokenise exactly as the Rust library does is refused here by name.
import { RankGrpoError, refuse } from "../errors.ts";

/** Ids at or above this are no vocabulary; the native side has the same limit. */
const ID_LIMIT = 1 << 22;

export interface AddedToken {
  id: number;
  content: string;
  special: boolean;
  [flag: string]: unknown;
}

/** A step of a normalizer, pre-tokenizer or decoder: `type` and its settings. */
export interface Step {
  type: string;
  [setting: string]: unknown;
}

export interface TokenizerLayout {
  /** Model type, its vocabulary (token to id) and, for BPE, merges as pairs in order of rank. */
  model: Step & { type: "BPE" | "WordLevel"; vocab: Record<string, number>; merges: readonly [string, string][] };
  added: AddedToken[];
  normalizer: Step | null;
  preTokenizer: Step | null;
  decoder: Step | null;
}

export type Json = Record<string, unknown>;
export const isObject = (value: unknown): value is Json =>
  typeof value === "object" && value !== null && !Array.isArray(value);

function bad(where: string, what: string, name: string, value: unknown): never {
  refuse("BAD_CHECKPOINT", what, `${name} of ${where}`, value);
}

/** Parses a JSON object of a checkpoint's file; BAD_CHECKPOINT names the file. */
export function parseObject(text: string, where: string): Json {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (error) {
    throw new RankGrpoError("BAD_CHECKPOINT", `Expected JSON in ${where}, got: ${(error as Error).message}.`);
  }
  return isObject(value) ? value : bad(where, "a JSON object", "the whole", value);
}

function checkId(value: unknown, name: string, where: string): number {
  if (typeof value !== "number" || !Number.isInteger(value) || value < 0 || value >= ID_LIMIT)
    bad(where, `a token id from 0 to ${ID_LIMIT - 1}`, name, value);
  return value;
}

function checkStep(value: unknown, name: string, where: string): Step | null {
  if (value === undefined || value === null) return null;
  if (!isObject(value) || typeof value["type"] !== "string") bad(where, "null or an object with a type", name, value);
  return value as Step;
}

function checkMerges(merges: unknown, vocab: ReadonlyMap<string, number>, where: string): [string, string][] {
  if (!Array.isArray(merges)) bad(where, "a list of pairs", "model.merges", merges);
  return merges.map((merge: unknown, i) => {
    const pair = typeof merge === "string" ? merge.split(" ") : merge;
    if (!Array.isArray(pair) || pair.length !== 2 || typeof pair[0] !== "string" || typeof pair[1] !== "string")
      bad(where, "two tokens parted by a space, or a list of two", `model.merges[${i}]`, merge);
    const [left, right] = pair as [string, string];
    for (const token of [left, right, left + right])
      if (!vocab.has(token))
        bad(where, `tokens of the vocabulary, here ${JSON.stringify(token)},`, `model.merges[${i}]`, merge);
    return [left, right];
  });
}

/** Checks a list of added tokens against the vocabulary: an id of their own, or that of the same token there. */
export function readAdded(
  list: unknown,
  vocab: ReadonlyMap<string, number>,
  name: string,
  where: string,
): AddedToken[] {
  if (!Array.isArray(list)) bad(where, "a list", name, list);
  if (list.length === 0) return [];
  const owner = new Map(Array.from(vocab, ([token, id]) => [id, token]));
  return list.map((token: unknown, i): AddedToken => {
    if (!isObject(token) || typeof token["content"] !== "string" || token["content"] === "")
      bad(where, "an object with id and content", `${name}[${i}]`, token);
    const content = token["content"];
    const id = checkId(token["id"], `${name}[${i}].id`, where);
    if ((vocab.get(content) ?? id) !== id || (owner.get(id) ?? content) !== content)
      bad(where, "an id that agrees with the vocabulary", `${name}[${i}]`, token);
    if (token["single_word"] === true) bad(where, "false", `${name}[${i}].single_word`, true); // the library would find it inside words
    owner.set(id, content);
    return { ...token, id, content, special: token["special"] === true };
  });
}

/** Checks the JSON of tokenizer.json; `where` names it. Throws BAD_CHECKPOINT with the field, what was expected and what came. */
export function readLayout(json: Json, where: string): TokenizerLayout {
  const model = json["model"];
  if (!isObject(model)) bad(where, "an object", "model", model);
  const type = model["type"] ?? ("merges" in model ? "BPE" : undefined); // old files leave BPE's type out
  if (type !== "BPE" && type !== "WordLevel") bad(where, '"BPE" or "WordLevel"', "model.type", type);
  if (!isObject(model["vocab"])) bad(where, "an object of tokens and ids", "model.vocab", model["vocab"]);
  const vocab = new Map<string, number>();
  const taken = new Map<number, string>();
  for (const [token, id] of Object.entries(model["vocab"])) {
    checkId(id, `model.vocab[${JSON.stringify(token)}]`, where);
    if (taken.has(id as number))
      bad(
        where,
        `an id of its own, not that of ${JSON.stringify(taken.get(id as number))},`,
        `model.vocab[${JSON.stringify(token)}]`,
        id,
      );
    taken.set(id as number, token);
    vocab.set(token, id as number);
  }
  if (type === "BPE") {
    for (const name of ["continuing_subword_prefix", "end_of_word_suffix"])
      if (model[name]) bad(where, "none (as Llama and Qwen have none)", `model.${name}`, model[name]);
  } else if (typeof model["unk_token"] !== "string") {
    bad(where, "a token for unknown words", "model.unk_token", model["unk_token"]);
  }

  return {
    model: {
      ...model,
      type,
      vocab: model["vocab"] as Record<string, number>,
      merges: type === "BPE" ? checkMerges(model["merges"], vocab, where) : [],
    },
    added: readAdded(json["added_tokens"] ?? [], vocab, "added_tokens", where),
    normalizer: checkStep(json["normalizer"], "normalizer", where),
    preTokenizer: checkStep(json["pre_tokenizer"], "pre_tokenizer", where),
    decoder: checkStep(json["decoder"], "decoder", where),
  };
}

/** The steps of a Sequence (under `key`), or the one step itself. */
export function steps(step: Step | null, key: "decoders" | "pretokenizers" | "normalizers"): Step[] {
  if (step === null) return [];
  if (step.type !== "Sequence") return [step];
  const parts = step[key];
  return Array.isArray(parts) ? parts.filter(isObject).flatMap((part) => steps(part as Step, key)) : [];
}
