// Lines of a list as token ids: as another line follows, and as the last one. Millions of lines are put together from the ids of their words
// where the tokenizer allows it, which gives the ids of the whole line for a hundredth of the time.
import { refuse } from "../errors.ts";
import type { Tokenizer } from "./types.ts";

/** Token ids of a line of a list, as another line follows it (its newline included) and as the list's last one. */
export interface LineTokens {
  readonly line: readonly number[];
  readonly last: readonly number[];
}

export class LineEncoder {
  readonly #tokenizer: Tokenizer;
  readonly #stopId: number;
  /** Ids of words with the space before and the newline after them; undefined for one that does not read back. */
  readonly #words = new Map<string, readonly number[] | undefined>();

  /** @param stopId the token that ends a list */
  constructor(tokenizer: Tokenizer, stopId: number) {
    this.#tokenizer = tokenizer;
    this.#stopId = stopId;
  }

  /**
   * A line as the tokenizer writes it, wherever it stands in a list: alone, first or after another.
   * @throws BAD_DATA where the text is no single line, or is written differently in different places, or does not decode to itself
   */
  tokens(text: string): LineTokens {
    return this.#byWords(text) ?? this.#whole(text);
  }

  #byWords(text: string): LineTokens | undefined {
    if (text.includes("\n") || !this.#tokenizer.isWordwise(text)) return undefined;
    const line: number[] = [];
    let start = 0;
    for (let end = text.indexOf(" ", 1); end >= 0; end = text.indexOf(" ", end + 1)) {
      const ids = this.#word(text.slice(start, end));
      if (!ids) return undefined;
      line.push(...ids);
      start = end;
    }
    const word = text.slice(start);
    const [ended, open] = [this.#word(`${word}\n`), this.#word(word)];
    if (!ended || !open) return undefined;
    const last = [...line, ...open, this.#stopId];
    line.push(...ended);
    return { line, last };
  }

  #word(word: string): readonly number[] | undefined {
    if (this.#words.has(word)) return this.#words.get(word);
    let ids: readonly number[] | undefined = this.#tokenizer.encode(word);
    const { bytes, specialIds } = this.#tokenizer;
    const back = Buffer.concat(ids.map((id) => bytes[id] ?? new Uint8Array(0))).toString();
    if (back !== word || ids.some((id) => specialIds.has(id) || id === this.#stopId)) ids = undefined;
    this.#words.set(word, ids);
    return ids;
  }

  #whole(text: string): LineTokens {
    const { tokenizer, stopId } = { tokenizer: this.#tokenizer, stopId: this.#stopId };
    const last = tokenizer.encode(text);
    const twice = tokenizer.encode(`${text}\n${text}`);
    const line = twice.slice(0, twice.length - last.length);
    const again = twice.slice(line.length);
    if (text === "" || text.includes("\n")) refuse("BAD_DATA", "one line of text", "a line of the catalog", text);
    if (again.some((id, i) => id !== last[i]))
      refuse(
        "BAD_DATA",
        "a tokenizer that writes a line alike at the start of a list and after another line",
        "a line of the catalog",
        text,
        "Tokenizers that put a space before a text (SentencePiece) cannot be constrained.",
      );
    if (tokenizer.decode(line) !== `${text}\n` || tokenizer.decode(last) !== text || last.includes(stopId))
      refuse("BAD_DATA", "a line that the tokenizer writes and reads back unchanged", "a line of the catalog", text);
    last.push(stopId);
    return { line, last };
  }
}
