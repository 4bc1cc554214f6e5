// Loggers: formats decoded by other code than wrote them, servers played by stubs, and that none of them stops or slows a run.
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, afterEach, beforeEach, describe, expect, it, vi } from "vitest";

import { type Logger, Loggers } from "../src/log/logger.ts";
import { openLoggers } from "../src/log/open.ts";
import { logSchema } from "../src/log/schema.ts";
import { crc32c } from "../src/log/tensorboard.ts";
import { worldConfigs, writeWorld } from "../src/quickstart.ts";
import type { Reward } from "../src/ranking/rewards.ts";
import { sftSchema, trainSchema } from "../src/training/config.ts";
import { parseConfig } from "../src/training/parse.ts";
import type { StepReport } from "../src/training/report.ts";
import { sft } from "../src/training/sft.ts";
import { train } from "../src/training/train.ts";
import { World } from "../src/world.ts";

const root = mkdtempSync(join(tmpdir(), "rank-grpo-log-"));
afterAll(() => rmSync(root, { recursive: true, force: true }));
let folder = "";
let runs = 0;
beforeEach(() => {
  folder = join(root, String(runs++));
});

const report = (step: number, extra: Partial<StepReport> = {}): StepReport => ({
  step,
  steps: 10,
  metrics: { "reward/mean": step / 10, "reward/by_rank": [0.5, 0.25, 0], "policy/kl": Number.NaN },
  secondsLeft: 1,
  ...extra,
});
const loggers = async (
  log: unknown,
  options: { resumedAt?: number; own?: Logger[]; at?: string } = {},
): Promise<Loggers> => {
  const at = options.at ?? folder;
  mkdirSync(at, { recursive: true });
  const config = {
    log: logSchema.parse(log),
    seed: 3,
    optimizer: { learningRate: 1e-5 },
    rewards: [{ name: "exp_inf" }],
  };
  return openLoggers({ folder: at, kind: "train", config, resumedAt: options.resumedAt }, options.own);
};

// ---- warnings ----

const warnings: string[] = [];
const heard = (warning: Error): void => void warnings.push(warning.message);
beforeEach(() => {
  warnings.length = 0;
  process.on("warning", heard);
});
afterEach(() => {
  process.off("warning", heard);
  vi.unstubAllEnvs();
});
const settle = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

describe("any function is a logger", () => {
  it("is called with every report, in order, one at a time, and closed once", async () => {
    const seen: string[] = [];
    const slow: Logger = async ({ step }) => {
      seen.push(`begin ${step}`);
      await settle();
      seen.push(`end ${step}`);
    };
    slow.close = (ended) => void seen.push(ended);
    const all = new Loggers([slow]);
    all.report(report(1));
    all.report(report(2));
    expect(seen).toEqual([]); // nothing was waited for
    await all.close("finished");
    expect(seen).toEqual(["begin 1", "end 1", "begin 2", "end 2", "finished"]);
  });

  it("may fail: it warns once, is called again, and others do not notice", async () => {
    const steps: number[] = [];
    const failing: Logger = ({ step }) => {
      steps.push(step);
      throw new Error(`no place for ${step}`);
    };
    const fine: number[] = [];
    const all = new Loggers([failing, ({ step }) => void fine.push(step)]);
    for (const step of [1, 2, 3]) all.report(report(step));
    await all.close("finished");
    await settle();
    expect(steps).toEqual([1, 2, 3]);
    expect(fine).toEqual([1, 2, 3]);
    expect(warnings).toEqual(["Logger failing failed: no place for 1"]);
  });
});

describe("configuration", () => {
  const base = { model: "m", train: "t", optimizer: { learningRate: 1e-5 } };
  it("names loggers, alone or with options, in sft and train", () => {
    const log = ["tensorboard", "csv", { wandb: { project: "p" } }, { mlflow: { url: "http://127.0.0.1:5000" } }];
    for (const schema of [sftSchema, trainSchema])
      expect(parseConfig(schema, { ...base, log }).log[2]).toEqual({ wandb: { project: "p", tags: [] } });
    expect(parseConfig(trainSchema, base).log).toEqual([]);
    expect(() => parseConfig(trainSchema, { ...base, log: ["tensorbord"] })).toThrow(/log/);
  });
  it("is refused before the start where an address or a key is missing", async () => {
    for (const name of ["WANDB_API_KEY", "MLFLOW_TRACKING_URI"]) vi.stubEnv(name, "");
    await expect(loggers(["wandb"])).rejects.toThrow(/WANDB_API_KEY/);
    await expect(loggers(["mlflow"])).rejects.toMatchObject({ code: "BAD_CONFIG" });
    await expect(loggers([{ mlflow: { url: "file:///x" } }])).rejects.toMatchObject({ code: "BAD_CONFIG" });
  });
});

