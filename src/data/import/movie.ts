// Names of movies as data sets write them ("Heat  (1995)", "Heat"), and the years of those that come without one.
import { collapseBlanks, normalizeTitle, parseYear } from "../../ranking/title.ts";

export interface Movie {
  title: string;
  /** Four digits, or undefined where the name has none and no single year is known. */
  year: string | undefined;
}

/** Splits "Title (1995)"; blanks are collapsed. A name that is all year, or empty, has no title: undefined. */
export function parseMovie(name: string): Movie | undefined {
  const text = collapseBlanks(name);
  const match = /^(.*?) ?\((\d{4})\)$/.exec(text);
  const title = match ? match[1]! : text;
  return title ? { title, year: match?.[2] } : undefined;
}

/** "Title (1995)", or the title alone where the year is unknown. */
export const movieText = (movie: Movie): string => (movie.year ? `${movie.title} (${movie.year})` : movie.title);

/** Years by title, from named movies and catalogues: answers only where a title has one year, so a remake is never guessed. */
export class Years {
  private readonly byTitle = new Map<string, string | null>();

  add(title: string, year: unknown): void {
    const known = parseYear(year);
    if (known === undefined) return;
    const key = normalizeTitle(title);
    const text = String(known).padStart(4, "0");
    const before = this.byTitle.get(key);
    if (before === undefined) this.byTitle.set(key, text);
    else if (before !== text) this.byTitle.set(key, null);
  }

  addName(name: string | null | undefined): void {
    const movie = name ? parseMovie(name) : undefined;
    if (movie?.year) this.add(movie.title, movie.year);
  }

  find(title: string): string | undefined {
    return this.byTitle.get(normalizeTitle(title)) ?? undefined;
  }

  /** The movie of a name, its year looked up where the name has none. */
  movie(name: string): Movie | undefined {
    const movie = parseMovie(name);
    return movie && !movie.year ? { title: movie.title, year: this.find(movie.title) } : movie;
  }
}
