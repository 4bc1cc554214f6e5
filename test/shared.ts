// Where goldens, models and data beside the repository lie. A test that needs a file from there is skipped, with the reason, where it
// is missing.
import { existsSync, readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";

const root = process.env["RANK_GRPO_SHARED"] ?? fileURLToPath(new URL("../../shared", import.meta.url));

export const shared = (path: string): string => `${root}/${path}`;
export const hasShared = existsSync(root);
export const readShared = <T>(path: string): T => JSON.parse(readFileSync(shared(path), "utf8")) as T;
