// What every importer is: a format's name, its help, and its records one by one.
import type { BadLines, UnifiedRecord } from "../record.ts";
import type { ColumnNames } from "./columns.ts";
import type { Years } from "./movie.ts";

/** How ratings become a dialogue. */
export interface InteractionOptions {
  /** Ratings below it are not likes. Default 4, MovieLens's usual cut of its five stars. */
  minRating: number;
  /** Liked titles that the prompt names. Default 20, which keeps a prompt within some 300 tokens. */
  history: number;
  /** Last liked titles that are the ground truth. Default 1, the usual leave-one-out. */
  targets: number;
}

/** What an importer may ask for; every field is filled in by `readRecords`. */
export interface ReadOptions {
  /** Split of a Hugging Face folder; all of them by default. */
  split: string | undefined;
  columns: ColumnNames;
  /** Years of titles that come without one; importers add what they find. */
  years: Years;
  /** File that names the items of interactions. */
  items: string | undefined;
  /** Wrap a generic prompt in the recommendation instruction. */
  instruct: boolean;
  interactions: InteractionOptions;
}

export interface Importer {
  readonly format: string;
  readonly help: string;
  read(path: string, bad: BadLines, options: ReadOptions): AsyncIterable<UnifiedRecord>;
}
