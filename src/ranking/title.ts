// Titles and years: how two names of one movie are compared. The rules live here alone, for rewards, metrics, baselines and importers.

/** Largest difference of release years at which two entries of one title are taken for the same movie. */
export const yearTolerance = 2;

/** The order in which `other year - own year` is tried when an item may match several entries: exact, +1, -1, +2, -2. */
export const yearOffsets: readonly number[] = [0, 1, -1, 2, -2];

/** Whether two release years are close enough to mean one movie. */
export const isNearYear = (a: number, b: number): boolean => Math.abs(a - b) <= yearTolerance;

/** Blanks (what `\s` matches) collapsed to one space, and trimmed; case, accents and Unicode form are kept. */
export const collapseBlanks = (text: string): string => text.replace(/\s+/g, " ").trim();

/**
 * The form in which titles are compared: blanks collapsed, trimmed, fully case-folded (ß = ss, ς = σ), accents kept.
 * Lower, upper, lower gives Unicode's full folding of every letter but the dotless ı, which must not become i.
 */
export const normalizeTitle = (title: string): string =>
  collapseBlanks(title).replace(/[^ı]+/g, (run) => run.toLowerCase().toUpperCase().toLowerCase());

/** A release year: a whole number, or a string of ASCII digits (blanks around are allowed). Anything else: undefined. */
export function parseYear(value: unknown): number | undefined {
  const year = typeof value === "string" && /^\s*[0-9]+\s*$/.test(value) ? Number(value) : value;
  return typeof year === "number" && Number.isSafeInteger(year) ? year : undefined;
}
