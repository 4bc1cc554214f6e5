// One line of a data file as the trainer, the rewards and the evaluation see it.

/** A chat message, as in TRL's `prompt` and `completion` columns. */
export interface Message {
  role: string;
  content: string;
}

/** Text, chat messages, or token ids (for checkpoints without a tokenizer). */
export type Content = string | readonly Message[] | Int32Array;

/** One training or evaluation sample. */
export interface Sample {
  /** Position in the file, from 0; identifies the sample in the random numbers. */
  readonly index: number;
  /** The `id` column, or the index as text. */
  readonly id: string;
  readonly prompt: Content;
  /** The demonstration; absent in data for Rank-GRPO. */
  readonly completion?: Content;
  /** Every column of the line, the ones above included: what a reward function reads. */
  readonly columns: Readonly<Record<string, unknown>>;
}
