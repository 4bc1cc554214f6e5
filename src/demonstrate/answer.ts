// Reading what a teacher or judge wrote, leniently: with or without numbering, quotes, code fences, JSON, or words for ratings.
import { compact, type Item, readList } from "../ranking/list.ts";
import { isNearYear, normalizeTitle } from "../ranking/title.ts";

/** Lines of an answer; a JSON list of texts or of {title, year} becomes lines too. */
function linesOf(text: string): string {
  const bare = text.replace(/^\s*```[a-z]*\s*$/gim, "").trim();
  const from = bare.indexOf("[");
  const to = bare.lastIndexOf("]");
  if (from < 0 || to < from || !/^[[{]/.test(bare)) return bare;
  try {
    const list = JSON.parse(bare.slice(from, to + 1)) as unknown[];
    return list
      .map((entry) => {
        if (entry && typeof entry === "object" && "title" in entry) {
          const { title, year, release_year } = entry as { title: unknown; year?: unknown; release_year?: unknown };
          return `${String(title)} (${String(year ?? release_year ?? "")})`;
        }
        return String(entry);
      })
      .join("\n");
  } catch {
    return bare;
  }
}

/** The items of a recommendation list, repeats left out, at most n. Empty: the answer could not be read. */
export function readItems(text: string, n: number): Item[] {
  const items: Item[] = [];
  for (const item of compact(readList(linesOf(text)))) {
    if (items.length === n) break;
    if (!items.some((known) => known.year === item.year && normalizeTitle(known.title) === normalizeTitle(item.title)))
      items.push(item);
  }
  return items;
}

const words: readonly [RegExp, number][] = [
  [/^(very good|great|excellent|perfect)/, 2],
  [/^(not good|poor)/, -1],
  [/^(very bad|bad|terrible)/, -2],
  [/^good/, 1],
  [/^(normal|neutral|ok)/, 0],
];

/** A rating from -top to top; words for one are understood on the paper's five levels. */
function ratingOf(text: string, top: number): number | undefined {
  const clean = text
    .replace(/[*_`"'()[\]\s]+/g, " ")
    .trim()
    .toLowerCase();
  const number = /^(?:rating ?[:=]? ?)?([+−–-]?[0-9]+)(?:\s*\/.*)?$/.exec(clean);
  if (number) {
    const value = Number(number[1]!.replace(/[−–]/, "-"));
    return value >= -top && value <= top ? value : undefined;
  }
  return top === 2 ? words.find(([pattern]) => pattern.test(clean))?.[1] : undefined;
}

/**
 * Ratings from lines `Title (Year)####rating`, by index of the candidate; a line whose title or rating cannot be read, or that names no
 * candidate, is left out. The same movie is a year within 2, and where the judge forgot the year, a title that only one candidate has.
 */
export function readRatings(
  text: string,
  candidates: readonly Item[],
  top = 2,
): { ratings: Map<number, number>; unreadable: number } {
  const byTitle = new Map<string, number[]>();
  candidates.forEach(({ title }, i) => {
    const key = normalizeTitle(title);
    byTitle.set(key, [...(byTitle.get(key) ?? []), i]);
  });
  const ratings = new Map<number, number>();
  let unreadable = 0;
  for (const line of text.split(/\n+/)) {
    if (!line.trim() || /^\s*```/.test(line)) continue;
    const fields = line.split(/#{2,}/).map((field) => field.trim());
    const rating = fields.length >= 2 ? ratingOf(fields.at(-1)!, top) : undefined;
    const named = fields[0] ?? "";
    const item = readList(named)[0];
    const known =
      byTitle.get(normalizeTitle(item?.title ?? named.replace(/^\W*\d*[.)]\s*/, "").replace(/^["“]|["”]$/g, ""))) ?? [];
    const index = item
      ? known.find((i) => isNearYear(candidates[i]!.year, item.year))
      : known.length === 1
        ? known[0]
        : undefined;
    if (rating === undefined || index === undefined) unreadable++;
    else if (!ratings.has(index)) ratings.set(index, rating);
  }
  return { ratings, unreadable };
}
