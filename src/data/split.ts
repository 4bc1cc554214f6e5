// `data split`: train, validation and test by dialogue or by time. Records of one dialogue, and records with the same prompt (Reddit-v2 has
// one for every user who answered), always stay together. The file is read twice; memory holds keys, not records.
import { createHash } from "node:crypto";
import { existsSync, realpathSync } from "node:fs";
import { rm } from "node:fs/promises";
import { join } from "node:path";

import { RankGrpoError, refuse } from "../errors.ts";
import { requireFile, requireFresh } from "../files.ts";
import { permutation, Stream } from "../random.ts";
import { readJsonl } from "./jsonl.ts";
import { recordDialogue } from "./record.ts";
import { writeLines } from "./write.ts";

export interface SplitOptions {
  /** "dialogue" (default): shuffled by `seed`. "time": the newest dialogues are tested, as the paper splits Reddit-v2. */
  by?: "dialogue" | "time";
  /** Shares of the dialogues, 0 to below 1 together. Defaults 0.1 and 0.1, ReDial's 80/10/10. */
  validation?: number;
  test?: number;
  /** Column with the time, a number or a date as text. Default "time". */
  timeColumn?: string;
  /** Default 0. */
  seed?: number;
  overwrite?: boolean;
}

export interface SplitResult {
  /** Rows and groups (dialogues that must stay together) by part. */
  parts: Record<string, { rows: number; groups: number }>;
}

const partNames = ["train", "validation", "test"] as const;

/** Disjoint sets over strings. */
class Groups {
  private readonly parent: number[] = [];
  private readonly ids = new Map<string, number>();
  id(key: string): number {
    let id = this.ids.get(key);
    if (id === undefined) {
      id = this.parent.length;
      this.parent.push(id);
      this.ids.set(key, id);
    }
    return id;
  }
  root(id: number): number {
    let at = id;
    while (this.parent[at] !== at) {
      this.parent[at] = this.parent[this.parent[at]!]!;
      at = this.parent[at]!;
    }
    return at;
  }
  /** The smaller root stays, so groups come in the order of the file. */
  join(a: number, b: number): void {
    const [x, y] = [this.root(a), this.root(b)];
    if (x !== y) this.parent[Math.max(x, y)] = Math.min(x, y);
  }
}

/** A short key of a row's prompt in any of the shapes that samples have, equal for equal prompts; undefined where it has none. */
export function promptKey(row: Readonly<Record<string, unknown>>): string | undefined {
  const { input_ids: ids, completion_mask: mask, prompt_ids: promptIds, prompt } = row;
  const begin = Array.isArray(ids) && Array.isArray(mask) ? ids.slice(0, mask.indexOf(1)) : ids;
  const text = JSON.stringify(begin ?? promptIds ?? prompt);
  return text === undefined ? undefined : createHash("sha256").update(text).digest("base64url").slice(0, 16);
}

function timeOf(row: Record<string, unknown>, column: string, line: number): number {
  const value = row[column];
  const time =
    typeof value === "number"
      ? value
      : typeof value === "string"
        ? /^\d+(\.\d+)?$/.test(value)
          ? Number(value)
          : Date.parse(value)
        : Number.NaN;
  if (Number.isNaN(time))
    refuse("BAD_DATA", "a number or a date", `${column} of line ${line}`, value, "Name the column with --time-column.");
  return time;
}

/** Writes `<folder>/train.jsonl`, validation.jsonl and test.jsonl (a part with a share of 0 is not written). */
export async function splitData(input: string, folder: string, options: SplitOptions = {}): Promise<SplitResult> {
  const { by = "dialogue", validation = 0.1, test = 0.1, timeColumn = "time", seed = 0, overwrite = false } = options;
  for (const [name, share] of [
    ["validation", validation],
    ["test", test],
  ] as const)
    if (!(share >= 0 && share < 1)) refuse("INVALID_ARGUMENT", "a share from 0 to below 1", name, share);
  if (validation + test >= 1)
    refuse("INVALID_ARGUMENT", "shares below 1 together", "validation and test", validation + test);
  if (!overwrite) requireFresh(folder, "Give another folder or --overwrite.");
  requireFile(input);
  for (const name of partNames) {
    const path = join(folder, `${name}.jsonl`);
    if (existsSync(path) && existsSync(input) && realpathSync(path) === realpathSync(input))
      refuse(
        "INVALID_ARGUMENT",
        "another folder",
        "output",
        folder,
        `Its ${name}.jsonl is the input, which is read to the end.`,
      );
  }

  const groups = new Groups();
  const first: number[] = []; // of every row, one member of its group
  const times: number[] = [];
  let line = 0;
  for await (const row of readJsonl(input)) {
    line++;
    const dialogue = groups.id(
      `d:${row["id"] === undefined && row["dialogue"] === undefined ? line : recordDialogue(row)}`,
    );
    const prompt = promptKey(row);
    if (prompt !== undefined) groups.join(dialogue, groups.id(`p:${prompt}`));
    first.push(dialogue);
    if (by === "time") times.push(timeOf(row, timeColumn, line));
  }
  if (line === 0) throw new RankGrpoError("BAD_DATA", `Expected at least one record in ${input}, got an empty file.`);

  const newest = new Map<number, number>(); // of every group its last time, in order of first row
  for (let i = 0; i < first.length; i++) {
    const root = groups.root(first[i]!);
    newest.set(root, Math.max(newest.get(root) ?? Number.NEGATIVE_INFINITY, times[i] ?? 0));
  }
  const roots = [...newest.keys()];
  const order =
    by === "time"
      ? roots.toSorted((a, b) => newest.get(a)! - newest.get(b)!)
      : Array.from(permutation(roots.length, seed, Stream.shuffle, 0), (i) => roots[i]!);
  const tested = Math.round(test * order.length);
  const validated = Math.round(validation * order.length);
  const part = new Map<number, string>();
  order.forEach((root, i) => {
    const left = order.length - i;
    part.set(root, left <= tested ? "test" : left <= tested + validated ? "validation" : "train");
  });

  const parts: SplitResult["parts"] = {};
  for (const name of partNames) {
    const members = new Set([...part].filter(([, of]) => of === name).map(([root]) => root));
    if (members.size === 0) {
      await rm(join(folder, `${name}.jsonl`), { force: true }); // of a split that is replaced: its rows are elsewhere now
      continue;
    }
    let rows = 0;
    async function* chosen(): AsyncGenerator<unknown> {
      let i = 0;
      for await (const row of readJsonl(input)) {
        if (!members.has(groups.root(first[i++]!))) continue;
        rows++;
        yield row;
      }
    }
    await writeLines(join(folder, `${name}.jsonl`), chosen(), overwrite);
    parts[name] = { rows, groups: members.size };
  }
  return { parts };
}
