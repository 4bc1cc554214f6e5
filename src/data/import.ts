// `data import`: any of the known formats to the unified schema, streamed.
import { existsSync } from "node:fs";

import { RankGrpoError, refuse } from "../errors.ts";
import type { ColumnNames } from "./import/columns.ts";
import { generic } from "./import/generic.ts";
import { huggingface } from "./import/huggingface.ts";
import { inspired } from "./import/inspired.ts";
import { interactions } from "./import/interactions.ts";
import { Years } from "./import/movie.ts";
import { opendialkg } from "./import/opendialkg.ts";
import { reddit } from "./import/reddit.ts";
import { redial } from "./import/redial.ts";
import { trl } from "./import/trl.ts";
import { BadLines, recordDialogue, type UnifiedRecord } from "./record.ts";
import { writeLines } from "./write.ts";

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
  interactions: {
    /** Ratings below it are not likes. Default 4, MovieLens's usual cut of its five stars. */
    minRating: number;
    /** Liked titles that the prompt names. Default 20, which keeps a prompt within some 300 tokens. */
    history: number;
    /** Last liked titles that are the ground truth. Default 1, the usual leave-one-out. */
    targets: number;
  };
}

export interface Importer {
  readonly format: string;
  readonly help: string;
  read(path: string, bad: BadLines, options: ReadOptions): AsyncIterable<UnifiedRecord>;
}

export const importers: readonly Importer[] = [
  redial,
  inspired,
  opendialkg,
  reddit,
  huggingface,
  trl,
  generic,
  interactions,
];
export const importFormats: readonly string[] = importers.map((importer) => importer.format);

export interface ImportOptions {
  split?: string;
  columns?: ColumnNames;
  /** Known movies, whose years titles without one take (an item list such as a catalogue's). */
  movies?: Iterable<{ title: string; year: unknown }>;
  items?: string;
  instruct?: boolean;
  interactions?: Partial<ReadOptions["interactions"]>;
  /** Fail at the first line that cannot be used. Default false: bad lines are counted. */
  strict?: boolean;
}

/** Records of a file or folder, one by one; what could not be used is in `bad`. */
export async function* readRecords(
  format: string,
  input: string,
  options: ImportOptions = {},
  bad = new BadLines(options.strict),
): AsyncGenerator<UnifiedRecord> {
  const importer = importers.find((candidate) => candidate.format === format);
  if (!importer) refuse("INVALID_ARGUMENT", importFormats.join(", "), "format", format);
  if (!existsSync(input))
    throw new RankGrpoError(
      "IO",
      `Expected a file or folder for input, got ${JSON.stringify(input)}, which does not exist.`,
    );
  const years = new Years();
  for (const { title, year } of options.movies ?? []) years.add(title, year);
  yield* importer.read(input, bad, {
    split: options.split,
    columns: options.columns ?? {},
    years,
    items: options.items,
    instruct: options.instruct ?? false,
    interactions: { minRating: 4, history: 20, targets: 1, ...options.interactions },
  });
}

export interface ImportResult {
  records: number;
  dialogues: number;
  groundTruths: number;
  bad: BadLines;
}

/** Imports to a JSON Lines file (compressed where it ends in .gz). The file appears when it is whole. */
export async function importData(
  format: string,
  input: string,
  output: string,
  options: ImportOptions & { overwrite?: boolean } = {},
): Promise<ImportResult> {
  const bad = new BadLines(options.strict);
  const result: ImportResult = { records: 0, dialogues: 0, groundTruths: 0, bad };
  let last = "";
  async function* counted(): AsyncGenerator<UnifiedRecord> {
    for await (const record of readRecords(format, input, options, bad)) {
      result.records++;
      result.groundTruths += record.groundtruth_with_release_year.length;
      const dialogue = recordDialogue(record);
      if (dialogue !== last) result.dialogues++;
      last = dialogue;
      yield record;
    }
    if (result.records === 0)
      throw new RankGrpoError(
        "BAD_DATA",
        `Expected at least one usable record in ${input}, got none (${bad.count} bad lines${bad.first[0] ? `, the first: ${bad.first[0].reason}` : ""}). Check --format.`,
      );
  }
  await writeLines(output, counted(), options.overwrite);
  return result;
}
