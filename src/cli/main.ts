#!/usr/bin/env node
// Runs the `rank-grpo` command; errors as one line, never a stack.
import { program } from "./program.ts";

// A reader that has seen enough, such as `head`, is no error.
process.stdout.on("error", (error: NodeJS.ErrnoException) => {
  if (error.code === "EPIPE") process.exit();
  throw error;
});
// One that has seen enough of the progress is no reason to end the work.
process.stderr.on("error", (error: NodeJS.ErrnoException) => {
  if (error.code !== "EPIPE") throw error;
});

// Nothing is left to do, but the command still waits: node would end without a word.
const stalled = (): never => {
  process.stderr.write(
    "rank-grpo: Expected the command to end, got a promise that nothing is left to settle, such as that of an own reward. Settle it, or give it a time limit.\n",
  );
  process.exit(1);
};
process.on("beforeExit", stalled);

try {
  await program.parseAsync();
} catch (error) {
  const { message, code } = error instanceof Error ? (error as NodeJS.ErrnoException) : { message: String(error) };
  const prefix = code === undefined || message.startsWith(code) ? "" : `${code}: `; // the system's messages begin with theirs
  process.stderr.write(`rank-grpo: ${prefix}${message}\n`);
  if (process.env["RANK_GRPO_DEBUG"] && error instanceof Error) process.stderr.write(`${error.stack}\n`);
  process.exitCode = 1;
}
process.off("beforeExit", stalled);
