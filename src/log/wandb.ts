// Weights & Biases through its public HTTP interface: who am I, open the run, stream history lines. The key comes from WANDB_API_KEY alone.
import { randomBytes } from "node:crypto";
import { existsSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { basename, join, resolve } from "node:path";
import type { z } from "zod";

import { RankGrpoError, refuse } from "../errors.ts";
import { writeFileAtomic } from "../files.ts";
import { reportLine, type StepReport } from "../training/report.ts";
import type { Ended, Logger } from "./logger.ts";
import type { wandbSchema } from "./schema.ts";
import { requestJson, type Service, uploading } from "./upload.ts";

/** Kept in the run folder, so that a resumed run goes on in the same place. */
interface State {
  id: string;
  /** History lines that the server has. */
  lines: number;
  /** The last of them; -1: none. */
  step: number;
}

const viewerQuery = "query Viewer { viewer { id entity username } }";
const upsertQuery = `mutation UpsertBucket($name: String!, $project: String, $entity: String, $displayName: String, $groupName: String,
  $config: JSONString, $jobType: String, $tags: [String!]) {
  upsertBucket(input: { name: $name, modelName: $project, entityName: $entity, displayName: $displayName, groupName: $groupName,
    config: $config, jobType: $jobType, tags: $tags }) {
    bucket { id name project { name entity { name } } }
    inserted
  }
}`;

/** @throws BAD_CONFIG without WANDB_API_KEY, before work starts */
export function wandbLogger(
  folder: string,
  kind: string,
  config: object,
  options: z.output<typeof wandbSchema>,
): Logger {
  const key = process.env["WANDB_API_KEY"];
  if (!key) refuse("BAD_CONFIG", "WANDB_API_KEY in the environment", "log: wandb", "none");
  const base = (options.url ?? process.env["WANDB_BASE_URL"] ?? "https://api.wandb.ai").replace(/\/+$/, "");
  return uploading(new Wandb(folder, kind, config, options, base, key));
}

class Wandb implements Service {
  readonly name = "wandb";
  readonly #stateFile: string;
  readonly #body: { kind: string; config: object; options: z.output<typeof wandbSchema>; displayName: string };
  readonly #base: string;
  readonly #headers: Record<string, string>;
  readonly #started = Date.now();
  #state: State = { id: "", lines: 0, step: -1 };
  #stream = "";

  constructor(
    folder: string,
    kind: string,
    config: object,
    options: z.output<typeof wandbSchema>,
    base: string,
    key: string,
  ) {
    this.#stateFile = join(folder, "wandb.json");
    this.#body = { kind, config, options, displayName: options.name ?? basename(resolve(folder)) };
    this.#base = base;
    this.#headers = { authorization: `Basic ${Buffer.from(`api:${key}`).toString("base64")}` };
  }

  async open(): Promise<void> {
    const { kind, config, options, displayName } = this.#body;
    this.#state = existsSync(this.#stateFile)
      ? (JSON.parse(await readFile(this.#stateFile, "utf8")) as State)
      : { ...this.#state, id: this.#state.id || randomBytes(4).toString("hex") }; // another try is for the same run
    let entity = options.entity;
    if (entity === undefined) {
      const { viewer } = (await this.#ask(viewerQuery, {})) as { viewer?: { entity?: string } | null };
      entity = viewer?.entity ?? refuse("IO", "a user", "WANDB_API_KEY", "none known to the server");
    }
    const { upsertBucket } = (await this.#ask(upsertQuery, {
      name: this.#state.id,
      project: options.project,
      entity,
      displayName,
      groupName: options.group ?? null,
      config: JSON.stringify(Object.fromEntries(Object.entries(config).map(([name, value]) => [name, { value }]))),
      jobType: kind,
      tags: options.tags,
    })) as { upsertBucket: { bucket: { name: string; project?: { name: string; entity: { name: string } } } } };
    const { name, project } = upsertBucket.bucket;
    const path = [project?.entity.name ?? entity, project?.name ?? options.project, name].map(encodeURIComponent);
    this.#stream = `${this.#base}/files/${path.join("/")}/file_stream`;
    await this.#remember();
  }

  async send(reports: readonly StepReport[]): Promise<void> {
    // steps that a resumed run does again are there already
    const fresh = reports.filter((report) => report.step > this.#state.step);
    const last = fresh.at(-1);
    if (!last) return;
    const lines = fresh.map((report) => this.#line(report));
    await this.#post({
      files: {
        "wandb-history.jsonl": { offset: this.#state.lines, content: lines.map((line) => JSON.stringify(line)) },
        "wandb-summary.json": { offset: 0, content: [JSON.stringify(lines.at(-1))] },
      },
    });
    this.#state = { ...this.#state, lines: this.#state.lines + lines.length, step: last.step };
    await this.#remember();
  }

  async end(ended: Ended): Promise<void> {
    const exitcode = ended === "failed" ? 1 : ended === "interrupted" ? 255 : 0;
    await this.#post({ complete: true, exitcode });
  }

  /** To the run's stream; a run that was removed at the server takes no lines. */
  async #post(body: object): Promise<void> {
    const { status } = await requestJson("POST", this.#stream, this.#headers, body);
    if (status === 404) throw new RankGrpoError("IO", `Expected a run at ${this.#stream}, got status 404.`);
  }

  /** Arrays by rank are histograms with one bin for each rank. */
  #line(report: StepReport): Record<string, unknown> {
    const { step, ...values } = reportLine(report);
    const line: Record<string, unknown> = {
      _step: step,
      _timestamp: Date.now() / 1000,
      _runtime: (Date.now() - this.#started) / 1000,
    };
    for (const [name, value] of Object.entries(values))
      line[name] =
        typeof value === "number"
          ? value
          : { _type: "histogram", values: value, bins: Array.from({ length: value.length + 1 }, (_, k) => k + 0.5) };
    return line;
  }

  async #ask(query: string, variables: object): Promise<unknown> {
    const url = `${this.#base}/graphql`;
    const { status, value } = await requestJson("POST", url, this.#headers, { query, variables });
    const { data, errors } = value as { data?: unknown; errors?: { message: string }[] };
    if (status !== 200 || errors?.length || !data)
      throw new RankGrpoError("IO", `Expected data from ${url}, got ${errors?.[0]?.message ?? `status ${status}`}.`);
    return data;
  }

  #remember(): Promise<void> {
    return writeFileAtomic(this.#stateFile, `${JSON.stringify(this.#state)}\n`);
  }
}
