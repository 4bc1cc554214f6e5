// A bench in a process of its own, for another addon or another number of threads: what to run comes as a message, and so does the result.
import { fork } from "node:child_process";
import { extname } from "node:path";
import { fileURLToPath } from "node:url";

import { RankGrpoError } from "../errors.ts";
import type { Recording } from "./harness.ts";

export interface ChildOptions {
  suites: readonly string[];
  only?: string[];
  seconds?: number;
}

type Answer = { recording: Recording } | { error: string };

/** @throws WRONG_RESULT, or what else ended the child, in its words */
export function benchInChild(options: ChildOptions, environment: Readonly<Record<string, string>>): Promise<Recording> {
  const main = fileURLToPath(new URL(`./child-main${extname(import.meta.url)}`, import.meta.url));
  const child = fork(main, { env: { ...process.env, ...environment }, stdio: ["ignore", "ignore", "pipe", "ipc"] });
  return new Promise((resolve, reject) => {
    let answer: Answer | undefined;
    let complaint = "";
    child.stderr?.on("data", (text: Buffer) => {
      complaint += text.toString();
    });
    child.once("message", (message) => {
      answer = message as Answer;
    });
    child.once("error", reject);
    child.once("exit", (code) => {
      if (answer && "recording" in answer) return resolve(answer.recording);
      const reason = answer?.error ?? (complaint.trim() || `exit code ${code}`);
      reject(new RankGrpoError("WRONG_RESULT", `Expected a recording of ${options.suites.join(", ")}, got: ${reason}`));
    });
    child.send(options);
  });
}
