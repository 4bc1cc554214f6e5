// A checkpoint's tokenizer: the one place that knows @huggingface/tokenizers. It makes that library agree with the Rust library that
// transformers uses (digits, words and whitespace of all of Unicode, unknown characters, no clean-up of spaces) and adds bytes per token,
// the chat template and the files that a saved model folder needs.
import { createHash } from "node:crypto";
import { readFile, stat } from "node:fs/promises";
import { join } from "node:path";

import { Tokenizer as Library } from "@huggingface/tokenizers";

import type { Message } from "../data/sample.ts";
import { RankGrpoError, refuse, shown } from "../errors.ts";
import { addon } from "../native.ts";
import { bytesWithout, TokenBytes } from "./bytes.ts";
import {
  type AddedToken,
  isObject,
  type Json,
  parseObject,
  readAdded,
  readLayout,
  type Step,
  steps,
  type TokenizerLayout,
} from "./layout.ts";
import { type ChatOptions, chatRenderer, type RenderChat } from "./template.ts";
import type { Tokenizer } from "./types.ts";

/** What is used of the library, whose own types are lost under nodenext. */
interface Encoder {
  encode(text: string, options: { add_special_tokens: boolean }): { ids: (number | undefined)[]; tokens: string[] };
}
const makeEncoder = (json: unknown, config: unknown): Encoder =>
  new (Library as unknown as new (json: unknown, config: unknown) => Encoder)(json, config);

/** Files that belong to the tokenizer and the prompts and stops of a model folder. */
const fileNames = [
  "tokenizer.json",
  "tokenizer_config.json",
  "special_tokens_map.json",
  "added_tokens.json",
  "chat_template.jinja",
  "generation_config.json",
] as const;
type Files = Partial<Record<(typeof fileNames)[number], string>>;

const gpt2Split = "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";
/**
 * Splits that never join a word to the space after it, or anything but punctuation to a newline: what they make of a word does not depend on
 * its neighbours. GPT-2's, those of Llama 3 and Qwen 2 (cl100k's kin), and words with the space before them.
 */
const wordwiseSplits: ReadonlySet<unknown> = new Set([
  gpt2Split,
  ...["\\p{N}{1,3}", "\\p{N}"].map(
    (digits) =>
      `(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|${digits}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+`,
  ),
  "\\n| ?[^ \\n]+",
]);
const splitsWords = (step: Step): boolean =>
  step.type === "Split" &&
  step["behavior"] === "Isolated" &&
  step["invert"] !== true &&
  isObject(step["pattern"]) &&
  wordwiseSplits.has(step["pattern"]["Regex"]);
/** The library's steps (of `librarySteps`): one splits words, the others only split further or map bytes. */
function isWordwise(steps: Step | null, normalizer: Step | null): boolean {
  if (normalizer !== null && normalizer.type !== "NFC") return false;
  if (steps === null) return false;
  const flat = (step: Step): Step[] =>
    step.type === "Sequence" && Array.isArray(step["pretokenizers"])
      ? (step["pretokenizers"] as Step[]).flatMap(flat)
      : [step];
  const all = flat(steps);
  const digits = (step: Step): boolean =>
    step.type === "Split" &&
    isObject(step["pattern"]) &&
    ["\\p{N}", "\\p{N}+"].includes(String(step["pattern"]["Regex"]));
  const bytes = (step: Step): boolean =>
    step.type === "ByteLevel" && step["use_regex"] === false && step["add_prefix_space"] !== true;
  return all.some(splitsWords) && all.every((step) => splitsWords(step) || digits(step) || bytes(step));
}
/** Words with single spaces between, and a newline after some. */
const plainLines = /^[^\s\p{Zs}]+(?:[ \n][^\s\p{Zs}]+)*\n?$/u;

const split = (regex: string, behavior: "Isolated" | "Removed" = "Isolated", invert = false): Step => ({
  type: "Split",
  pattern: { Regex: regex },
  behavior,
  invert,
});

