// A row of named columns (Hugging Face, TRL, Reddit-v2, generic tables) as a record: what counts as a prompt, a completion, a ground truth.
import { refuse } from "../../errors.ts";
import type { UnifiedRecord } from "../record.ts";
import type { Message } from "../sample.ts";
import { parseMovie, type Years } from "./movie.ts";

type Row = Readonly<Record<string, unknown>>;

function messagesOf(value: unknown, role: string, name: string): Message[] {
  if (typeof value === "string") return [{ role, content: value }];
  if (!Array.isArray(value) || value.length === 0) throw new Error(`${name} that is neither text nor messages`);
  return value.map((message: unknown) => {
    const { role, content } = (message ?? {}) as Partial<Message>;
    if (typeof role !== "string" || typeof content !== "string")
      throw new Error(`${name} with a message without role or content`);
    return { role, content };
  });
}

/** JSON text where it is JSON, the value itself elsewhere. */
function decoded(value: unknown): unknown {
  if (typeof value !== "string" || !/^\s*\[/.test(value)) return value;
  try {
    return JSON.parse(value) as unknown;
  } catch {
    return value;
  }
}

/** Ground truths from [title, year] pairs, {title, year} objects or "Title (1995)" names (a list, or text split at | or line ends). */
export function truthsOf(value: unknown, years: Years): [string, string][] {
  const list = decoded(value);
  const entries: unknown[] =
    typeof list === "string" ? list.split(/\||\n/) : Array.isArray(list) ? list : list == null ? [] : [list];
  return entries.flatMap((entry): [string, string][] => {
    if (typeof entry === "string") {
      const movie = entry.trim() ? years.movie(entry) : undefined;
      if (!movie) return [];
      if (!movie.year) throw new Error(`the ground truth ${JSON.stringify(entry)} without a year`);
      return [[movie.title, movie.year]];
    }
    const pair = Array.isArray(entry)
      ? entry
      : entry && typeof entry === "object"
        ? [(entry as Row)["title"], (entry as Row)["year"]]
        : [];
    const [title, year] = pair as unknown[];
    if (typeof title !== "string" || (typeof year !== "string" && typeof year !== "number"))
      throw new Error(`a ground truth that is no [title, year] pair: ${JSON.stringify(entry)}`);
    return [[title, String(year)]];
  });
}

/** Titles from a list, as they are, or from text split at | or line ends, without their years. */
function seenOf(value: unknown): string[] {
  const list = decoded(value);
  if (typeof list === "string") return list.split(/\||\n/).flatMap((name) => parseMovie(name)?.title ?? []);
  return (Array.isArray(list) ? list : []).map((entry: unknown) => {
    if (typeof entry !== "string") throw new Error(`a seen title that is no text: ${JSON.stringify(entry)}`);
    return entry;
  });
}

/** Where a table keeps each part of a record; the unified schema's own names by default. */
export interface ColumnNames {
  id?: string;
  prompt?: string;
  completion?: string;
  messages?: string;
  groundtruth?: string;
  seen?: string;
}

/** Refuses a mapping to a column that no row of a file had: its records would silently lack it. @throws BAD_DATA */
export function requireColumns(names: ColumnNames, seen: ReadonlySet<string>, path: string): void {
  for (const [part, name] of Object.entries(names))
    if (seen.size > 0 && !seen.has(name)) refuse("BAD_DATA", `a column ${name} (${part})`, path, [...seen].join(", "));
}

/**
 * The record of a row; `id` and `source` stand in where the row has none, and columns that are no part of the record are kept.
 * Throws an Error whose message says what is wrong with the row.
 */
export function recordOf(
  row: Row,
  names: ColumnNames,
  years: Years,
  id: string,
  source: string,
  keep = true,
): UnifiedRecord {
  const column = {
    id: names.id ?? "id",
    prompt: names.prompt ?? "prompt",
    completion: names.completion ?? "completion",
    messages: names.messages ?? "messages",
    groundtruth: names.groundtruth ?? "groundtruth_with_release_year",
    seen: names.seen ?? "seen_titles",
  };
  const present = (name: string): unknown => (row[name] === "" ? undefined : (row[name] ?? undefined));
  let prompt: Message[];
  let completion =
    present(column.completion) === undefined
      ? undefined
      : messagesOf(decoded(row[column.completion]), "assistant", "a completion");
  if (present(column.prompt) !== undefined) prompt = messagesOf(decoded(row[column.prompt]), "user", "a prompt");
  else if (present(column.messages) !== undefined) {
    // TRL's language-modelling form: the last assistant message is the completion
    prompt = messagesOf(decoded(row[column.messages]), "user", "messages");
    if (completion === undefined && prompt.length > 1 && prompt.at(-1)!.role === "assistant")
      completion = prompt.splice(-1);
  } else throw new Error(`a row without ${column.prompt}`);
  const own = present(column.id);
  const record: UnifiedRecord = {
    id: typeof own === "string" || typeof own === "number" ? String(own) : id,
    source: typeof row["source"] === "string" && row["source"] ? row["source"] : source,
    prompt,
    ...(completion && { completion }),
    groundtruth_with_release_year: truthsOf(row[column.groundtruth], years),
    seen_titles: seenOf(row[column.seen]),
  };
  if (keep) {
    const used = new Set([...Object.values(column), ...Object.keys(record)]);
    for (const [name, value] of Object.entries(row)) if (!used.has(name)) record[name] = value;
  }
  return record;
}