// ---- TensorBoard ----

describe("CRC-32C", () => {
  it("gives the vectors of RFC 3720", () => {
    expect(crc32c(Buffer.from("123456789"))).toBe(0xe3069283);
    expect(crc32c(Buffer.alloc(32))).toBe(0x8a9136aa);
    expect(crc32c(Buffer.alloc(32, 0xff))).toBe(0x62a8ab43);
    expect(crc32c(Buffer.from(Array.from({ length: 32 }, (_, i) => i)))).toBe(0x46dd794e);
    expect(crc32c(Buffer.from(Array.from({ length: 32 }, (_, i) => 31 - i)))).toBe(0x113fdb5c);
  });
});

type Field = { field: number; value: number | Buffer };

/** Fields of a protobuf message; fixed-width ones as bytes. */
function fields(data: Buffer): Field[] {
  const found: Field[] = [];
  let at = 0;
  const varint = (): number => {
    let value = 0;
    for (let scale = 1; ; scale *= 128) {
      const byte = data[at++]!;
      value += (byte & 127) * scale;
      if (byte < 128) return value;
    }
  };
  while (at < data.length) {
    const key = varint();
    const take = (length: number): Buffer => {
      at += length;
      return data.subarray(at - length, at);
    };
    const value = { 0: varint, 1: () => take(8), 2: () => take(varint()), 5: () => take(4) }[key & 7]!();
    found.push({ field: key >> 3, value });
  }
  return found;
}
const sub = (message: Field[], field: number): Buffer => message.find((f) => f.field === field)!.value as Buffer;
const doubles = (data: Buffer): number[] => Array.from({ length: data.length / 8 }, (_, i) => data.readDoubleLE(8 * i));

/** Events of a file, every length and CRC checked. */
function events(file: string): Field[][] {
  const data = readFileSync(file);
  const crcAt = (at: number): number => {
    const rotated = (data.readUInt32LE(at) - 0xa282ead8) >>> 0;
    return ((rotated >>> 17) | (rotated << 15)) >>> 0;
  };
  const found: Field[][] = [];
  for (let at = 0; at < data.length; ) {
    const length = Number(data.readBigUInt64LE(at));
    expect(crcAt(at + 8)).toBe(crc32c(data.subarray(at, at + 8)));
    const body = data.subarray(at + 12, at + 12 + length);
    expect(crcAt(at + 12 + length)).toBe(crc32c(body));
    found.push(fields(body));
    at += 16 + length;
  }
  return found;
}
const eventFiles = (): string[] => readdirSync(folder).filter((name) => name.includes("tfevents"));

