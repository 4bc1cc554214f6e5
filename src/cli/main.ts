#!/usr/bin/env node
// Runs the `rank-grpo` command; errors as one line, never a stack.
import { program } from "./program.ts";

try {
  await program.parseAsync();
} catch (error) {
  const code = error instanceof Error && "code" in error ? `${String(error.code)}: ` : "";
  process.stderr.write(`rank-grpo: ${code}${error instanceof Error ? error.message : String(error)}\n`);
  if (process.env["RANK_GRPO_DEBUG"] && error instanceof Error) process.stderr.write(`${error.stack}\n`);
  process.exitCode = 1;
}
