// `data export`: records as JSON Lines, parquet, or a Hugging Face folder that Python's datasets.load_from_disk opens. Parquet and Arrow need
// every column's type before the first row, so the file is read twice; memory holds one batch.
import { createWriteStream, existsSync, mkdirSync, realpathSync, writeFileSync } from "node:fs";
import { mkdir, rename, rm } from "node:fs/promises";
import { basename, dirname, join, sep } from "node:path";
import { Readable } from "node:stream";
import { pipeline } from "node:stream/promises";
import { makeData, RecordBatch, RecordBatchStreamWriter, type Schema, Struct, vectorFromArray } from "apache-arrow";
import { fileWriter, parquetWriteRows } from "hyparquet-writer";

import { RankGrpoError, refuse } from "../errors.ts";
import { asIoError, requireFile, requireFresh, requireFreshFile, temporary, writeFolderAtomic } from "../files.ts";
import { readJsonl } from "./jsonl.ts";
import { arrowSchema, type Columns, hubFeatures, parquetSchema, shaped, widen, withFields } from "./schema.ts";
import { writeLines } from "./write.ts";

export const exportFormats = ["jsonl", "parquet", "huggingface"] as const;
export type ExportFormat = (typeof exportFormats)[number];

/** Rows of a record batch and of a parquet row group: some megabytes of dialogues. */
const BATCH = 1000;

type Row = Record<string, unknown>;

/** The records of a file as columns of one type can hold them: years of ground truths as text, for they stand in one list with their titles. */
async function* recordsOf(path: string): AsyncGenerator<Row> {
  const name = "groundtruth_with_release_year";
  const text = (value: unknown): unknown => (typeof value === "number" ? String(value) : value);
  for await (const row of readJsonl(path)) {
    const truths = row[name];
    if (Array.isArray(truths)) row[name] = truths.map((pair: unknown) => (Array.isArray(pair) ? pair.map(text) : pair));
    yield row;
  }
}

async function columnsOf(path: string): Promise<{ columns: Columns; rows: number }> {
  const columns: Columns = new Map();
  let rows = 0;
  for await (const row of recordsOf(path)) {
    rows++;
    for (const [name, value] of Object.entries(row))
      columns.set(name, widen(columns.get(name) ?? { kind: "null" }, value));
  }
  if (rows === 0) throw new RankGrpoError("BAD_DATA", `Expected at least one record in ${path}, got an empty file.`);
  return { columns, rows };
}

async function* batches(path: string, size: number): AsyncGenerator<Row[]> {
  let batch: Row[] = [];
  for await (const row of recordsOf(path)) {
    batch.push(row);
    if (batch.length < size) continue;
    yield batch;
    batch = [];
  }
  if (batch.length > 0) yield batch;
}

function recordBatch(schema: Schema, columns: Columns, rows: readonly Row[]): RecordBatch {
  const children = schema.fields.map((field) => {
    const kind = columns.get(field.name)!;
    return vectorFromArray(
      rows.map((row) => shaped(kind, row[field.name])),
      field.type,
    ).data[0]!;
  });
  return new RecordBatch(
    schema,
    makeData({ type: new Struct(schema.fields), length: rows.length, nullCount: 0, children }),
  );
}

/** One split as datasets.save_to_disk writes it: Arrow stream shards, state.json, dataset_info.json. */
async function writeSplit(input: string, folder: string, split: string | null, shardRows: number): Promise<number> {
  const { columns, rows } = await columnsOf(input);
  mkdirSync(folder, { recursive: true });
  const schema = arrowSchema(columns);
  const shards = Math.ceil(rows / shardRows);
  const source = batches(input, BATCH);
  const name = (shard: number): string =>
    `data-${String(shard).padStart(5, "0")}-of-${String(shards).padStart(5, "0")}.arrow`;
  for (let shard = 0; shard < shards; shard++) {
    const writer = new RecordBatchStreamWriter({ autoDestroy: false });
    writer.reset(undefined, schema);
    async function* filled(): AsyncGenerator<RecordBatch> {
      // a shard is a whole number of batches, so no row is split over two
      for (let done = 0; done < shardRows; done += BATCH) {
        const next = await source.next();
        if (next.done) return;
        yield recordBatch(schema, columns, next.value);
      }
    }
    const target = createWriteStream(join(folder, name(shard)));
    await Promise.all([pipeline(Readable.from(writer), target), writer.writeAll(filled()).then(() => writer.close())]);
  }
  writeFileSync(
    join(folder, "state.json"),
    JSON.stringify(
      {
        _data_files: Array.from({ length: shards }, (_, shard) => ({ filename: name(shard) })),
        _fingerprint: fingerprint(input, rows),
        _format_columns: null,
        _format_kwargs: {},
        _format_type: null,
        _output_all_columns: false,
        _split: split,
      },
      null,
      2,
    ),
  );
  writeFileSync(
    join(folder, "dataset_info.json"),
    JSON.stringify(
      { citation: "", description: "", features: hubFeatures(columns), homepage: "", license: "" },
      null,
      2,
    ),
  );
  return rows;
}

