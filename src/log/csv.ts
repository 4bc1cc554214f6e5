// metrics.csv: one line a step, one column a name, arrays by rank as name/01, name/02, ... for spreadsheets and data frames.
import { existsSync } from "node:fs";
import { appendFile, readFile } from "node:fs/promises";
import { join } from "node:path";

import { writeFileAtomic } from "../files.ts";
import { reportLine } from "../training/report.ts";
import { type Logger, scalars } from "./logger.ts";

/**
 * Writes `metrics.csv` into a run folder. Columns stand in the order in which they first came; where a later step brings new ones (a
 * validation), the file is written anew. A resumed run's lines after `resumedAt` are cut first; a fresh one starts afresh.
 */
export function csvLogger(folder: string, resumedAt: number | undefined): Logger {
  const file = join(folder, "metrics.csv");
  let columns: string[] | undefined;

  const open = async (): Promise<string[]> => {
    if (!existsSync(file) || resumedAt === undefined) {
      await writeFileAtomic(file, "step\n");
      return ["step"];
    }
    const [head = "step", ...rows] = (await readFile(file, "utf8")).split("\n");
    const kept = rows.filter((row) => row !== "" && Number(row.split(",", 1)[0]) <= resumedAt);
    await writeFileAtomic(file, [head, ...kept, ""].join("\n"));
    return head.split(",");
  };
  /** Empty cells for the new columns in the lines so far. */
  const widen = async (before: readonly string[], names: readonly string[]): Promise<string[]> => {
    const [, ...rows] = (await readFile(file, "utf8")).split("\n").filter((row) => row !== "");
    const after = [...before, ...names];
    const filled = rows.map((row) => row + ",".repeat(names.length));
    await writeFileAtomic(file, [after.join(","), ...filled, ""].join("\n"));
    return after;
  };

  return async function csv(report) {
    columns ??= await open();
    const cells = new Map(scalars(reportLine(report)));
    const known = new Set(columns);
    const added = [...cells.keys()].filter((name) => !known.has(name));
    if (added.length > 0) columns = await widen(columns, added);
    const row = columns.map((name) => (name === "step" ? report.step : (cells.get(name) ?? "")));
    await appendFile(file, `${row.join(",")}\n`);
  };
}
