// The one error class of the TypeScript side; the addon's errors carry the same `code` field.

/** What went wrong, for programs; `message` says it to people: what was expected, what came, what to do. */
export type ErrorCode =
  | "INVALID_ARGUMENT"
  | "BAD_DATA"
  | "BAD_CONFIG"
  | "BAD_CHECKPOINT"
  | "BAD_REWARD"
  | "IO"
  | "OUT_OF_MEMORY"
  | "ABORTED"
  | "NO_DEVICE"
  | "NOT_FINITE"
  | "BUSY"
  | "DISPOSED"
  | "WRONG_RESULT";

export class RankGrpoError extends Error {
  readonly code: ErrorCode;
  constructor(code: ErrorCode, message: string, options?: ErrorOptions) {
    super(message, options);
    this.name = "RankGrpoError";
    this.code = code;
  }
}

/** A value as messages show it: short, texts and structures as JSON. */
export function shown(value: unknown): string {
  let text: string;
  try {
    text = typeof value === "string" || typeof value === "object" ? (JSON.stringify(value) ?? "") : String(value);
  } catch {
    text = Object.prototype.toString.call(value); // a structure that holds itself, or a bigint
  }
  return text.length > 60 ? `${text.slice(0, 57)}...` : text;
}

/** Throws `Expected {what} for {name}, got {value}. {fix}`. */
export function refuse(code: ErrorCode, what: string, name: string, value: unknown, fix = ""): never {
  throw new RankGrpoError(code, `Expected ${what} for ${name}, got ${shown(value)}.${fix ? ` ${fix}` : ""}`);
}

/** The known name closest to `word` by edit distance (insert, delete, replace, swap), for "Did you mean" lines; "" where none is near. */
export function nearest(word: string, known: readonly string[]): string {
  const distance = (a: string, b: string): number => {
    let before: number[] = [];
    let above = Array.from({ length: b.length + 1 }, (_, j) => j);
    for (let i = 1; i <= a.length; i++) {
      const row = [i];
      for (let j = 1; j <= b.length; j++) {
        const replaced = above[j - 1]! + (a[i - 1] === b[j - 1] ? 0 : 1);
        row[j] = Math.min(above[j]! + 1, row[j - 1]! + 1, replaced);
        if (i > 1 && j > 1 && a[i - 1] === b[j - 2] && a[i - 2] === b[j - 1]) {
          row[j] = Math.min(row[j]!, before[j - 2]! + 1);
        }
      }
      before = above;
      above = row;
    }
    return above[b.length]!;
  };
  const plain = (name: string): string => name.toLowerCase().replace(/[-_ .]/g, "");
  let best = "";
  let least = Math.max(2, Math.ceil(word.length / 3)) + 1;
  for (const name of known) {
    const d = distance(plain(word), plain(name));
    if (d < least) [best, least] = [name, d];
  }
  return best;
}