describe("tensorboard", () => {
  it("writes scalars, arrays by rank as histograms, and lists as text", async () => {
    const all = await loggers(["tensorboard"]);
    const samples = [{ step: 1, id: "d-1", completions: [{ text: "A (1999)\nB (2000)", rewards: [1, 0] }] }];
    all.report(report(1, { samples, validation: { "ndcg@10": 0.25 } }));
    all.report(report(300));
    await all.close("finished");
    const [file] = eventFiles();
    const [head, first, second, ...rest] = events(join(folder, file!));
    expect(rest).toEqual([]);
    expect(sub(head!, 3).toString()).toBe("brain.Event:2");
    expect(second!.find((f) => f.field === 2)!.value).toBe(300);
    expect(Math.abs(sub(first!, 1).readDoubleLE(0) - Date.now() / 1000)).toBeLessThan(600);
    const values = fields(sub(first!, 5)).map(({ value }) => fields(value as Buffer));
    const byTag = new Map(values.map((value) => [sub(value, 1).toString(), value]));
    expect([...byTag.keys()]).toEqual(["reward/mean", "reward/by_rank", "validation/ndcg@10", "samples/lists"]); // no NaN
    expect(sub(byTag.get("reward/mean")!, 2).readFloatLE(0)).toBeCloseTo(0.1, 6);
    const histogram = fields(sub(byTag.get("reward/by_rank")!, 5));
    expect(doubles(sub(histogram, 6))).toEqual([1.5, 2.5, 3.5]);
    expect(doubles(sub(histogram, 7))).toEqual([0.5, 0.25, 0]);
    expect([1, 2, 3, 4, 5].map((field) => sub(histogram, field).readDoubleLE(0))).toEqual([0.5, 3.5, 0.75, 1, 1.5]);
    const text = byTag.get("samples/lists")!;
    expect(sub(fields(sub(fields(sub(text, 9)), 1)), 1).toString()).toBe("text");
    expect(sub(fields(sub(text, 8)), 8).toString()).toContain("    A (1999)\n    B (2000)");
  });

  it("tells a resumed run's new file to drop what is done again", async () => {
    const all = await loggers(["tensorboard"], { resumedAt: 20 });
    all.report(report(21));
    await all.close("finished");
    const [, start] = events(join(folder, eventFiles()[0]!));
    expect(start!.find((f) => f.field === 2)!.value).toBe(21);
    expect(fields(sub(start!, 7))).toEqual([{ field: 1, value: 1 }]);
    // resumed before there was a checkpoint: all is done again
    const anew = await loggers(["tensorboard"]);
    anew.report(report(0));
    await anew.close("finished");
    const starts = eventFiles().flatMap((name) =>
      events(join(folder, name)).filter((e) => e.some((f) => f.field === 7)),
    );
    expect(starts.map((e) => e.find((f) => f.field === 2)!.value)).toEqual([21, 0]);
  });
});

describe("csv", () => {
  const rows = (): string[] => readFileSync(join(folder, "metrics.csv"), "utf8").trim().split("\n");
  it("has a column a name, also for names that come later", async () => {
    const all = await loggers(["csv"]);
    all.report(report(1));
    all.report(report(2, { validation: { "ndcg@10": 0.5 } }));
    all.report(report(3));
    await all.close("finished");
    expect(rows()).toEqual([
      "step,reward/mean,reward/by_rank/01,reward/by_rank/02,reward/by_rank/03,validation/ndcg@10",
      "1,0.1,0.5,0.25,0,",
      "2,0.2,0.5,0.25,0,0.5",
      "3,0.3,0.5,0.25,0,",
    ]);
    const again = await loggers(["csv"], { resumedAt: 2 });
    again.report(report(3));
    await again.close("finished");
    expect(rows().map((row) => row.split(",")[0])).toEqual(["step", "1", "2", "3"]);
  });
});

// ---- servers ----

interface Call {
  method: string;
  path: string;
  headers: IncomingMessage["headers"];
  body: Record<string, unknown>;
}