async function writeParquet(input: string, output: string): Promise<number> {
  const { columns: found, rows } = await columnsOf(input);
  const columns: Columns = new Map([...found].map(([name, kind]) => [name, withFields(kind)]));
  async function* shapedRows(): AsyncGenerator<Row> {
    for await (const row of recordsOf(input))
      yield Object.fromEntries([...columns].map(([name, kind]) => [name, shaped(kind, row[name])]));
  }
  const part = temporary(output);
  try {
    await mkdir(dirname(output), { recursive: true });
    await parquetWriteRows({
      writer: fileWriter(part),
      rows: shapedRows(),
      columns: [...columns.keys()].map((name) => ({ name })),
      schema: parquetSchema(columns),
      rowGroupSize: BATCH,
      kvMetadata: [{ key: "huggingface", value: JSON.stringify({ info: { features: hubFeatures(columns) } }) }],
    });
    await rename(part, output);
  } catch (error) {
    await rm(part, { force: true });
    throw asIoError(error, output);
  }
  return rows;
}

/** Sixteen hexadecimal digits, as datasets expects; the same for the same file name and rows. */
function fingerprint(input: string, rows: number): string {
  let hash = 0xcbf29ce484222325n;
  for (const byte of Buffer.from(`${basename(input)}:${rows}`))
    hash = BigInt.asUintN(64, (hash ^ BigInt(byte)) * 0x100000001b3n);
  return hash.toString(16).padStart(16, "0");
}

export interface ExportOptions {
  overwrite?: boolean;
  /** Rows of an Arrow shard; a multiple of 1,000. Default 100,000, some 300 MB of dialogues. */
  shardRows?: number;
}

/**
 * Writes a file of records in another format. A Hugging Face folder may take several files, one for each split ({train: ..., test: ...});
 * the other formats take one. Returns the rows written.
 */
export async function exportData(
  format: ExportFormat,
  input: string | Readonly<Record<string, string>>,
  output: string,
  options: ExportOptions = {},
): Promise<number> {
  if (!exportFormats.includes(format)) refuse("INVALID_ARGUMENT", exportFormats.join(", "), "format", format);
  const { overwrite = false, shardRows = 100_000 } = options;
  if (!(Number.isInteger(shardRows) && shardRows > 0 && shardRows % BATCH === 0))
    refuse("INVALID_ARGUMENT", `a positive multiple of ${BATCH}`, "shardRows", shardRows);
  if (!overwrite)
    (format === "huggingface" ? requireFresh : requireFreshFile)(output, "Give another name or --overwrite.");
  for (const path of typeof input === "string" ? [input] : Object.values(input)) {
    if (!existsSync(path))
      throw new RankGrpoError("IO", `Expected a file for input, got ${path}, which does not exist.`);
    if (format !== "jsonl") requireFile(path);
    if (format === "huggingface" && existsSync(output) && realpathSync(path).startsWith(realpathSync(output) + sep))
      refuse("INVALID_ARGUMENT", "another folder", "output", output, `It holds ${path}, which would go with it.`);
  }
  if (format === "huggingface") {
    let rows = 0;
    const fill = async (folder: string): Promise<void> => {
      if (typeof input === "string") rows = await writeSplit(input, folder, null, shardRows);
      else {
        for (const [split, path] of Object.entries(input))
          rows += await writeSplit(path, join(folder, split), split, shardRows);
        writeFileSync(join(folder, "dataset_dict.json"), JSON.stringify({ splits: Object.keys(input) }));
      }
    };
    await writeFolderAtomic(output, fill, { replace: overwrite });
    return rows;
  }
  if (typeof input !== "string")
    refuse(
      "INVALID_ARGUMENT",
      "one file",
      "input",
      `${Object.keys(input).length} splits`,
      "Only --format huggingface takes several.",
    );
  if (format === "parquet") return writeParquet(input, output);
  let rows = 0;
  async function* counted(): AsyncGenerator<Row> {
    for await (const row of readJsonl(input as string)) {
      rows++;
      yield row;
    }
  }
  await writeLines(output, counted(), overwrite);
  return rows;
}
