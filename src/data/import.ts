// `data import`: any of the known formats to the unified schema, streamed.
import { existsSync } from "node:fs";

import { RankGrpoError, refuse } from "../errors.ts";
import type { ColumnNames } from "./import/columns.ts";
import { generic } from "./import/generic.ts";
import { huggingface } from "./import/huggingface.ts";
import type { Importer, InteractionOptions } from "./import/importer.ts";
import { inspired } from "./import/inspired.ts";
import { interactions } from "./import/interactions.ts";
import { Years } from "./import/movie.ts";
import { opendialkg } from "./import/opendialkg.ts";
import { reddit } from "./import/reddit.ts";
import { redial } from "./import/redial.ts";
import { trl } from "./import/trl.ts";
import { BadLines, recordDialogue, type UnifiedRecord } from "./record.ts";
import { writeLines } from "./write.ts";

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
  interactions?: Partial<InteractionOptions>;
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
