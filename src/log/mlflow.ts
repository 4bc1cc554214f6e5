// MLflow through its REST interface 2.0: find or make the experiment, make the run, log batches, say how it ended. Credentials come from
// MLFLOW_TRACKING_TOKEN, or MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, as for MLflow's own client.
import { existsSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { basename, join, resolve } from "node:path";
import type { z } from "zod";

import { RankGrpoError, refuse } from "../errors.ts";
import { writeFileAtomic } from "../files.ts";
import { reportLine, type StepReport } from "../training/report.ts";
import { type Ended, type Logger, scalars } from "./logger.ts";
import type { mlflowSchema } from "./schema.ts";
import { requestJson, type Service, uploading } from "./upload.ts";

/** The interface's limits of one log-batch. */
const limits = { metrics: 1000, params: 100, paramLength: 500 };

const states: Record<Ended, string> = {
  finished: "FINISHED",
  "early-stop": "FINISHED",
  interrupted: "KILLED",
  failed: "FAILED",
};

/** Letters, digits and `_-. /` are allowed: `ndcg@10` becomes `ndcg_at_10`. */
const legal = (name: string): string => name.replace(/@/g, "_at_").replace(/[^\w\-. /]/g, "_");

/** @throws BAD_CONFIG without a server's address, before work starts */
export function mlflowLogger(
  folder: string,
  kind: string,
  config: object,
  options: z.output<typeof mlflowSchema>,
): Logger {
  const url =
    options.url ??
    process.env["MLFLOW_TRACKING_URI"] ??
    refuse("BAD_CONFIG", "url or MLFLOW_TRACKING_URI", "log: mlflow", "neither");
  if (!/^https?:/.test(url)) refuse("BAD_CONFIG", "a server's http address", "log: mlflow", url);
  return uploading(new Mlflow(folder, kind, config, options, `${url.replace(/\/+$/, "")}/api/2.0/mlflow`));
}

function authorization(): Record<string, string> {
  const token = process.env["MLFLOW_TRACKING_TOKEN"];
  if (token) return { authorization: `Bearer ${token}` };
  const user = process.env["MLFLOW_TRACKING_USERNAME"];
  if (!user) return {};
  const password = process.env["MLFLOW_TRACKING_PASSWORD"] ?? "";
  return { authorization: `Basic ${Buffer.from(`${user}:${password}`).toString("base64")}` };
}

class Mlflow implements Service {
  readonly name = "mlflow";
  readonly #stateFile: string;
  readonly #body: { kind: string; config: object; options: z.output<typeof mlflowSchema>; runName: string };
  readonly #api: string;
  readonly #headers = authorization();
  #runId = "";

  constructor(folder: string, kind: string, config: object, options: z.output<typeof mlflowSchema>, api: string) {
    this.#stateFile = join(folder, "mlflow.json");
    this.#body = { kind, config, options, runName: options.name ?? basename(resolve(folder)) };
    this.#api = api;
  }

  async open(): Promise<void> {
    if (this.#runId === "" && existsSync(this.#stateFile)) {
      const { runId } = JSON.parse(await readFile(this.#stateFile, "utf8")) as { runId: string };
      await this.#call("runs/update", { run_id: runId, status: "RUNNING" });
      this.#runId = runId;
      return;
    }
    const { kind, config, options, runName } = this.#body;
    if (this.#runId === "") {
      const answer = (await this.#call("runs/create", {
        experiment_id: await this.#experiment(options.experiment),
        run_name: runName,
        start_time: Date.now(),
        tags: Object.entries({ stage: kind, ...options.tags }).map(([key, value]) => ({ key, value })),
      })) as { run: { info: { run_id: string } } };
      this.#runId = answer.run.info.run_id; // what follows may fail: the next try makes no second run
      await writeFileAtomic(this.#stateFile, `${JSON.stringify({ runId: this.#runId })}\n`);
    }
    const params = flatten(config).map(([key, value]) => ({ key, value: value.slice(0, limits.paramLength) }));
    for (let i = 0; i < params.length; i += limits.params)
      await this.#call("runs/log-batch", { run_id: this.#runId, params: params.slice(i, i + limits.params) });
  }

  async send(reports: readonly StepReport[]): Promise<void> {
    const timestamp = Date.now();
    const metrics = reports.flatMap((report) =>
      scalars(reportLine(report)).map(([name, value]) => ({ key: legal(name), value, timestamp, step: report.step })),
    );
    for (let i = 0; i < metrics.length; i += limits.metrics)
      await this.#call("runs/log-batch", { run_id: this.#runId, metrics: metrics.slice(i, i + limits.metrics) });
  }

  async end(ended: Ended): Promise<void> {
    await this.#call("runs/update", { run_id: this.#runId, status: states[ended], end_time: Date.now() });
  }

  async #experiment(name: string): Promise<string> {
    const found = await requestJson(
      "GET",
      `${this.#api}/experiments/get-by-name?experiment_name=${encodeURIComponent(name)}`,
      this.#headers,
    );
    if (found.status === 200)
      return (found.value as { experiment: { experiment_id: string } }).experiment.experiment_id;
    return ((await this.#call("experiments/create", { name })) as { experiment_id: string }).experiment_id;
  }

  async #call(path: string, body: object): Promise<unknown> {
    const { status, value } = await requestJson("POST", `${this.#api}/${path}`, this.#headers, body);
    if (status !== 200)
      throw new RankGrpoError("IO", `Expected status 200 of ${this.#api}/${path}, got ${status}. Is it MLflow?`);
    return value;
  }
}

/** Nested keys joined by dots, values as text. */
function flatten(value: object, prefix = ""): [name: string, value: string][] {
  return Object.entries(value).flatMap(([name, inner]: [string, unknown]): [string, string][] => {
    const key = legal(prefix + name);
    if (inner === undefined || inner === null) return [];
    if (typeof inner === "object" && !Array.isArray(inner)) return flatten(inner, `${key}.`);
    return [[key, typeof inner === "string" ? inner : JSON.stringify(inner)]];
  });
}