/** Of all of Unicode, as the Rust library has them: characters of a word, and punctuation. */
const wordClass = "\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}\\u200c\\u200d";
const punctuation = "[\\p{P}!-/:-@\\[-`{-~]";

/**
 * The library's digits are ASCII's, its whitespace and words JavaScript's, and it knows one behaviour of Split and of Punctuation; all become
 * patterns of the Rust library, which the library's own Split step translates rightly. BAD_CHECKPOINT for what it would split otherwise.
 */
function librarySteps(step: Step | null, where: string): Step | null {
  if (step === null) return null;
  const behavior = step["behavior"] ?? "Isolated";
  const refuseBehavior = (known: string): never =>
    refuse("BAD_CHECKPOINT", known, `behavior of ${step.type} in pre_tokenizer of ${where}`, behavior);
  switch (step.type) {
    case "Digits":
      return split(step["individual_digits"] === true ? "\\p{N}" : "\\p{N}+");
    case "ByteLevel": {
      if (step["use_regex"] === false) return step;
      const prefix: Step = { type: "Replace", pattern: { Regex: "\\A[^ ]" }, content: " $&" };
      const bytes: Step = { ...step, use_regex: false, add_prefix_space: false };
      const parts = [split(gpt2Split), bytes];
      return { type: "Sequence", pretokenizers: step["add_prefix_space"] === true ? [prefix, ...parts] : parts };
    }
    case "Split": {
      const given = step["pattern"];
      const text = isObject(given) && typeof given["String"] === "string" ? given["String"] : undefined;
      const pattern = text === undefined ? given : { Regex: text.replace(/[\\^$.*+?()[\]{}|]/g, "\\$&") };
      if (behavior === "Removed") return { ...step, pattern };
      if (behavior === "Isolated") return { ...step, pattern, invert: false }; // what matches and what does not is kept alike
      return refuseBehavior("Isolated or Removed");
    }
    case "Punctuation":
      if (behavior === "Isolated") return split(punctuation);
      if (behavior === "Contiguous") return split(`${punctuation}+`);
      return behavior === "Removed" ? split(punctuation, "Removed") : refuseBehavior("Isolated, Contiguous or Removed");
    case "WhitespaceSplit":
      return split("\\s+", "Removed");
    case "Whitespace":
      return split(`[${wordClass}]+|[^${wordClass}\\s]+`, "Removed", true);
    case "BertPreTokenizer":
      return { type: "Sequence", pretokenizers: [split("\\s+", "Removed"), split(punctuation)] };
    case "FixedLength":
      return split(`[\\s\\S]{1,${Number(step["length"] ?? 5)}}`);
    case "Sequence":
      return Array.isArray(step["pretokenizers"])
        ? { ...step, pretokenizers: step["pretokenizers"].map((part: Step) => librarySteps(part, where)) }
        : step;
    default:
      return step;
  }
}

/** Normalizers likewise: Strip's whitespace is Unicode's, and what Replace puts in is no pattern. */
function libraryNormalizer(step: Step | null): Step | null {
  const replace = (regex: string): Step => ({ type: "Replace", pattern: { Regex: regex }, content: "" });
  if (step?.type === "Strip") {
    const ends = [step["strip_left"] === true ? "\\A\\s+" : "", step["strip_right"] === true ? "\\s+\\z" : ""];
    return { type: "Sequence", normalizers: ends.filter((end) => end !== "").map(replace) };
  }
  if (step?.type === "Replace" && typeof step["content"] === "string")
    return { ...step, content: step["content"].replaceAll("$", "$$$$") };
  if (step?.type === "Sequence" && Array.isArray(step["normalizers"]))
    return { ...step, normalizers: step["normalizers"].map((part: Step) => libraryNormalizer(part)) };
  return step;
}