/** A server that answers what `answer` says; every call is kept. */
async function stub(
  answer: (call: Call) => { status?: number; value?: unknown },
): Promise<{ url: string; calls: Call[]; server: Server }> {
  const calls: Call[] = [];
  const server = createServer((request: IncomingMessage, response: ServerResponse) => {
    const parts: Buffer[] = [];
    request.on("data", (part: Buffer) => parts.push(part));
    request.on("end", () => {
      const text = Buffer.concat(parts).toString();
      const call = {
        method: request.method!,
        path: request.url!,
        headers: request.headers,
        body: text === "" ? {} : (JSON.parse(text) as Record<string, unknown>),
      };
      calls.push(call);
      const { status = 200, value = {} } = answer(call);
      response.writeHead(status, { "content-type": "application/json" }).end(JSON.stringify(value));
    });
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  return { url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`, calls, server };
}

describe("wandb", () => {
  const answer = ({ body }: Call): { value: unknown } => {
    const { query, variables } = body as { query?: string; variables: Record<string, string> };
    if (query?.includes("viewer")) return { value: { data: { viewer: { id: "v", entity: "team", username: "u" } } } };
    if (query?.includes("upsertBucket"))
      return {
        value: {
          data: {
            upsertBucket: {
              bucket: { id: "b", name: variables["name"], project: { name: "p", entity: { name: "team" } } },
              inserted: true,
            },
          },
        },
      };
    return { value: {} };
  };

  it("asks who it is, opens the run, streams its lines; a resumed run goes on after them", async () => {
    const { url, calls, server } = await stub(answer);
    vi.stubEnv("WANDB_API_KEY", "secret");
    vi.stubEnv("WANDB_BASE_URL", url);
    const all = await loggers([{ wandb: { project: "p", group: "g", name: "n" } }]);
    for (const step of [1, 2, 3]) all.report(report(step));
    await all.close("interrupted");
    const upsert = calls[1]!.body["variables"] as Record<string, string>;
    expect(calls[0]!.path).toBe("/graphql");
    expect(calls[0]!.headers.authorization).toBe(`Basic ${Buffer.from("api:secret").toString("base64")}`);
    expect(upsert).toMatchObject({ project: "p", entity: "team", displayName: "n", groupName: "g", jobType: "train" });
    expect(JSON.parse(upsert["config"]!)).toMatchObject({ seed: { value: 3 } });
    const streams = calls.slice(2);
    for (const call of streams) expect(call.path).toBe(`/files/team/p/${upsert["name"]}/file_stream`);
    expect(streams.at(-1)!.body).toEqual({ complete: true, exitcode: 255 });
    const history = (all: Call[]): { offset: number; content: string[] }[] =>
      all.flatMap(({ body }) => {
        const files = body["files"] as Record<string, { offset: number; content: string[] }> | undefined;
        return files ? [files["wandb-history.jsonl"]!] : [];
      });
    const lines = history(streams);
    expect(
      lines.flatMap(({ content }) => content.map((line) => (JSON.parse(line) as { _step: number })._step)),
    ).toEqual([1, 2, 3]);
    let offset = 0;
    for (const part of lines) {
      expect(part.offset).toBe(offset);
      offset += part.content.length;
    }
    expect(JSON.parse(lines[0]!.content[0]!)).toMatchObject({
      "reward/mean": 0.1,
      "reward/by_rank": { _type: "histogram", values: [0.5, 0.25, 0], bins: [0.5, 1.5, 2.5, 3.5] },
    });
    expect(readFileSync(join(folder, "wandb.json"), "utf8")).not.toContain("secret");

    calls.length = 0;
    const again = await loggers([{ wandb: { project: "p", name: "n" } }], { resumedAt: 2 });
    for (const step of [3, 4]) again.report(report(step));
    await again.close("finished");
    expect((calls[1]!.body["variables"] as Record<string, string>)["name"]).toBe(upsert["name"]);
    const more = history(calls);
    expect(more.map(({ offset: at, content }) => [at, content.length])).toEqual([[3, 1]]); // step 3 is there already
    server.close();
    expect(warnings).toEqual([]);
  });

  it("goes on when the server refuses, warns without the key, and says what was not sent", async () => {
    const { url, server } = await stub(() => ({ status: 401, value: { error: "who are you" } }));
    vi.stubEnv("WANDB_API_KEY", "secret");
    const all = await loggers([{ wandb: { url } }]);
    for (const step of [1, 2, 3]) all.report(report(step));
    await all.close("finished");
    await settle();
    expect(warnings).toHaveLength(2);
    expect(warnings[0]).toMatch(/wandb: .*graphql.*401.*who are you/);
    expect(warnings[1]).toMatch(/3 reports were not sent/);
    expect(warnings.join()).not.toContain("secret");
    server.close();
  });

  it("says what a run did not take that was removed at the server", async () => {
    const { url, server } = await stub((call) => (call.path.endsWith("file_stream") ? { status: 404 } : answer(call)));
    vi.stubEnv("WANDB_API_KEY", "secret");
    const all = await loggers([{ wandb: { url, entity: "team" } }]);
    for (const step of [1, 2]) all.report(report(step));
    await all.close("finished");
    await settle();
    expect(warnings[0]).toMatch(/wandb: .*file_stream.*404/);
    expect(warnings.at(-1)).toMatch(/2 reports were not sent/);
    server.close();
  });

  it("sends everything once the server is back", async () => {
    let down = true;
    const { url, calls, server } = await stub((call) => (down ? { status: 503 } : answer(call)));
    vi.stubEnv("WANDB_API_KEY", "secret");
    const all = await loggers([{ wandb: { url, entity: "team" } }]);
    all.report(report(1));
    await vi.waitFor(() => expect(calls.length).toBeGreaterThan(0));
    down = false;
    all.report(report(2)); // before the time of the next try: waits
    await all.close("finished");
    const steps = calls.flatMap(({ body }) => {
      const files = body["files"] as Record<string, { content: string[] }> | undefined;
      return files
        ? files["wandb-history.jsonl"]!.content.map((line) => (JSON.parse(line) as { _step: number })._step)
        : [];
    });
    expect(steps).toEqual([1, 2]);
    expect(warnings).toHaveLength(1);
    server.close();
  });

  it("opens one run, however often it has to try", async () => {
    let opened = 0;
    const { url, calls, server } = await stub((call) =>
      String(call.body["query"]).includes("upsertBucket") && opened++ === 0 ? { status: 503 } : answer(call),
    );
    vi.stubEnv("WANDB_API_KEY", "secret");
    const all = await loggers([{ wandb: { url, entity: "team" } }]);
    all.report(report(1));
    await all.close("finished");
    const names = calls.flatMap(({ body }) => (body["variables"] as { name?: string } | undefined)?.name ?? []);
    expect([names.length, new Set(names).size]).toEqual([2, 1]);
    server.close();
  });

  it("does not hold the run up where nobody answers", async () => {
    vi.stubEnv("WANDB_API_KEY", "secret");
    const { url, server } = await stub(() => ({}));
    await new Promise((resolve) => server.close(resolve)); // a port where nobody listens any more
    const all = await loggers([{ wandb: { url, entity: "e" } }]);
    for (let step = 1; step <= 100; step++) all.report(report(step));
    await all.close("finished");
    await settle();
    expect(warnings[0]).toMatch(/ECONNREFUSED/);
    expect(warnings.at(-1)).toMatch(/100 reports were not sent/);
  });
});

describe("mlflow", () => {
  const answers: Record<string, unknown> = {
    "experiments/create": { experiment_id: "7" },
    "runs/create": { run: { info: { run_id: "r1" } } },
  };
  const answer = ({ path }: Call): { status?: number; value?: unknown } =>
    path.includes("get-by-name")
      ? { status: 404, value: { error_code: "RESOURCE_DOES_NOT_EXIST" } }
      : { value: answers[path.replace("/api/2.0/mlflow/", "")] ?? {} };

  it("makes the experiment and the run, logs parameters and metrics, and says how it ended", async () => {
    const { url, calls, server } = await stub(answer);
    vi.stubEnv("MLFLOW_TRACKING_URI", `${url}/`);
    vi.stubEnv("MLFLOW_TRACKING_TOKEN", "secret");
    const all = await loggers([{ mlflow: { experiment: "a b", tags: { team: "x" } } }]);
    all.report(report(1, { validation: { "ndcg@10": 0.5 } }));
    all.report(report(2));
    await all.close("failed");
    expect(calls.map(({ method, path }) => `${method} ${path.replace("/api/2.0/mlflow/", "")}`)).toEqual(
      expect.arrayContaining([
        "GET experiments/get-by-name?experiment_name=a%20b",
        "POST experiments/create",
        "POST runs/create",
      ]),
    );
    expect(calls[0]!.headers.authorization).toBe("Bearer secret");
    expect(calls[2]!.body).toMatchObject({
      experiment_id: "7",
      tags: [
        { key: "stage", value: "train" },
        { key: "team", value: "x" },
      ],
    });
    expect(calls[3]!.body["params"]).toEqual(
      expect.arrayContaining([
        { key: "seed", value: "3" },
        { key: "optimizer.learningRate", value: "0.00001" },
        { key: "rewards", value: '[{"name":"exp_inf"}]' },
      ]),
    );
    const metrics = calls.flatMap(
      ({ body }) => (body["metrics"] ?? []) as { key: string; value: number; step: number }[],
    );
    expect(metrics.map(({ key, value, step }) => [key, value, step])).toEqual([
      ["reward/mean", 0.1, 1],
      ["reward/by_rank/01", 0.5, 1],
      ["reward/by_rank/02", 0.25, 1],
      ["reward/by_rank/03", 0, 1],
      ["validation/ndcg_at_10", 0.5, 1],
      ["reward/mean", 0.2, 2],
      ["reward/by_rank/01", 0.5, 2],
      ["reward/by_rank/02", 0.25, 2],
      ["reward/by_rank/03", 0, 2],
    ]);
    expect(calls.at(-1)!.body).toMatchObject({ run_id: "r1", status: "FAILED" });

    calls.length = 0;
    const again = await loggers([{ mlflow: {} }], { resumedAt: 2 });
    again.report(report(3));
    await again.close("finished");
    expect(calls.map(({ path }) => path.replace("/api/2.0/mlflow/", ""))).toEqual([
      "runs/update",
      "runs/log-batch",
      "runs/update",
    ]);
    expect(calls.map(({ body }) => body["run_id"])).toEqual(["r1", "r1", "r1"]);
    server.close();
    expect(warnings).toEqual([]);
  });

  it("makes one run, with its parameters, where the server fails once in between", async () => {
    let failures = 0;
    const { url, calls, server } = await stub((call) =>
      call.body["params"] && failures++ === 0 ? { status: 503 } : answer(call),
    );
    const all = await loggers([{ mlflow: { url } }]);
    all.report(report(1));
    await all.close("finished");
    const paths = calls.map(({ path }) => path.replace("/api/2.0/mlflow/", ""));
    expect(paths.filter((path) => path === "runs/create")).toHaveLength(1);
    expect(calls.filter(({ body }) => body["params"])).toHaveLength(2);
    expect(calls.filter(({ body }) => body["metrics"])).toHaveLength(1);
    server.close();
  });
});

it("writes nothing before the first report", async () => {
  await (await loggers(["tensorboard", "csv"])).close("finished");
  expect(existsSync(folder) && readdirSync(folder)).toEqual([]);
});

describe("a training", () => {
  it("logs to all of them, closes them as it ended, and says so in status.json", async () => {
    const data = join(folder, "data");
    await writeWorld(new World({ seed: 3 }), data, 32);
    const base = worldConfigs(data, 3);
    const shape = {
      hidden_size: 32,
      intermediate_size: 64,
      num_hidden_layers: 1,
      num_attention_heads: 2,
      max_position_embeddings: 96,
    };
    const log = ["tensorboard" as const, "csv" as const];
    const ends: string[] = [];
    const steps: number[] = [];
    const own: Logger = ({ step }) => void steps.push(step);
    own.close = (ended) => void ends.push(ended);
    const first = join(folder, "sft");
    const config = {
      ...base.sft,
      model: { shape, tokenizer: join(data, "tokenizer") },
      steps: 3,
      batchSize: 8,
      validation: undefined,
      log,
    };
    await sft(config, { output: first, loggers: [own] });
    const stopped = new AbortController();
    await sft(config, {
      output: join(folder, "stopped"),
      loggers: [own],
      signal: stopped.signal,
      onStep: () => stopped.abort(),
    });
    const wrong: Reward = () => Promise.reject(new Error("service is down"));
    const second = train(
      {
        ...base.train,
        model: join(first, "final"),
        steps: 2,
        promptsPerStep: 2,
        groupSize: 2,
        maxNewTokens: 8,
        validation: undefined,
      },
      { output: join(folder, "train"), rewards: [wrong], loggers: [own] },
    );
    await expect(second).rejects.toThrow(/service is down/);
    expect(steps).toEqual([1, 2, 3, 1]);
    expect(ends).toEqual(["finished", "interrupted", "failed"]);
    const states = ["sft", "stopped", "train"].map(
      (name) => JSON.parse(readFileSync(join(folder, name, "status.json"), "utf8")) as object,
    );
    expect(states).toMatchObject([
      { state: "finished", step: 3, steps: 3, process: { pid: process.pid } },
      { state: "interrupted", step: 1 },
      { state: "failed", step: 0, steps: 2 },
    ]);
    expect(readFileSync(join(first, "metrics.csv"), "utf8").trim().split("\n")).toHaveLength(4);
    expect(readdirSync(first).filter((name) => name.includes("tfevents"))).toHaveLength(1);
  });
});
