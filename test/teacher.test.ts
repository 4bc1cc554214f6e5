// Teacher, judge and embeddings against a server on this machine that fails on purpose; the cache; and, where they can be had, a real
// server and a real sentence encoder.
import { spawn } from "node:child_process";
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, afterEach, describe, expect, it } from "vitest";

import { toSample } from "../src/data/samples.ts";
import { AnswerCache } from "../src/demonstrate/cache.ts";
import { endpointEncoder, localEncoder } from "../src/demonstrate/embed.ts";
import { endpointLists } from "../src/demonstrate/endpoint.ts";
import { describeItems, MetadataTable } from "../src/demonstrate/metadata.ts";
import { reflect } from "../src/demonstrate/reflect.ts";
import { demonstrate, readRatings } from "../src/demonstrate/stages.ts";
import {
  Endpoint,
  type EndpointOptions,
  EndpointTeacher,
  EngineTeacher,
  type Teacher,
} from "../src/demonstrate/teacher.ts";
import { hasShared, shared } from "./shared.ts";

const folder = mkdtempSync(join(tmpdir(), "rank-grpo-teacher-"));
const servers: Server[] = [];
afterEach(async () => {
  for (const server of servers.splice(0)) {
    server.closeAllConnections();
    await new Promise((resolve) => server.close(resolve));
  }
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));
let caches = 0;

interface Asked {
  url: string;
  key: string | undefined;
  body: {
    model: string;
    messages?: { role: string; content: string }[];
    input?: string[];
    temperature?: number;
    max_tokens?: number;
  };
}
type Reply = (response: ServerResponse, asked: Asked, number: number) => void;

const json = (response: ServerResponse, status: number, body: unknown, headers: Record<string, string> = {}): void => {
  response.writeHead(status, { "content-type": "application/json", ...headers });
  response.end(typeof body === "string" ? body : JSON.stringify(body));
};
const chat = (text: unknown, usage = { prompt_tokens: 10, completion_tokens: 5 }) => ({
  choices: [{ index: 0, message: { role: "assistant", content: text }, finish_reason: "stop" }],
  usage,
});
const answer =
  (text: (asked: Asked) => string): Reply =>
  (response, asked) =>
    json(response, 200, chat(text(asked)));

/** A service on 127.0.0.1, and what it was asked. */
async function serve(reply: Reply): Promise<{ url: string; asked: Asked[] }> {
  const asked: Asked[] = [];
  const server = createServer((request: IncomingMessage, response: ServerResponse) => {
    let text = "";
    request.on("data", (chunk: Buffer) => {
      text += chunk.toString();
    });
    request.on("end", () => {
      const one = {
        url: request.url ?? "",
        key: request.headers.authorization,
        body: JSON.parse(text) as Asked["body"],
      };
      asked.push(one);
      reply(response, one, asked.length);
    });
  });
  servers.push(server);
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  return { url: `http://127.0.0.1:${(server.address() as AddressInfo).port}/v1`, asked };
}

const options = (url: string, more: Partial<EndpointOptions> = {}): EndpointOptions => ({
  url,
  model: "stub",
  apiKey: "secret",
  cache: join(folder, `cache${caches++}`),
  backoffMs: 1,
  timeoutMs: 20_000, // a busy machine is no fault
  ...more,
});
const user = (content: string) => [{ role: "user", content }];
const ask = (teacher: Teacher, ...texts: string[]) => teacher.ask(texts.map(user), { maxTokens: 50 });

