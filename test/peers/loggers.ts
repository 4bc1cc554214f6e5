// The writing half of loggers.py: a run's reports to TensorBoard and to the MLflow server of the second argument, and the same as JSON.
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";

import { openLoggers } from "../../src/log/open.ts";
import { logSchema } from "../../src/log/schema.ts";
import { reportLine, type StepReport } from "../../src/training/report.ts";

const [folder, url] = process.argv.slice(2) as [string, string];
mkdirSync(folder, { recursive: true });
const steps = 400;
const reports = Array.from({ length: steps }, (_, i): StepReport => {
  const step = i + 1;
  return {
    step,
    steps,
    metrics: {
      "reward/mean": Math.sin(step / 50),
      "reward/by_rank": [0.5, 0.25, step / 1000],
      "policy/loss": -1e-7 * step,
    },
    ...(step % 100 === 0 ? { validation: { "ndcg@10": step / 1000 } } : {}),
    ...(step === 1
      ? { samples: [{ step, id: "d-1", completions: [{ text: "Äther (1999)\nB (2000)", rewards: [1, 0] }] }] }
      : {}),
    secondsLeft: 0,
  };
});
const run = async (from: number, to: number, resumedAt?: number): Promise<void> => {
  const config = {
    seed: 1,
    model: "m",
    log: logSchema.parse(["tensorboard", "csv", { mlflow: { url, name: "peer" } }]),
  };
  const loggers = openLoggers({ folder, kind: "train", config, resumedAt });
  for (const report of reports.slice(from, to)) loggers.report(report);
  await loggers.close(to === steps ? "finished" : "interrupted");
};
await run(0, 250); // stopped after its checkpoint of step 200
await new Promise((resolve) => setTimeout(resolve, 1100)); // event files are told apart by the second
await run(200, steps, 200);
writeFileSync(join(folder, "expected.json"), JSON.stringify(reports.map(reportLine)));