/**
 * A character that neither the vocabulary nor an unknown token stands for is dropped before merging, so that its neighbours may merge
 * (SmolLM2 has no tokens for a few control bytes); the library drops it afterwards. This step goes behind all others; null: not needed.
 */
function dropUnknown({ model, preTokenizer }: TokenizerLayout): Step | null {
  const unknown = model["unk_token"];
  const known = typeof unknown === "string" && Object.hasOwn(model.vocab, unknown);
  if (model.type !== "BPE" || known || model["byte_fallback"] === true) return null;
  const drop = (characters: string[], not: "" | "^"): Step => {
    const codes = characters.map((character) => `\\x{${character.codePointAt(0)!.toString(16)}}`);
    return { type: "Replace", pattern: { Regex: `[${not}${codes.join("")}]` }, content: "" };
  };
  if (steps(preTokenizer, "pretokenizers").at(-1)?.type === "ByteLevel") {
    const missing = bytesWithout(model.vocab);
    return missing.length > 0 ? drop(missing, "") : null;
  }
  const single = Object.keys(model.vocab).filter((token) => [...token].length === 1);
  return single.length > 0 ? drop(single, "^") : null;
}

/** A special token of tokenizer_config.json: its text, or an object with its text. */
const textOf = (value: unknown): string | undefined =>
  typeof value === "string"
    ? value
    : isObject(value) && typeof value["content"] === "string"
      ? value["content"]
      : undefined;

const namedSpecials = ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

/** Added tokens as transformers has them: those of tokenizer.json, then what tokenizer_config.json adds or changes. */
function addedTokens(layout: TokenizerLayout, config: Json, where: string): AddedToken[] {
  const added = new Map(layout.added.map((token) => [token.content, token]));
  const decoder = config["added_tokens_decoder"];
  const listed: unknown[] = isObject(decoder)
    ? Object.entries(decoder).map(([id, token]) => (isObject(token) ? { ...token, id: Number(id) } : token))
    : [];
  const vocab = new Map(Object.entries(layout.model.vocab));
  const again = readAdded(listed, vocab, "added_tokens_decoder", where);
  for (const token of again) added.set(token.content, token);
  const extra = config["additional_special_tokens"];
  const names = [...namedSpecials.map((name) => config[name]), ...(Array.isArray(extra) ? extra : [])];
  for (const content of names.map(textOf)) {
    const id = content === undefined ? undefined : layout.model.vocab[content];
    if (content !== undefined && id !== undefined && !added.has(content))
      added.set(content, { id, content, special: true, normalized: false });
  }
  return [...added.values()];
}

class CheckpointTokenizer implements Tokenizer {
  readonly vocabSize: number;
  readonly bytes: readonly Uint8Array[];
  readonly specialIds: ReadonlySet<number>;
  readonly bosId: number | undefined;
  readonly eosId: number | undefined;
  readonly chatTemplate: string | undefined;
  readonly files: Readonly<Files>;
  readonly #where: string;
  readonly #layout: TokenizerLayout;
  readonly #added: readonly AddedToken[];
  readonly #tokens: TokenBytes;
  readonly #encoder: Encoder;
  readonly #renderChat: RenderChat | undefined;
  readonly #wordwise: boolean;
  /** A character that some added token begins with. */
  readonly #addedStart: RegExp;
  #fingerprint: string | undefined;

