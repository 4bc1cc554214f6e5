// Prompts and completions as token ids: text, chat messages or ids in, Int32Array out; and the ids that end a turn.
import type { Content, Message } from "../data/sample.ts";
import { RankGrpoError } from "../errors.ts";
import { concatenate } from "./bytes.ts";
import type { Tokenizer } from "./types.ts";

function needTokenizer(tokenizer: Tokenizer | undefined, name: string, column: string): Tokenizer {
  if (tokenizer !== undefined) return tokenizer;
  throw new RankGrpoError(
    "BAD_DATA",
    `Expected token ids for the ${name}, since this checkpoint has no tokenizer, got text. Give ${column}, or add tokenizer.json to the model's folder.`,
  );
}

const isMessages = (content: Content): content is readonly Message[] => Array.isArray(content);

/**
 * Token ids of a prompt: a text as it is, with no special tokens added; messages rendered with the chat template and its generation prompt
 * (where the last message is the assistant's, the model is to go on with it: rendered up to its end); ids unchanged.
 * Throws BAD_DATA for text without a tokenizer, for messages that the template refuses and for a prompt of no tokens.
 */
export function encodePrompt(tokenizer: Tokenizer | undefined, content: Content): Int32Array {
  const ids =
    content instanceof Int32Array
      ? content
      : Int32Array.from(encodeText(needTokenizer(tokenizer, "prompt", "prompt_ids"), content));
  if (ids.length === 0) throw new RankGrpoError("BAD_DATA", "Expected at least one token for the prompt, got none.");
  return ids;
}

/** Tokens of the longest prompt, taken to be the one of the longest text: what many are worth encoding for. */
export function longestPrompt(tokenizer: Tokenizer | undefined, prompts: readonly Content[]): number {
  const sizes = prompts.map((prompt) => JSON.stringify(prompt).length);
  const longest = sizes.indexOf(sizes.reduce((a, b) => Math.max(a, b)));
  return encodePrompt(tokenizer, prompts[longest]!).length;
}

function encodeText(tokenizer: Tokenizer, content: string | readonly Message[]): number[] {
  if (!isMessages(content)) return tokenizer.encode(content);
  const last = content.at(-1);
  if (last?.role !== "assistant") return tokenizer.encode(tokenizer.renderChat(content, { addGenerationPrompt: true }));
  const text = tokenizer.renderChat(content);
  const body = last.content.trim(); // a template may trim
  const at = text.lastIndexOf(body);
  if (body === "" || at < 0)
    throw new RankGrpoError(
      "BAD_DATA",
      "Expected a last message of the assistant that the chat template renders as it is, got one that is empty or changed. End the prompt with a user's message.",
    );
  const whole = last.content.trimStart();
  return tokenizer.encode(text.slice(0, at + (text.startsWith(whole, at) ? whole : body).length));
}

/**
 * Token ids of a completion: its text, tokenised apart from the prompt, plus the stop token (`stopIds(...)[0]`; none where undefined).
 * Messages are one message of the assistant, whose content is the text. Ids are unchanged, without a stop token added.
 */
export function encodeCompletion(
  tokenizer: Tokenizer | undefined,
  content: Content,
  stopId: number | undefined,
): Int32Array {
  if (content instanceof Int32Array) return content;
  const text = completionText(content);
  const ids = needTokenizer(tokenizer, "completion", "completion_ids").encode(text);
  if (stopId !== undefined) ids.push(stopId);
  return Int32Array.from(ids);
}

/** The text of a completion given as text or as one message of the assistant. */
export function completionText(content: string | readonly Message[]): string {
  if (!isMessages(content)) return content;
  const [message] = content;
  if (content.length !== 1 || message?.role !== "assistant")
    throw new RankGrpoError(
      "BAD_DATA",
      `Expected one message of the assistant for the completion, got ${content.length === 1 ? `one of ${JSON.stringify(message?.role)}` : `${content.length} messages`}.`,
    );
  return message.content;
}

/** Special tokens that end a turn or a document in the families that are read here, whatever their configuration says. */
const endTokens = new Set(["<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<|eom_id|>", "<|end_of_text|>", "</s>"]);

/** The special token that the chat template puts behind a message of the assistant. */
function endOfTurn(tokenizer: Tokenizer): number | undefined {
  if (tokenizer.chatTemplate === undefined) return undefined;
  const body = "Alien (1979)";
  const chat = ["user", "assistant", "user"].map((role) => ({ role, content: role === "user" ? "?" : body }));
  try {
    const text = tokenizer.renderChat(chat);
    const at = text.lastIndexOf(body);
    const rest = at < 0 ? "" : text.slice(at + body.length);
    const [next] = tokenizer.encode(rest);
    if (next === undefined || !tokenizer.specialIds.has(next)) return undefined;
    return rest.startsWith(tokenizer.decode([next], { keepSpecial: true })) ? next : undefined;
  } catch {
    return undefined; // a template with needs of its own; the configured ids remain
  }
}

/**
 * Every id that ends a completion, the one that demonstrations end with first: the chat template's end of turn, else the tokenizer's eos,
 * else the first of the configuration. `model.stopIds` are those of config.json and generation_config.json. Empty where nothing is known.
 */
export function stopIds(
  tokenizer: Tokenizer | undefined,
  model: { readonly stopIds: ArrayLike<number>; readonly vocabSize: number },
): Int32Array {
  const configured = Array.from(model.stopIds);
  const ids: (number | undefined)[] = tokenizer === undefined ? [] : [endOfTurn(tokenizer), tokenizer.eosId];
  ids.push(...configured);
  for (const id of tokenizer?.specialIds ?? [])
    if (endTokens.has(tokenizer?.decode([id], { keepSpecial: true }) ?? "")) ids.push(id);
  return Int32Array.from(new Set(ids.filter((id): id is number => id !== undefined && id < model.vocabSize)));
}

/**
 * Bytes of every id of a model, as the engine takes them for stop strings: id i has bytes[offsets[i]] .. bytes[offsets[i + 1] - 1], special
 * tokens and ids past the tokenizer's none. BAD_CHECKPOINT where the tokenizer has more ids than the model.
 */
export function vocabularyTable(tokenizer: Tokenizer, vocabSize: number): { bytes: Uint8Array; offsets: Int32Array } {
  if (tokenizer.vocabSize > vocabSize)
    throw new RankGrpoError(
      "BAD_CHECKPOINT",
      `Expected a tokenizer of at most ${vocabSize} ids (the model's vocabulary), got ${tokenizer.vocabSize}. Use the tokenizer that the model was trained with.`,
    );
  const parts = tokenizer.bytes.map((bytes, id) => (tokenizer.specialIds.has(id) ? new Uint8Array() : bytes));
  const offsets = new Int32Array(vocabSize + 1);
  for (let id = 0; id < vocabSize; id++) offsets[id + 1] = (offsets[id] ?? 0) + (parts[id]?.length ?? 0);
  return { bytes: concatenate(parts), offsets };
}
