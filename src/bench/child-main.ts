// The process that `benchInChild` starts.
import type { ChildOptions } from "./child.ts";
import { bench } from "./run.ts";

process.once("message", async (options: ChildOptions) => {
  let answer: object;
  try {
    answer = { recording: await bench({ ...options, print: () => {} }) };
  } catch (error) {
    answer = { error: error instanceof Error ? error.message : String(error) };
  }
  process.send?.(answer, () => process.exit());
});
