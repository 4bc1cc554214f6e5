// Interactions (user, item, time, rating), as MovieLens ships them, as instruction prompts: what a user liked so far, then what the
// same user liked next. Rows of one user must stand together (MovieLens's do), so memory holds one user.
import { existsSync } from "node:fs";
import { dirname, join } from "node:path";

import { RankGrpoError } from "../../errors.ts";
import { recommendationPrompt, type UnifiedRecord } from "../record.ts";
import { delimiterOf, tableRows } from "../stream.ts";
import type { Importer } from "./importer.ts";
import { type Movie, movieText, parseMovie } from "./movie.ts";

interface Interaction {
  movie: Movie & { year: string };
  time: number;
}

/** MovieLens writes "Matrix, The (1999)"; the article goes back to the front. */
const withArticle = (title: string): string => title.replace(/^(.*), (The|A|An)$/, "$2 $1");

const fieldOf = (fields: Record<string, string>, names: readonly string[]): string | undefined => {
  for (const name of names) if (fields[name] !== undefined) return fields[name];
  return undefined;
};

export const interactions: Importer = {
  format: "interactions",
  help: "user, item, time, rating in CSV or TSV (MovieLens: ratings.csv beside movies.csv), to prompts that ask for the next titles",
  async *read(path, bad, options) {
    const names = new Map<string, Movie>();
    const items =
      options.items ??
      ["movies.csv", "items.csv"].map((name) => join(dirname(path), name)).find((name) => existsSync(name));
    if (items)
      for await (const { fields, line } of tableRows(items, { delimiter: delimiterOf(items) })) {
        const id = fieldOf(fields, ["movieId", "itemId", "item", "id"]);
        const movie = parseMovie(fieldOf(fields, ["title", "name"]) ?? "");
        if (id === undefined || !movie) bad.add(items, line, "an item without an id or a title");
        else names.set(id, { title: withArticle(movie.title), year: movie.year ?? fields["year"] });
      }
    const { minRating, history, targets } = options.interactions;
    const done = new Set<string>();
    let user: string | undefined;
    let liked: Interaction[] = [];
    const record = (): UnifiedRecord | undefined => {
      const ordered = liked
        .map((interaction, i) => ({ ...interaction, i }))
        .sort((a, b) => a.time - b.time || a.i - b.i);
      if (ordered.length < targets + 1) return undefined;
      const cut = ordered.length - targets;
      const past = ordered.slice(Math.max(0, cut - history), cut).map((entry) => entry.movie);
      const text = `I watched and liked ${past.map(movieText).join(", ")}. What should I watch next?`;
      return {
        id: `interactions:${user}`,
        source: "interactions",
        prompt: recommendationPrompt([{ speaker: "USER", text }]),
        groundtruth_with_release_year: ordered.slice(cut).map(({ movie }) => [movie.title, movie.year]),
        seen_titles: [...new Set(ordered.slice(0, cut).map((entry) => entry.movie.title))],
        time: ordered[cut]!.time,
      };
    };
    for await (const { line, fields, excess } of tableRows(path, { delimiter: delimiterOf(path) })) {
      const id = fieldOf(fields, ["userId", "user", "user_id"]);
      const item = fieldOf(fields, ["movieId", "itemId", "item", "item_id"]);
      const time = Number(fieldOf(fields, ["timestamp", "time"]));
      const rating = Number(fieldOf(fields, ["rating"]) ?? minRating);
      if (excess !== 0 || !id || !item || !Number.isFinite(time) || !Number.isFinite(rating)) {
        bad.add(path, line, "a row without a user, an item, a numeric time and a numeric rating");
        continue;
      }
      if (id !== user) {
        const finished = user === undefined ? undefined : record();
        if (finished) yield finished;
        if (user !== undefined) done.add(user);
        if (done.has(id))
          throw new RankGrpoError(
            "BAD_DATA",
            `Expected the rows of one user together in ${path}, got user ${id} again at line ${line}. Sort the file by user first.`,
          );
        user = id;
        liked = [];
      }
      if (rating < minRating) continue;
      const movie = names.get(item) ?? options.years.movie(item);
      if (!movie?.year) {
        bad.add(path, line, `the item ${JSON.stringify(item)} without a title and a year`);
        continue;
      }
      liked.push({ movie: { title: movie.title, year: movie.year }, time });
    }
    const finished = user === undefined ? undefined : record();
    if (finished) yield finished;
  },
};
