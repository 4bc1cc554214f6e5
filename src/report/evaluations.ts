// Reads what `rank-grpo evaluate --output` wrote: means, baselines, and every row's list and metrics.
import { existsSync, statSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { z } from "zod";

import { RankGrpoError, refuse } from "../errors.ts";
import type { MeasuredRow } from "../evaluate.ts";
import { asIoError } from "../files.ts";

const row = z.object({ id: z.string(), dialogue: z.string() }).catchall(z.number());
const means = z.record(z.string(), z.unknown());

const evaluationSchema = z.looseObject({
  truncation: z.string(),
  ideal: z.string(),
  source: z.string(),
  data: z.string(),
  baselines: z.record(z.string(), means).default({}),
  lists: z.array(z.object({ id: z.string(), completion: z.string() })).default([]),
  row_metrics: z.array(row).optional(),
});

/** One evaluation file. Means by metric name; `rows` is empty in files of before rows were written. */
export interface StoredEvaluation {
  readonly file: string;
  /** The model or completions file that was measured. */
  readonly source: string;
  readonly data: string;
  readonly truncation: string;
  readonly ideal: string;
  readonly means: Readonly<Record<string, number>>;
  readonly baselines: Readonly<Record<string, Readonly<Record<string, number>>>>;
  readonly lists: readonly { readonly id: string; readonly completion: string }[];
  readonly rows: readonly MeasuredRow[];
}

const numbers = (values: Record<string, unknown>): Record<string, number> =>
  Object.fromEntries(Object.entries(values).filter((entry): entry is [string, number] => typeof entry[1] === "number"));

/**
 * Reads an evaluation file; a folder stands for its evaluation.json.
 * @throws IO where it cannot be read; BAD_DATA where it is none
 */
export async function readEvaluation(path: string): Promise<StoredEvaluation> {
  let file = path;
  if (existsSync(path) && statSync(path).isDirectory()) {
    file = join(path, "evaluation.json");
    if (!existsSync(file))
      refuse(
        "IO",
        "an evaluation",
        file,
        "no such file",
        `Make it: rank-grpo evaluate --model ${join(path, "best")} --data FILE --catalog FILE --output ${file}`,
      );
  }
  const text = await readFile(file, "utf8").catch((error: unknown) => {
    throw asIoError(error, file);
  });
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (cause) {
    throw new RankGrpoError("BAD_DATA", `Expected JSON in ${file}, got: ${(cause as Error).message}`, { cause });
  }
  const parsed = evaluationSchema.safeParse(value);
  if (!parsed.success) {
    const issue = parsed.error.issues[0]!;
    throw new RankGrpoError(
      "BAD_DATA",
      `Expected what rank-grpo evaluate --output writes in ${file}: ${issue.path.join(".")}: ${issue.message}.`,
    );
  }
  const { source, data, truncation, ideal, baselines, lists, row_metrics, ...rest } = parsed.data;
  return {
    file,
    source,
    data,
    truncation,
    ideal,
    means: numbers(rest),
    baselines: Object.fromEntries(Object.entries(baselines).map(([name, values]) => [name, numbers(values)])),
    lists,
    rows: (row_metrics ?? []) as unknown as MeasuredRow[],
  };
}