describe("an endpoint", () => {
  it("is asked once for every distinct question, in any order of answers, and never again", async () => {
    const { url, asked } = await serve((response, { body }) => {
      setTimeout(
        () => json(response, 200, chat(`to ${body.messages![0]!.content}`)),
        body.messages![0]!.content === "a" ? 40 : 0,
      );
    });
    const given = options(url, { promptPrice: 1e6, completionPrice: 2e6 });
    const teacher = new EndpointTeacher(given);
    expect((await ask(teacher, "a", "b", "a")).map(({ text }) => text)).toEqual(["to a", "to b", "to a"]);
    expect(
      asked
        .map(({ body, key, url }) => [
          body.messages![0]!.content,
          body.model,
          body.temperature,
          body.max_tokens,
          key,
          url,
        ])
        .sort(),
    ).toEqual([
      ["a", "stub", 0, 50, "Bearer secret", "/v1/chat/completions"],
      ["b", "stub", 0, 50, "Bearer secret", "/v1/chat/completions"],
    ]);
    expect(teacher.usage).toEqual({
      questions: 3,
      cached: 1,
      retries: 0,
      promptTokens: 20,
      completionTokens: 10,
      cost: 40,
    });
    const later = new EndpointTeacher(given);
    expect((await ask(later, "b", "a")).map(({ text }) => text)).toEqual(["to b", "to a"]);
    expect(asked).toHaveLength(2);
    expect(later.usage).toMatchObject({ cached: 2, cost: 0 });
    // another temperature, model or length is another question
    await ask(new EndpointTeacher({ ...given, temperature: 0.5 }), "a");
    await ask(new EndpointTeacher({ ...given, model: "other" }), "a");
    await later.ask([user("a")], { maxTokens: 51 });
    expect(asked).toHaveLength(5);
  });

  const faults: [string, Reply][] = [
    ["429", (response) => json(response, 429, { error: { message: "slow down" } })],
    ["500", (response) => json(response, 500, "no")],
    ["503 without a body", (response) => json(response, 503, "")],
    ["a stalled connection", () => {}],
    [
      "a body that stalls",
      (response) => response.writeHead(200, { "content-type": "application/json" }).write('{"choices": ['),
    ],
    ["a broken connection", (response) => response.destroy()],
    ["truncated JSON", (response) => json(response, 200, '{"choices": [{"message": {"cont')],
    ["an answer in the wrong format", (response) => json(response, 200, { output: "Heat (1995)" })],
    ["an answer without text", (response) => json(response, 200, chat(null))],
  ];
  /** Only what stalls is to be waited for in vain. */
  const patience = (name: string): { timeoutMs?: number } => (name.includes("stall") ? { timeoutMs: 1500 } : {});
  it.each(faults)("that gives %s twice is asked again", async (name, fault) => {
    const { url, asked } = await serve((response, one, number) =>
      number <= 2 ? fault(response, one, number) : json(response, 200, chat("at last")),
    );
    const teacher = new EndpointTeacher(options(url, patience(name)));
    expect((await ask(teacher, "x"))[0]!.text).toBe("at last");
    if (name.includes("stall")) {
      // on a busy machine a request may run out of its short time before it arrives, or before its answer does
      expect(asked.length).toBeGreaterThanOrEqual(3);
      expect(teacher.usage.retries).toBeGreaterThanOrEqual(2);
    } else {
      expect(asked).toHaveLength(3);
      expect(teacher.usage.retries).toBe(2);
    }
  });

  it.each(faults)(
    "that gives %s for ever is given up with a typed error, and what it answered before is kept",
    async (name, fault) => {
      const { url, asked } = await serve((response, one, number) =>
        one.body.messages![0]!.content === "good" ? json(response, 200, chat("kept")) : fault(response, one, number),
      );
      const given = options(url, { retries: 1, concurrency: 1 });
      const goods = () => asked.filter(({ body }) => body.messages![0]!.content === "good").length;
      expect((await ask(new EndpointTeacher(given), "good"))[0]!.text).toBe("kept");
      await expect(ask(new EndpointTeacher({ ...given, ...patience(name) }), "good", "bad")).rejects.toMatchObject({
        code: "IO",
        message: expect.stringContaining("2 attempts") as string,
      });
      if (!name.includes("stall")) expect(asked).toHaveLength(3);
      expect((await ask(new EndpointTeacher(given), "good"))[0]!.text).toBe("kept");
      expect(goods()).toBe(1);
    },
  );

  it("that refuses is not asked again, and the message says what to do", async () => {
    for (const [status, fix] of [
      [401, "OPENAI_API_KEY"],
      [404, "/v1"],
      [400, "run again"],
    ] as const) {
      const { url, asked } = await serve((response) => json(response, status, { error: { message: "no" } }));
      await expect(ask(new EndpointTeacher(options(url)), "x")).rejects.toMatchObject({
        code: "IO",
        message: expect.stringContaining(fix) as string,
      });
      expect(asked).toHaveLength(1);
    }
    expect(() => new EndpointTeacher(options("localhost:8000"))).toThrow("http or https");
  });

  it("that has failed is not asked what still waited", async () => {
    const { url, asked } = await serve((response) => json(response, 401, { error: { message: "no" } }));
    const texts = Array.from({ length: 30 }, (_, i) => `q${i}`);
    await expect(ask(new EndpointTeacher(options(url, { concurrency: 2 })), ...texts)).rejects.toThrow(/401/);
    await new Promise((resolve) => setTimeout(resolve, 200));
    expect(asked.length).toBeLessThanOrEqual(3); // two at once, and one that was begun before the first was heard of
    const endpoint = new Endpoint(options(url, { concurrency: 2 }));
    const many = Array.from({ length: 64 * 10 }, (_, i) => `t${i}`);
    const before = asked.length;
    await expect(endpointEncoder(endpoint).encode(many)).rejects.toThrow(/401/);
    await new Promise((resolve) => setTimeout(resolve, 200));
    expect(asked.length - before).toBeLessThanOrEqual(3);
  });

  it("obeys Retry-After, concurrency and the budget", async () => {
    let [now, most] = [0, 0];
    const { url, asked } = await serve((response, _one, number) => {
      most = Math.max(most, ++now);
      setTimeout(() => {
        now--;
        if (number === 1) json(response, 429, {}, { "retry-after": "1" });
        else json(response, 200, chat("ok"));
      }, 5);
    });
    const started = Date.now();
    const texts = Array.from({ length: 12 }, (_, i) => `q${i}`);
    await ask(new EndpointTeacher(options(url, { concurrency: 3, backoffMs: 1 })), ...texts);
    expect(Date.now() - started).toBeGreaterThanOrEqual(990); // not the millisecond of backoffMs
    expect(most).toBe(3);
    const before = asked.length;
    const given = options(url, { concurrency: 1, promptPrice: 1e5, budget: 2.5 }); // one unit an answer
    await expect(ask(new EndpointTeacher(given), ...texts)).rejects.toMatchObject({
      code: "ABORTED",
      message: expect.stringContaining("--budget") as string,
    });
    expect(asked.length - before).toBe(3);
    const rest = new EndpointTeacher({ ...given, budget: 100 });
    await ask(rest, ...texts);
    expect(asked.length - before).toBe(12); // three were paid for before
    expect(rest.usage.cached).toBe(3);
  });

  it("stops when told to", async () => {
    const { url } = await serve(() => {});
    const stop = new AbortController();
    const pending = ask(new EndpointTeacher(options(url, { signal: stop.signal, timeoutMs: 10_000 })), "x");
    setTimeout(() => stop.abort(), 30);
    await expect(pending).rejects.toThrow(/abort/i);
  });

  it("a cache file that was damaged is asked for again", async () => {
    const { url, asked } = await serve(answer(() => "fine"));
    const given = options(url);
    await ask(new EndpointTeacher(given), "x");
    const inner = readdirSync(given.cache)[0]!;
    const file = join(given.cache, inner, readdirSync(join(given.cache, inner))[0]!);
    writeFileSync(file, readFileSync(file, "utf8").slice(0, 9));
    expect((await ask(new EndpointTeacher(given), "x"))[0]!.text).toBe("fine");
    expect(asked).toHaveLength(2);
    expect(AnswerCache.key({ a: 1 })).not.toBe(AnswerCache.key({ a: 2 }));
  });

  it("a process killed half-way and run again pays for no answer twice", async () => {
    const paid = new Map<string, number>();
    const { url } = await serve((response, { body }) => {
      const text = body.messages![0]!.content;
      // the fifth question hangs until the process is gone
      if (text === "q4" && !paid.has("resumed")) return;
      paid.set(text, (paid.get(text) ?? 0) + 1);
      json(response, 200, chat(`answer ${text}`));
    });
    const cache = join(folder, "killed");
    const script = join(folder, "run.mts");
    const source = fileURLToPath(new URL("../src/demonstrate/teacher.ts", import.meta.url));
    writeFileSync(
      script,
      `import { EndpointTeacher } from ${JSON.stringify(source)};
       const teacher = new EndpointTeacher({ url: ${JSON.stringify(url)}, model: "stub", cache: ${JSON.stringify(cache)}, concurrency: 1, timeoutMs: 60000, backoffMs: 1 });
       const answers = await teacher.ask(Array.from({ length: 8 }, (_, i) => [{ role: "user", content: "q" + i }]), { maxTokens: 5 });
       console.log(answers.map((a) => a.text).join());`,
    );
    // one process, without tsx's wrapper, so that the signal ends all of it
    const loader = new URL("../node_modules/tsx/dist/loader.mjs", import.meta.url).href;
    const start = () => spawn(process.execPath, ["--import", loader, script], { stdio: ["ignore", "pipe", "inherit"] });
    const first = start();
    const kept = () => (existsSync(cache) ? readdirSync(cache, { recursive: true, encoding: "utf8" }) : []);
    while (kept().filter((path) => path.endsWith(".json")).length < 4)
      await new Promise((resolve) => setTimeout(resolve, 20));
    const gone = new Promise((resolve) => first.on("exit", resolve));
    first.kill("SIGKILL");
    await gone;
    paid.set("resumed", 1);
    const second = start();
    let output = "";
    second.stdout.on("data", (chunk: Buffer) => {
      output += chunk.toString();
    });
    expect(await new Promise((resolve) => second.on("exit", resolve))).toBe(0);
    expect(output.trim()).toBe(Array.from({ length: 8 }, (_, i) => `answer q${i}`).join());
    for (let i = 0; i < 8; i++) expect([i, paid.get(`q${i}`)]).toEqual([i, 1]);
  });
});

