// What the rest of the project asks of a tokenizer; text/tokenizer.ts makes one from a checkpoint.
import type { Message } from "../data/sample.ts";

export interface Tokenizer {
  /** Ids are in [0, vocabSize). */
  readonly vocabSize: number;
  /**
   * Raw bytes of each id (special tokens: the bytes of their text); an id that the tokenizer lacks has none. Those of a text's ids, one after
   * the other, are its UTF-8 bytes. SentencePiece and whole words without a decoder put a space before, which decode() takes away.
   */
  readonly bytes: readonly Uint8Array[];
  /** Ids of special tokens: they end lists and are left out of decoded text. */
  readonly specialIds: ReadonlySet<number>;
  readonly bosId: number | undefined;
  readonly eosId: number | undefined;
  /** Jinja source of the chat template, where the checkpoint has one. */
  readonly chatTemplate: string | undefined;
  /** Changes when any id could mean another text (hash of the vocabulary and merges): keys caches of tokenised catalogues. */
  readonly fingerprint: string;
  /** Token ids of a text. No special tokens are added; those that the text spells out are recognised. */
  encode(text: string): number[];
  /**
   * Whether `encode(text)` is, for certain, what its words give one after the other, each with the space before it: then ids of words can be
   * kept and lines put together from them. False where words are not known to be tokenised apart, or the text is not words with single
   * spaces between and at most one newline after each.
   */
  isWordwise(text: string): boolean;
  /** Text of ids, special tokens left out unless asked for; no clean-up of spaces. */
  decode(ids: ArrayLike<number>, options?: { keepSpecial?: boolean }): string;
  /** The chat as the checkpoint's template renders it (as transformers' apply_chat_template does). */
  renderChat(messages: readonly Message[], options?: { addGenerationPrompt?: boolean }): string;
}
