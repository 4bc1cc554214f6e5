// From an annotated dialogue to records: one for every recommender turn that brings new movies, with the turns before it as the prompt.
import { mergeTurns, recommendationPrompt, type Turn, type UnifiedRecord } from "../record.ts";
import type { Movie } from "./movie.ts";

/** A message, the movies it names in order, and those of them that must not count as ground truth (the seeker disliked them). */
export interface AnnotatedMessage extends Turn {
  movies: readonly Movie[];
  rejected?: ReadonlySet<string>;
}

/**
 * Records of one dialogue, ids `<prefix>-<turn>` (turns counted from 0 after neighbouring messages of one speaker are merged).
 * Ground truth: movies that the recommender names for the first time in that turn, with a known year, not rejected. A turn with no
 * turn before it makes no record; a movie that anybody named earlier is seen, not ground truth.
 */
export function* dialogueRecords(
  prefix: string,
  source: string,
  messages: readonly AnnotatedMessage[],
): Generator<UnifiedRecord> {
  const turns: Turn[] = [];
  const seen = new Set<string>();
  let index = 0;
  for (let start = 0; start < messages.length; index++) {
    const { speaker } = messages[start]!;
    let end = start;
    while (messages[end]?.speaker === speaker) end++;
    const group = messages.slice(start, end);
    const fresh: Movie[] = [];
    const truths: [string, string][] = [];
    for (const { movies, rejected } of group)
      for (const movie of movies) {
        if (seen.has(movie.title) || fresh.some((m) => m.title === movie.title && m.year === movie.year)) continue;
        fresh.push(movie);
        if (movie.year && !rejected?.has(movie.title)) truths.push([movie.title, movie.year]);
      }
    if (speaker === "SYSTEM" && index > 0 && truths.length > 0)
      yield {
        id: `${prefix}-${index}`,
        source,
        prompt: recommendationPrompt(turns),
        groundtruth_with_release_year: truths,
        seen_titles: [...seen],
      };
    for (const movie of fresh) seen.add(movie.title);
    turns.push(...mergeTurns(group));
    start = end;
  }
}