describe("stages with a teacher", () => {
  const samples = [0, 1, 2].map((i) =>
    toSample(
      {
        id: `d-${i}-0`,
        source: "d",
        prompt: `Here is the conversation: USER: about ${i}\n`,
        seen_titles: [],
        groundtruth_with_release_year: [["Fargo", "1996"]],
      },
      i,
    ),
  );
  const titles = ["Heat (1995)", "Fargo (1996)", "Ronin (1998)", "Thief (1981)"];

  it("evaluation's lists: the data's own prompts, raw answers, the share that cannot be read", async () => {
    const { url, asked } = await serve(
      answer(({ body }) => (body.messages![0]!.content.includes("about 2") ? "I cannot." : "1. Heat (1995)")),
    );
    const { lists, unreadable, usage } = await endpointLists([...samples, samples[0]!], options(url));
    expect(lists).toEqual(["1. Heat (1995)", "1. Heat (1995)", "I cannot.", "1. Heat (1995)"]);
    expect(unreadable).toBeCloseTo(1 / 4, 12);
    expect(usage).toMatchObject({ questions: 4, cached: 1 });
    expect(asked.map(({ body }) => body.messages![0]!.content).sort()).toEqual(samples.map((sample) => sample.prompt));
  });

  it("the judge sees every candidate once, shuffled by seed, and its ratings come back in the candidates' order", async () => {
    const items = titles.map((title) => ({ title: title.slice(0, -7), year: Number(title.slice(-5, -1)) }));
    const { url, asked } = await serve(
      answer(
        ({ body }) =>
          body
            .messages![0]!.content.split("\n")
            .filter((line) => titles.includes(line))
            .map((line) => `${line}####${titles.indexOf(line) - 2}`)
            .slice(0, body.messages![0]!.content.includes("about 1") ? 0 : 4)
            .join("\n") || "sorry",
      ),
    );
    const judge = new EndpointTeacher(options(url));
    const candidates = samples.map(() => items);
    const { ratings, unrated, unreadable } = await reflect(samples, candidates, judge, { seed: 3 });
    expect(ratings).toEqual([
      [-2, -1, 0, 1],
      [null, null, null, null],
      [-2, -1, 0, 1],
    ]);
    expect([unrated, unreadable]).toEqual([1 / 3, 1 / 3].map((x) => expect.closeTo(x, 9) as number));
    const orders = asked.map(({ body }) =>
      body.messages![0]!.content.split("\n").filter((line) => titles.includes(line)),
    );
    for (const order of orders) expect([...order].sort()).toEqual([...titles].sort());
    expect(new Set(orders.map((order) => order.join())).size).toBeGreaterThan(1);
    await reflect(samples, candidates, judge, { shuffle: false });
    for (const { body } of asked.slice(3))
      expect(body.messages![0]!.content.split("\n").filter((line) => titles.includes(line))).toEqual(titles);
    await expect(reflect(samples, candidates, judge, { levels: 4 })).rejects.toMatchObject({
      code: "INVALID_ARGUMENT",
    });
  });

  it("metadata is asked once an item and only where the table lacks it", async () => {
    const { url, asked } = await serve(
      answer(({ body }) =>
        body.messages![0]!.content.includes("Ronin") ? "?" : "Heat (1995)\nKeywords: crime\nPlot: Thieves.",
      ),
    );
    const table = new MetadataTable();
    table.set({ title: "Fargo", year: 1996 }, { keywords: "snow", plot: "" });
    const share = await describeItems(
      [
        { title: "Heat", year: 1995 },
        { title: "Fargo", year: 1996 },
        { title: "heat", year: 1995 },
        { title: "Ronin", year: 1998 },
      ],
      table,
      new EndpointTeacher(options(url)),
    );
    expect(asked).toHaveLength(2);
    expect(share).toBe(0.5);
    expect(table.text({ title: "Heat", year: 1995 })).toContain("Keywords: crime");
  });

  it("embeddings: one request for many texts, cached by text, refused where they do not fit", async () => {
    const { url, asked } = await serve((response, { body }, number) => {
      if (number === 1) return json(response, 500, {});
      const data = body.input!.map((text, index) => ({ index, embedding: [text.length, 1, 0] }));
      json(response, 200, { data: data.reverse(), usage: { prompt_tokens: 7 } });
    });
    const given = options(url);
    const { width, values } = await endpointEncoder(new Endpoint(given)).encode(["a", "bbb", "a"]);
    expect(width).toBe(3);
    [1, 1, 0, 3, 1, 0, 1, 1, 0].forEach((value, i) => {
      expect(values[i]).toBeCloseTo(value / Math.hypot(i < 3 || i > 5 ? 1 : 3, 1), 6);
    });
    const endpoint = new Endpoint(given);
    await endpointEncoder(endpoint).encode(["bbb", "cc"]);
    expect(asked.map(({ body }) => body.input)).toEqual([["a", "bbb"], ["a", "bbb"], ["cc"]]);
    expect(endpoint.usage).toMatchObject({ questions: 2, cached: 1, promptTokens: 7 });
    const short = await serve((response) => json(response, 200, { data: [] }));
    await expect(endpointEncoder(new Endpoint(options(short.url, { retries: 0 }))).encode(["a"])).rejects.toMatchObject(
      { code: "IO" },
    );
  });

  it("a local encoder that is not installed says how to get it", async () => {
    const error = await localEncoder("none")
      .encode(["a"])
      .catch((problem: unknown) => problem);
    expect(error).toMatchObject({
      code: expect.stringMatching(/INVALID_ARGUMENT|BAD_CHECKPOINT/) as string,
      message: expect.stringMatching(/npm install @huggingface\/transformers|sentence encoder/) as string,
    });
  });

  it("the whole: taught, judged, adjusted; a second run asks nothing; a changed judge is asked again", async () => {
    const rows = Array.from({ length: 12 }, (_, i) => ({
      id: `d-${i}-0`,
      source: "d",
      prompt: `Here is the conversation: USER: about ${i}\n`,
      seen_titles: [],
      groundtruth_with_release_year: [[i % 2 ? "Fargo" : "Heat", i % 2 ? "1996" : "1995"]],
    }));
    const data = join(folder, "whole.jsonl");
    writeFileSync(data, rows.map((row) => `${JSON.stringify(row)}\n`).join(""));
    const catalog = join(folder, "whole.tsv");
    writeFileSync(catalog, titles.map((title) => `${title.slice(0, -7)}\t${title.slice(-5, -1)}\n`).join(""));
    const { url, asked } = await serve(
      answer(({ body }) => {
        const text = body.messages![0]!.content;
        if (text.includes("Rate how well"))
          return text
            .split("\n")
            .filter((line) => titles.includes(line))
            .map((line) => `${line}####${line.startsWith("Thief") ? 2 : 0}`)
            .join("\n");
        return "Alien (1979)\nHeat (1994)\nRonin (1998)";
      }),
    );
    const given = options(url);
    const run = (output: string, more = {}) =>
      demonstrate({
        data,
        feedback: data,
        catalog,
        output: join(folder, output),
        stages: join(folder, "whole.stages"),
        teacher: new EndpointTeacher(given),
        embedding: { kind: "tfidf" },
        listLength: 3,
        candidates: 4,
        folds: 2,
        ablate: true,
        ...more,
      });
    const first = await run("one.jsonl", { adjust: { weightDecay: 1e6, biasDecay: 1e6 } });
    expect(asked).toHaveLength(24);
    expect(first).toMatchObject({ rows: 12, unrated: 0, unreadable: { lists: 0, ratings: 0 }, kept: [] });
    expect(first.effects.map((effect) => effect.stage)).toEqual([
      "popularity",
      "teacher",
      "remap",
      "reflect",
      "adjust",
    ]);
    const demonstrated = readFileSync(join(folder, "one.jsonl"), "utf8").split("\n")[0]!;
    // Alien is not in the catalogue, Heat's year is mended, and the judge's favourite comes first of the unnamed
    expect((JSON.parse(demonstrated) as { completion: { content: string }[] }).completion[0]!.content).toMatch(
      /^(Heat \(1995\)|Thief \(1981\))\n/,
    );
    expect(demonstrated).toContain("Thief (1981)");
    const kept = await run("two.jsonl", { adjust: { weightDecay: 1e6, biasDecay: 1e6 } });
    expect(kept.kept).toEqual(["teach", "remap", "reflect"]);
    expect(asked).toHaveLength(24);
    expect(readFileSync(join(folder, "two.jsonl"), "utf8")).toBe(readFileSync(join(folder, "one.jsonl"), "utf8"));
    const other = await run("three.jsonl", { reflect: { shuffle: false } });
    expect(other.kept).toEqual(["teach", "remap"]);
    expect(asked.length).toBeGreaterThan(24);
    const { candidates, ratings } = await readRatings(
      join(folder, "whole.stages/reflect.jsonl"),
      rows.map((row, i) => toSample(row, i)),
    );
    expect(ratings[0]).toEqual(candidates[0]!.map((item) => (item.title === "Thief" ? 2 : 0)));
    // other answers: another temperature, other metadata
    const warm = await run("warm.jsonl", {
      teacher: new EndpointTeacher({ ...given, temperature: 0.5 }),
      until: "teach",
    });
    expect(warm.kept).toEqual([]);
    const metadata = join(folder, "whole.csv");
    writeFileSync(metadata, "title,year,keywords,plot\nHeat,1995,crime,A thief.\n");
    expect((await run("told.jsonl", { metadata, until: "remap" })).kept).toEqual([]);
    expect((await run("told.jsonl", { metadata, until: "remap" })).kept).toEqual(["teach", "remap"]);
    writeFileSync(metadata, "title,year,keywords,plot\nHeat,1995,crime,A robbery.\n");
    expect((await run("told.jsonl", { metadata, until: "remap" })).kept).toEqual(["teach"]);
    // stages alone, from the command's `until`
    const part = await run("four.jsonl", { until: "teach" });
    expect(part.kept).toEqual(["teach"]);
    expect(existsSync(join(folder, "four.jsonl"))).toBe(false);
  });
});

