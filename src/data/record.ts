// The unified schema: what every importer makes, every exporter writes, and rewards and training read. Also the one wording of the
// instruction prompt (Reddit-v2's, which published checkpoints depend on) and the account an importer keeps of what it could not read.
import { RankGrpoError } from "../errors.ts";
import { dialogueOf } from "../ranking/metrics.ts";
import type { Message } from "./sample.ts";

/** One line of a data file. Other columns may follow; they are kept. */
export interface UnifiedRecord {
  id: string;
  source: string;
  prompt: Message[];
  completion?: Message[];
  /** Pairs of title and year; the year is text, as in Reddit-v2. */
  groundtruth_with_release_year: [title: string, year: string][];
  /** Titles that the dialogue names, without years, in order of first mention. */
  seen_titles: string[];
  [column: string]: unknown;
}

/** One turn of a dialogue, as the prompt shows it. */
export interface Turn {
  speaker: "USER" | "SYSTEM";
  text: string;
}

const INSTRUCTION =
  "Pretend you are a movie recommender system.\nI will give you a conversation between a user and you (a recommender system). " +
  "Based on the conversation, you need to reply with 20 recommendations. List the standardized English title of each movie in each " +
  'line in the form of "movie name" (release_year) with NO extra words or sentences.\n';
const CONVERSATION = "Here is the conversation: ";

/** The prompt of the paper's data: the fixed instruction, then `USER: ...` and `SYSTEM: ...` lines. */
export function recommendationPrompt(turns: readonly Turn[]): Message[] {
  const lines = turns.map((turn) => `${turn.speaker}: ${turn.text}\n`).join("");
  return [{ role: "user", content: `${INSTRUCTION}${CONVERSATION}${lines}` }];
}

/** The dialogue inside a prompt: what follows the instruction, or the whole text where there is none. */
export function conversationOf(prompt: string | readonly Message[]): string {
  const text = typeof prompt === "string" ? prompt : prompt.map((message) => message.content).join("\n");
  const at = text.indexOf(CONVERSATION);
  return at < 0 ? text : text.slice(at + CONVERSATION.length);
}

/** Neighbouring messages of one speaker become one turn, blanks are collapsed: as in the paper's data. */
export function mergeTurns(messages: readonly Turn[]): Turn[] {
  const turns: Turn[] = [];
  for (const message of messages) {
    const text = message.text.replace(/\s+/g, " ").trim();
    const last = turns.at(-1);
    if (last?.speaker === message.speaker) last.text = `${last.text} ${text}`.trim();
    else turns.push({ speaker: message.speaker, text });
  }
  return turns;
}

/**
 * The dialogue that a record belongs to: its `dialogue` column, else its id without the turn (as the importers of dialogues make ids).
 * Records of one dialogue share turns, so they must stay on one side of a split and never vote for one another.
 */
export function recordDialogue(record: { readonly [column: string]: unknown }): string {
  return dialogueOf(String(record["id"]), record["dialogue"]);
}

/** Lines that an importer could not use: all counted, the first ten kept. With `strict` the first one throws. */
export class BadLines {
  static readonly shown = 10;
  count = 0;
  readonly first: { file: string; line: number; reason: string }[] = [];
  readonly strict: boolean;
  constructor(strict = false) {
    this.strict = strict;
  }
  /** `line` counts from 1; for formats without lines it is the record's number. */
  add(file: string, line: number, reason: string): void {
    if (this.strict)
      throw new RankGrpoError(
        "BAD_DATA",
        `Expected a usable line, got ${reason} at ${file}:${line}. Mend it or leave out --strict.`,
      );
    this.count++;
    if (this.first.length < BadLines.shown) this.first.push({ file, line, reason });
  }
}
