// Hugging Face data sets on disk: folders of datasets.save_to_disk (one split or several), parquet files or folders of them, Arrow
// files. Read batch by batch.
import { createReadStream, existsSync, readdirSync, readFileSync, statSync } from "node:fs";
import { open } from "node:fs/promises";
import { basename, join } from "node:path";
import { RecordBatchReader } from "apache-arrow";
import { type AsyncBuffer, parquetMetadataAsync, parquetReadObjects } from "hyparquet";
import { compressors } from "hyparquet-compressors";

import { RankGrpoError, refuse } from "../../errors.ts";
import { recordOf } from "./columns.ts";
import type { Importer } from "./importer.ts";

/** Plain JavaScript values: Arrow's vectors and struct rows as arrays and objects, whole numbers as numbers where they fit. */
function plain(value: unknown): unknown {
  if (value === undefined) return null; // how hyparquet gives a struct that is null
  if (typeof value === "bigint") return Number.isSafeInteger(Number(value)) ? Number(value) : value.toString();
  if (value === null || typeof value !== "object" || value instanceof Date || value instanceof Uint8Array) return value;
  if (Symbol.iterator in value && !("toJSON" in value && !Array.isArray(value) && !("length" in value)))
    return Array.from(value as Iterable<unknown>, plain);
  const object = "toJSON" in value && typeof value.toJSON === "function" ? (value.toJSON() as object) : value;
  return Object.fromEntries(Object.entries(object).map(([name, field]) => [name, plain(field)]));
}

type Row = Record<string, unknown>;

/** Rows of an Arrow IPC file (stream or file format), one record batch in memory at a time. */
export async function* arrowRows(path: string): AsyncGenerator<Row> {
  try {
    const reader = await RecordBatchReader.from(createReadStream(path));
    for await (const batch of reader) for (let i = 0; i < batch.numRows; i++) yield plain(batch.get(i)) as Row;
  } catch (error) {
    throw new RankGrpoError(
      "BAD_DATA",
      `Expected an Arrow file at ${path}, got one that cannot be read: ${(error as Error).message}`,
      { cause: error },
    );
  }
}

/** Rows of a parquet file (uncompressed, snappy, gzip, zstd, brotli, lz4), one row group in memory at a time. */
export async function* parquetRows(path: string): AsyncGenerator<Row> {
  const handle = await open(path);
  try {
    const { size } = await handle.stat();
    const file: AsyncBuffer = {
      byteLength: size,
      async slice(start, end = size) {
        const buffer = new Uint8Array(end - start);
        await handle.read(buffer, 0, buffer.length, start);
        return buffer.buffer;
      },
    };
    const metadata = await parquetMetadataAsync(file);
    let rowStart = 0;
    for (const group of metadata.row_groups) {
      const rowEnd = rowStart + Number(group.num_rows);
      for (const row of await parquetReadObjects({ file, metadata, compressors, rowStart, rowEnd }))
        yield plain(row) as Row;
      rowStart = rowEnd;
    }
  } catch (error) {
    if (error instanceof RankGrpoError) throw error;
    throw new RankGrpoError(
      "BAD_DATA",
      `Expected a parquet file at ${path}, got one that cannot be read: ${(error as Error).message}`,
      { cause: error },
    );
  } finally {
    await handle.close();
  }
}

interface Shard {
  split: string;
  path: string;
}

function readJson<T>(path: string): T {
  try {
    return JSON.parse(readFileSync(path, "utf8")) as T;
  } catch (error) {
    throw new RankGrpoError("BAD_DATA", `Expected JSON in ${path}, got ${(error as Error).message}.`, { cause: error });
  }
}

/** The data files of a path in reading order, with the split each belongs to. */
function shardsOf(path: string): Shard[] {
  if (!statSync(path).isDirectory()) return [{ split: basename(path).replace(/\.[^.]+$/, ""), path }];
  if (existsSync(join(path, "dataset_dict.json")))
    return readJson<{ splits: string[] }>(join(path, "dataset_dict.json")).splits.flatMap((split) =>
      shardsOf(join(path, split)).map((shard) => ({ ...shard, split })),
    );
  if (existsSync(join(path, "state.json")))
    return readJson<{ _data_files: { filename: string }[] }>(join(path, "state.json"))._data_files.map(
      ({ filename }) => ({
        split: basename(path),
        path: join(path, filename),
      }),
    );
  // the Hub's layout: data/train-00000-of-00002.parquet, or <configuration>/<split>/0000.parquet
  return readdirSync(path, { recursive: true, encoding: "utf8" })
    .filter((name) => /\.(parquet|arrow)$/.test(name))
    .sort()
    .map((name) => {
      const parts = name.split("/");
      const file = parts
        .at(-1)!
        .replace(/\.(parquet|arrow)$/, "")
        .replace(/-\d+-of-\d+$/, "");
      return { split: /^\d+$/.test(file) ? (parts.at(-2) ?? file) : file, path: join(path, name) };
    });
}

export const huggingface: Importer = {
  format: "huggingface",
  help: "a folder of datasets.save_to_disk, a parquet or Arrow file, or a folder of them; --split names one split",
  async *read(path, bad, { split, columns, years }) {
    const all = shardsOf(path);
    const splits = [...new Set(all.map((shard) => shard.split))];
    if (all.length === 0)
      throw new RankGrpoError(
        "BAD_DATA",
        `Expected a folder of save_to_disk (state.json, dataset_dict.json) or parquet files, got ${path}.`,
      );
    if (split !== undefined && !splits.includes(split)) refuse("INVALID_ARGUMENT", splits.join(", "), "split", split);
    const counts = new Map<string, number>();
    for (const shard of all) {
      if (split !== undefined && shard.split !== split) continue;
      const rows = shard.path.endsWith(".parquet") ? parquetRows(shard.path) : arrowRows(shard.path);
      for await (const row of rows) {
        const number = counts.get(shard.split) ?? 0;
        counts.set(shard.split, number + 1);
        try {
          yield recordOf(row, columns, years, `${shard.split}:${number}`, "huggingface");
        } catch (error) {
          bad.add(shard.path, number + 1, (error as Error).message);
        }
      }
    }
  },
};