describe("real parts", () => {
  const model = "models/smollm2-135m-instruct/SmolLM2-135M-Instruct.Q4_1.gguf";
  it.skipIf(!hasShared)("the engine as the teacher answers, and from its cache the second time", async () => {
    const cache = join(folder, "engine");
    const teacher = await EngineTeacher.load(shared(model), cache);
    expect(teacher.name).toContain(String(statSync(shared(model)).mtimeMs)); // one that is trained anew is asked anew
    const [first] = await teacher.ask([user("Name one movie.")], { maxTokens: 12 });
    expect(first!.text.length).toBeGreaterThan(3);
    expect(await teacher.ask([user("Name one movie.")], { maxTokens: 12 })).toEqual([first]);
    expect(teacher.usage).toMatchObject({ questions: 2, cached: 1 });
    teacher.dispose();
  });

  const server = process.env["RANK_GRPO_LLAMA_URL"];
  it.skipIf(!server)(
    server ? "a llama.cpp server answers" : "a llama.cpp server answers (skipped: RANK_GRPO_LLAMA_URL names none)",
    async () => {
      const { lists, usage } = await endpointLists(
        [toSample({ id: "a", prompt: "Recommend one movie as Title (Year)." }, 0)],
        { ...options(server!, { timeoutMs: 60_000, model: "smollm2" }), maxTokens: 16 },
      );
      expect(lists[0]!.length).toBeGreaterThan(0);
      expect(usage.completionTokens).toBeGreaterThan(0);
    },
  );

  const encoder = process.env["RANK_GRPO_ENCODER"];
  it.skipIf(!encoder)(
    encoder
      ? "a sentence encoder on this machine"
      : "a sentence encoder on this machine (skipped: RANK_GRPO_ENCODER names none)",
    async () => {
      const { width, values } = await localEncoder(encoder!).encode([
        "a crime movie",
        "a film about thieves",
        "knitting patterns",
      ]);
      const cosine = (a: number, b: number): number =>
        Array.from({ length: width }, (_, i) => values[a * width + i]! * values[b * width + i]!).reduce(
          (x, y) => x + y,
          0,
        );
      expect(cosine(0, 1)).toBeGreaterThan(cosine(0, 2));
    },
  );
});
