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
  | "DISPOSED";

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
  const text = typeof value === "string" || typeof value === "object" ? (JSON.stringify(value) ?? "") : String(value);
  return text.length > 60 ? `${text.slice(0, 57)}...` : text;
}

/** Throws `Expected {what} for {name}, got {value}. {fix}`. */
export function refuse(code: ErrorCode, what: string, name: string, value: unknown, fix = ""): never {
  throw new RankGrpoError(code, `Expected ${what} for ${name}, got ${shown(value)}.${fix ? ` ${fix}` : ""}`);
}