  constructor(
    json: Json,
    config: Json,
    template: string | undefined,
    files: Files,
    where: string,
    options: ChatOptions,
  ) {
    this.#where = where;
    this.files = files;
    this.#layout = readLayout(json, where);
    this.#added = addedTokens(this.#layout, config, where);
    this.#tokens = new TokenBytes(this.#layout, this.#added, where);
    this.bytes = this.#tokens.table;
    this.vocabSize = this.bytes.length;
    this.specialIds = new Set(this.#added.filter((token) => token.special).map((token) => token.id));
    const { model, normalizer, preTokenizer } = this.#layout;
    const split = librarySteps(preTokenizer, where);
    const drop = dropUnknown(this.#layout);
    // an added token with a newline inside could reach from one line into the next
    this.#wordwise = isWordwise(split, normalizer) && !this.#added.some(({ content }) => content.includes("\n"));
    const starts = new Set(this.#added.map(({ content }) => content.codePointAt(0)!.toString(16)));
    this.#addedStart = new RegExp(
      starts.size > 0 ? `[${[...starts].map((code) => `\\u{${code}}`).join("")}]` : "$^",
      "u",
    );
    try {
      this.#encoder = makeEncoder(
        {
          model,
          added_tokens: this.#added,
          normalizer: libraryNormalizer(normalizer),
          pre_tokenizer:
            drop === null ? split : { type: "Sequence", pretokenizers: split === null ? [drop] : [split, drop] },
          post_processor: null, // adds special tokens, which encode() does not
          decoder: null,
        },
        { unk_token: model["unk_token"] },
      );
    } catch (error) {
      throw new RankGrpoError("BAD_CHECKPOINT", `Expected a tokenizer in ${where}, got: ${(error as Error).message}.`);
    }
    const idOf = (name: string): number | undefined => {
      const content = textOf(config[name]);
      if (content === undefined) return undefined;
      return this.#added.find((token) => token.content === content)?.id ?? model.vocab[content];
    };
    this.bosId = idOf("bos_token");
    this.eosId = idOf("eos_token");
    this.chatTemplate = template;
    const specials = namedSpecials.flatMap((name) => {
      const content = textOf(config[name]);
      return content === undefined ? [] : [[name, content] as const];
    });
    this.#renderChat =
      template === undefined ? undefined : chatRenderer(template, where, Object.fromEntries(specials), options);
  }

  get fingerprint(): string {
    this.#fingerprint ??= this.#hash();
    return this.#fingerprint;
  }

  #hash(): string {
    const { model, normalizer, preTokenizer } = this.#layout;
    const hash = createHash("sha256");
    const lengths = Int32Array.from(this.bytes, (bytes) => bytes.length);
    hash.update(JSON.stringify([model["ignore_merges"] === true, normalizer, preTokenizer, this.#added]));
    hash.update(new Uint8Array(lengths.buffer));
    for (const bytes of this.bytes) hash.update(bytes);
    hash.update(model.merges.map((pair) => pair.join(" ")).join("\n"));
    return hash.digest("hex");
  }

  encode(text: string): number[] {
    if (text === "") return [];
    const { ids, tokens } = this.#encoder.encode(text, { add_special_tokens: false });
    const unknown = ids.indexOf(undefined);
    if (unknown >= 0)
      throw new RankGrpoError("BAD_DATA", `Expected words that ${this.#where} knows, got ${shown(tokens[unknown])}.`);
    return ids as number[];
  }

  isWordwise(text: string): boolean {
    return (
      this.#wordwise &&
      plainLines.test(text) &&
      text === text.normalize("NFC") &&
      !(this.#addedStart.test(text) && this.#added.some(({ content }) => text.includes(content)))
    );
  }

  decode(ids: ArrayLike<number>, options: { keepSpecial?: boolean } = {}): string {
    return this.#tokens.decode(ids, options.keepSpecial ?? false);
  }

  renderChat(messages: readonly Message[], options: { addGenerationPrompt?: boolean } = {}): string {
    if (this.#renderChat === undefined)
      throw new RankGrpoError(
        "BAD_DATA",
        `Expected a chat template in ${this.#where} for prompts given as messages, got none. Give prompts as text, or use a chat model.`,
      );
    return this.#renderChat(messages, options);
  }
}

/** The template of a folder: chat_template.jinja, else tokenizer_config.json's (a text, or a list of named ones with a "default"). */
function templateOf(config: Json, file: string | undefined): string | undefined {
  if (file !== undefined) return file;
  const value = config["chat_template"];
  if (typeof value === "string") return value;
  if (!Array.isArray(value)) return undefined;
  const entry: unknown = value.find((item: unknown) => isObject(item) && item["name"] === "default");
  return isObject(entry) && typeof entry["template"] === "string" ? entry["template"] : undefined;
}

/** A tokenizer from the texts of its files; `where` names it in messages. */
function fromFiles(files: Files, where: string, options: ChatOptions): Tokenizer {
  const parsed = (name: keyof Files): Json => parseObject(files[name] ?? "{}", `${where}/${name}`);
  // special_tokens_map.json is the older place of what tokenizer_config.json says now
  const config = { ...parsed("special_tokens_map.json"), ...parsed("tokenizer_config.json") };
  const template = templateOf(config, files["chat_template.jinja"]);
  return new CheckpointTokenizer(parsed("tokenizer.json"), config, template, files, `${where}/tokenizer.json`, options);
}

async function readFolder(folder: string): Promise<Files> {
  const files: Files = {};
  await Promise.all(
    fileNames.map(async (name) => {
      const path = join(folder, name);
      try {
        files[name] = await readFile(path, "utf8");
      } catch (error) {
        if ((error as NodeJS.ErrnoException).code !== "ENOENT")
          throw new RankGrpoError("IO", `Expected a readable file at ${path}, got: ${(error as Error).message}.`);
      }
    }),
  );
  return files;
}

/**
 * The tokenizer of a checkpoint: a Hugging Face folder (tokenizer.json and its companions) or a .gguf file (its own). Undefined where the
 * checkpoint has none; BAD_CHECKPOINT where it has one that is broken or of a kind that cannot be tokenised exactly; IO where nothing is there.
 */
export async function loadTokenizer(path: string, options: ChatOptions = {}): Promise<Tokenizer | undefined> {
  const info = await stat(path).catch(() => undefined);
  if (info === undefined)
    throw new RankGrpoError("IO", `Expected a Hugging Face folder or a .gguf file at ${path}, got nothing there.`);
  if (info.isDirectory()) {
    const files = await readFolder(path);
    return files["tokenizer.json"] === undefined ? undefined : fromFiles(files, path, options);
  }
  const metadata = parseObject(await addon.checkpointMetadata(path), path);
  if (!isObject(metadata["tokenizer"])) {
    if (typeof metadata["tokenizer_error"] !== "string") return undefined;
    throw new RankGrpoError(
      "BAD_CHECKPOINT",
      `${metadata["tokenizer_error"]} Use the model's Hugging Face folder instead.`,
    );
  }
  return fromFiles(
    {
      "tokenizer.json": JSON.stringify(metadata["tokenizer"]),
      "tokenizer_config.json": JSON.stringify(metadata["tokenizer_config"] ?? {}, null, 2),
    },
    path,
    options,
  );
}

/** A tokenizer from the contents of tokenizer.json and tokenizer_config.json. */
export function makeTokenizer(tokenizerJson: Json, tokenizerConfig: Json = {}, options: ChatOptions = {}): Tokenizer {
  const config = {
    tokenizer_class: "PreTrainedTokenizerFast",
    clean_up_tokenization_spaces: false,
    ...tokenizerConfig,
  };
  return fromFiles(
    { "tokenizer.json": JSON.stringify(tokenizerJson), "tokenizer_config.json": JSON.stringify(config, null, 2) },
    "the tokenizer",
    options,
  );
}

/**
 * Names and texts of the files that, beside config.json and the weights, make a complete model folder: unchanged copies for a folder, for a
 * GGUF file its tokenizer in Hugging Face's layout.
 */
export function tokenizerFiles(tokenizer: Tokenizer): Readonly<Record<string, string>> {
  if (!(tokenizer instanceof CheckpointTokenizer))
    throw new RankGrpoError("INVALID_ARGUMENT", "Expected a tokenizer of loadTokenizer or makeTokenizer, got another.");
  return tokenizer.files;
}
