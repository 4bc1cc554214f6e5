// `evaluate --endpoint` as people type it: the paper's zero-shot rows, from a service on this machine.
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, afterEach, describe, expect, it, vi } from "vitest";

import { evaluateCommand } from "../src/cli/evaluate.ts";

const folder = mkdtempSync(join(tmpdir(), "rank-grpo-endpoint-"));
const at = (name: string): string => join(folder, name);
const ended: (() => Promise<void>)[] = [];
afterEach(async () => {
  vi.restoreAllMocks();
  for (const end of ended.splice(0)) await end();
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

interface Asked {
  model: string;
  messages: { role: string; content: string }[];
  temperature: number;
  max_tokens: number;
}

/** A service that answers with `text` of the question, after `failures` answers of 503; 10 + 5 tokens each. */
async function serve(text: (asked: Asked) => string, failures = 0): Promise<{ url: string; asked: Asked[] }> {
  const asked: Asked[] = [];
  let left = failures;
  const server = createServer((request, response) => {
    let body = "";
    request.setEncoding("utf8").on("data", (part: string) => {
      body += part;
    });
    request.on("end", () => {
      asked.push(JSON.parse(body) as Asked);
      response.writeHead(left > 0 ? 503 : 200, { "content-type": "application/json" });
      const message = { role: "assistant", content: text(asked.at(-1)!) };
      const usage = { prompt_tokens: 10, completion_tokens: 5 };
      response.end(
        left-- > 0 ? "{}" : JSON.stringify({ choices: [{ index: 0, message, finish_reason: "stop" }], usage }),
      );
    });
  });
  await new Promise<void>((done) => server.listen(0, "127.0.0.1", done));
  ended.push(() => {
    server.closeAllConnections();
    return new Promise((done) => server.close(() => done()));
  });
  return { url: `http://127.0.0.1:${(server.address() as AddressInfo).port}/v1`, asked };
}

/** What the command prints. Throws as it does. */
async function evaluate(...words: string[]): Promise<string> {
  let printed = "";
  vi.spyOn(process.stdout, "write").mockImplementation((text) => {
    printed += String(text);
    return true;
  });
  vi.spyOn(process.stderr, "write").mockImplementation(() => true);
  try {
    await evaluateCommand().exitOverride().parseAsync(words, { from: "user" });
  } finally {
    vi.restoreAllMocks();
  }
  return printed;
}

const rows = [0, 1, 2, 3].map((i) => ({
  id: `d-${i}-0`,
  prompt: `about ${i}`,
  seen_titles: [],
  groundtruth_with_release_year: [["Heat", "1995"]],
}));
writeFileSync(at("data.jsonl"), rows.map((row) => `${JSON.stringify(row)}\n`).join(""));
writeFileSync(at("catalog.tsv"), "Heat\t1995\nRonin\t1998\n");
const where = ["--data", at("data.jsonl"), "--catalog", at("catalog.tsv")];
const replies: Record<string, string> = {
  "about 0": "Heat (1995)",
  "about 1": "1. Ronin (1998)\n2. Heat (1995)",
  "about 2": "Ronin (1998)",
  "about 3": "I cannot say.",
};

describe("evaluate --endpoint", () => {
  it("asks with the data's own prompts, measures as completions are measured, counts cost, and pays once", async () => {
    const { url, asked } = await serve(({ messages }) => replies[messages[0]!.content]!, 1);
    const call = ["--endpoint", url, "--endpoint-model", "stub", ...where, "--cache", at("answers")];
    const prices = ["--prompt-price", "1000000", "--completion-price", "2000000", "--max-new-tokens", "77"];
    const first = await evaluate(...call, ...prices, "--output", at("one.json"));
    expect(first).toContain("endpoint: 4 questions, 0 from the cache, 1 sent again; 40 + 20 tokens, cost 80.0000");
    expect(first).toContain("25.0 % of the answers could not be read.");
    expect(asked).toHaveLength(5);
    expect(new Set(asked.map(({ messages }) => messages[0]!.content))).toEqual(new Set(Object.keys(replies)));
    for (const { model, temperature, max_tokens } of asked)
      expect([model, temperature, max_tokens]).toEqual(["stub", 0, 77]);
    const second = await evaluate(...call, ...prices, "--output", at("two.json"));
    expect(second).toContain("4 questions, 4 from the cache, 0 sent again; 0 + 0 tokens");
    expect(asked).toHaveLength(5);

    const completions = rows.map(({ id, prompt }) => `${JSON.stringify({ id, completion: replies[prompt] })}\n`);
    writeFileSync(at("completions.jsonl"), completions.join(""));
    await evaluate("--completions", at("completions.jsonl"), ...where, "--output", at("given.json"));
    const [one, two, given] = ["one", "two", "given"].map(
      (name) => JSON.parse(readFileSync(at(`${name}.json`), "utf8")) as Record<string, unknown>,
    );
    expect(one).toMatchObject({ "recall@20": 0.5, source: `stub at ${url}`, unreadable: 0.25, usage: { cost: 80 } });
    const { source, ...metrics } = given!;
    expect(one).toMatchObject(metrics);
    expect(two).toMatchObject(metrics);
  });

  it("stops at the budget, and goes on from there", async () => {
    const { url, asked } = await serve(({ messages }) => replies[messages[0]!.content]!);
    const call = [
      "--endpoint",
      url,
      "--endpoint-model",
      "stub",
      ...where,
      "--cache",
      at("budget"),
      "--concurrency",
      "1",
    ];
    const prices = ["--prompt-price", "100000"]; // one an answer
    await expect(evaluate(...call, ...prices, "--budget", "1.5", "--output", at("never.json"))).rejects.toMatchObject({
      code: "ABORTED",
      message: expect.stringContaining("--budget") as string,
    });
    expect([asked.length, existsSync(at("never.json"))]).toEqual([2, false]);
    expect(await evaluate(...call, ...prices)).toContain("2 from the cache");
    expect(asked).toHaveLength(4);
  });

  it("refuses what does not go together before it asks", async () => {
    const { url, asked } = await serve(() => "Heat (1995)");
    const endpoint = ["--endpoint", url];
    const named = [...endpoint, "--endpoint-model", "stub"];
    const cases: [words: string[], message: RegExp][] = [
      [[], /one of --model, --completions and --endpoint, got none/],
      [[...named, "--model", "m"], /got --model and --endpoint/],
      [[...named, "--completions", "c"], /got --completions and --endpoint/],
      [endpoint, /service's model for --endpoint-model, got "?none/],
      [["--completions", "c", "--endpoint-model", "stub"], /--endpoint for --endpoint-model/],
      [[...named, "--constrain", "catalog"], /--model with --constrain and --beams, got --endpoint/],
      [[...named, "--beams", "4"], /--model with --constrain and --beams, got --endpoint/],
      [["--endpoint", "localhost:80", "--endpoint-model", "stub"], /http or https address/],
    ];
    for (const [words, message] of cases)
      await expect(evaluate(...words, ...where)).rejects.toMatchObject({
        code: "INVALID_ARGUMENT",
        message: expect.stringMatching(message) as string,
      });
    expect(asked).toHaveLength(0);
  });
});
