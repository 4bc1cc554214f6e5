// The one reading of a ranked list: text to slots, line by line. Rewards, segments and metrics all stand on it, so rank k means the
// same line everywhere. A line that cannot be read keeps its slot (null): it scores nothing and shifts nothing.
import { collapseBlanks } from "./title.ts";

export interface Item {
  readonly title: string;
  readonly year: number;
}

/** One non-empty line: the item it names, or null. */
export type Slot = Item | null;

/** `aligned`: rank k is line k. `reference`: lines that cannot be read are dropped first, as the published code does. */
export type ReadingMode = "aligned" | "reference";

const blockMarks = /^(?:(?:[-+*•·–—>]|#{1,6}) )+/;
const emphasisMarks = /^[*_`~]+ ?/;
const number = /^[0-9]+ ?[.)-][*_`~]* /;
const titleAndYear = /^(.+?) \(([0-9]{4})\)/;

const quotePairs: ReadonlyMap<string, string> = new Map(
  ['""', "''", "“”", "‘’", "«»"].map((pair) => [pair[0]!, pair[1]!]),
);
const isEmphasis = (character: string | undefined): boolean =>
  character === "*" || character === "_" || character === "`" || character === "~";

/** The slots of a completion: one per non-empty line (lines end at `\n` alone; a line of blanks is none). Not cut at any length. */
export function readList(text: string): Slot[] {
  const slots: Slot[] = [];
  for (const line of text.split("\n")) {
    const collapsed = collapseBlanks(line);
    if (collapsed !== "") slots.push(readLine(collapsed));
  }
  return slots;
}

/** The slots without the lines that could not be read: the published code's reading. */
export const compact = (slots: readonly Slot[]): Item[] => slots.filter((slot) => slot !== null);

/** `Title (Year)`, the form of demonstrations and catalogue lines. */
export const formatItem = (item: Item): string => `${item.title} (${item.year})`;

/** A line with collapsed blanks: block marks, emphasis, one number and one pair of quotes off, then title and year. */
function readLine(line: string): Slot {
  let body = line.replace(blockMarks, "").replace(emphasisMarks, "").replace(number, "");
  if (body.length >= 2 && quotePairs.get(body[0]!) === body.at(-1)) body = body.slice(1, -1);
  const match = titleAndYear.exec(body);
  if (match === null) return null;
  const title = cleanTitle(match[1]!);
  return title === "" ? null : { title, year: Number(match[2]) };
}

/**
 * Takes marks, quotes and parentheses off both ends until nothing changes: spaces, then emphasis marks, then one of a wrapping pair of
 * quotes, a double quote without its partner, a wrapping pair of parentheses. Linear in the title: only the two ends move.
 */
function cleanTitle(title: string): string {
  let start = 0;
  let end = title.length;
  const doubles = ['""', "“”", "«»"].map((pair) => ({
    open: pair[0]!,
    close: pair[1]!,
    firstOpen: title.indexOf(pair[0]!),
    lastClose: title.lastIndexOf(pair[1]!),
  }));
  let partners: Int32Array | undefined; // of each parenthesis, made when first needed

  const step = (): boolean => {
    const first = title[start];
    const last = title[end - 1];
    if (end - start >= 2 && quotePairs.get(first!) === last) {
      start++;
      end--;
      return true;
    }
    for (const quote of doubles) {
      if (first === quote.open) {
        while (quote.lastClose >= end) quote.lastClose = title.lastIndexOf(quote.close, end - 1);
        if (quote.lastClose <= start) {
          start++; // opened, never closed
          return true;
        }
      }
      if (last === quote.close) {
        while (quote.firstOpen >= 0 && quote.firstOpen < start) quote.firstOpen = title.indexOf(quote.open, start);
        if (quote.firstOpen < 0 || quote.firstOpen >= end - 1) {
          end--; // closed, never opened
          return true;
        }
      }
    }
    if (first === "(" && last === ")") {
      partners ??= matchParentheses(title);
      if (partners[start] === end - 1) {
        start++;
        end--;
        return true;
      }
    }
    return false;
  };

  do {
    while (start < end && title[start] === " ") start++;
    while (start < end && title[end - 1] === " ") end--;
    while (start < end && isEmphasis(title[start])) start++;
    while (start < end && isEmphasis(title[end - 1])) end--;
  } while (start < end && (step() || title[start] === " " || title[end - 1] === " "));
  return title.slice(start, end);
}

/** Where each opening parenthesis is closed; -1 where it is not. */
function matchParentheses(title: string): Int32Array {
  const partners = new Int32Array(title.length).fill(-1);
  const open: number[] = [];
  for (let i = 0; i < title.length; i++) {
    if (title[i] === "(") open.push(i);
    else if (title[i] === ")") {
      const partner = open.pop();
      if (partner !== undefined) partners[partner] = i;
    }
  }
  return partners;
}
