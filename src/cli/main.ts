#!/usr/bin/env node
// Runs the `rank-grpo` command; errors as one line, never a stack.
import { program } from "./program.ts";

// A reader that has seen enough, such as `head`, is no error.
process.stdout.on("error", (error: NodeJS.ErrnoException) => {
  if (error.code === "EPIPE") process.exit();
  throw error;
});

try {
  await program.parseAsync();
} catch (error) {
  const { message, code } = error instanceof Error ? (error as NodeJS.ErrnoException) : { message: String(error) };
  const prefix = code === undefined || message.startsWith(code) ? "" : `${code}: `; // the system's messages begin with theirs
  process.stderr.write(`rank-grpo: ${prefix}${message}\n`);
  if (process.env["RANK_GRPO_DEBUG"] && error instanceof Error) process.stderr.write(`${error.stack}\n`);
  process.exitCode = 1;
}
