// Against real parts, as `node scripts/peers.mjs` installs them: a llama.cpp server with SmolLM2, and a sentence encoder. Where one is
// missing, its tests are skipped and say so.
import { type ChildProcess, spawn } from "node:child_process";
import { existsSync, mkdtempSync, rmSync } from "node:fs";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { join, relative, resolve } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";

import { toSample } from "../src/data/samples.ts";
import { readItems } from "../src/demonstrate/answer.ts";
import { encodedFeatures, localEncoder } from "../src/demonstrate/embed.ts";
import { endpointLists } from "../src/demonstrate/endpoint.ts";
import { hasShared, shared } from "./shared.ts";

const folder = mkdtempSync(join(tmpdir(), "rank-grpo-peers-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));
const missing = (needs: Record<string, boolean>): string => {
  const lacking = Object.keys(needs).filter((name) => !needs[name]);
  return lacking.length === 0 ? "" : ` (skipped, not here: ${lacking.join(", ")}; node scripts/peers.mjs)`;
};

const python = resolve("build-peers/python/bin/python");
const noServer = missing({ "a llama.cpp server": existsSync(python), "a model in ../shared": hasShared });
describe.skipIf(noServer !== "")(`a llama.cpp server${noServer}`, () => {
  let server: ChildProcess;
  let url: string;
  beforeAll(async () => {
    const model = shared("models/smollm2-135m-instruct/SmolLM2-135M-Instruct.Q4_1.gguf");
    server = spawn(python, ["test/peers/llama_server.py", model, "300"], { stdio: ["ignore", "pipe", "ignore"] });
    url = await new Promise<string>((done, fail) => {
      let text = "";
      server.stdout!.setEncoding("utf8").on("data", (part: string) => {
        text += part;
        const address = /^(http\S+)$/m.exec(text)?.[1];
        if (address) done(address);
      });
      server.on("exit", (code) => fail(new Error(`the server ended with ${code}: ${text}`)));
    });
  });
  afterAll(() => server?.kill("SIGKILL"));

  it("answers with a list, and is not asked a second time", async () => {
    const sample = toSample({ id: "a", prompt: "Name three films, one a line, each as Title (Year)." }, 0);
    const options = { url, model: "smollm2", apiKey: "none", cache: join(folder, "answers"), maxTokens: 48 };
    const first = await endpointLists([sample], options);
    expect(first.lists[0]!.length).toBeGreaterThan(0);
    expect(first.unreadable).toBe(readItems(first.lists[0]!, 1).length === 0 ? 1 : 0);
    expect(first.usage).toMatchObject({ questions: 1, cached: 0 });
    expect(first.usage.promptTokens).toBeGreaterThan(10);
    expect(first.usage.completionTokens).toBeGreaterThan(0);
    expect(first.usage.completionTokens).toBeLessThanOrEqual(48);
    const second = await endpointLists([sample], options);
    expect(second.lists).toEqual(first.lists);
    expect(second.usage).toMatchObject({ questions: 1, cached: 1, completionTokens: 0 });
  });
});

const model = process.env["RANK_GRPO_ENCODER"] ?? resolve("build-peers/encoder");
const resolvable = (name: string): boolean => {
  try {
    createRequire(import.meta.url).resolve(name);
    return true;
  } catch {
    return false;
  }
};
const noEncoder = missing({
  "a sentence encoder": existsSync(model),
  "@huggingface/transformers": resolvable("@huggingface/transformers"),
});
describe.skipIf(noEncoder !== "")(`a sentence encoder on this machine${noEncoder}`, () => {
  const texts = ["a crime movie", "a film about thieves", "knitting patterns"];
  const dot = (values: Float32Array, width: number, a: number, b: number): number =>
    Array.from({ length: width }, (_, i) => values[a * width + i]! * values[b * width + i]!).reduce((x, y) => x + y, 0);

  it("knows what is alike; a text's row does not depend on the others by more than its int8 weights' rounding", async () => {
    const { width, values } = await localEncoder(model).encode(texts);
    for (let i = 0; i < 3; i++) expect(dot(values, width, i, i)).toBeCloseTo(1, 5);
    expect(dot(values, width, 0, 1)).toBeGreaterThan(dot(values, width, 0, 2) + 0.2);
    const alone = (await localEncoder(model).encode(texts.slice(0, 1))).values;
    expect(dot(new Float32Array([...values.subarray(0, width), ...alone]), width, 0, 1)).toBeGreaterThan(0.99);
    const many = Array.from({ length: 40 }, (_, i) => texts[i % 3]!); // more than one batch
    expect((await localEncoder(model).encode(many)).values).toHaveLength(40 * width);
  });

  it("gives Remap its similarities: a title that is not in the catalogue lands on its like", async () => {
    const items = [
      "Ocean's Eleven (2001): thieves rob a casino",
      "Toy Story (1995): toys come alive",
      "Jaws (1975): a shark",
    ];
    const features = await encodedFeatures(localEncoder(relative(".", model)), {
      items,
      teacher: ["Heat: robbers and a bank heist"],
      contexts: ["films about fish"],
    });
    const row = (values: Float32Array, at: number) => values.subarray(at * features.width, (at + 1) * features.width);
    const nearest = (one: Float32Array): number => {
      const scores = items.map((_, i) =>
        row(features.items as Float32Array, i).reduce((s, x, j) => s + x * one[j]!, 0),
      );
      return scores.indexOf(Math.max(...scores));
    };
    expect([nearest(features.teacher as Float32Array), nearest(features.context as Float32Array)]).toEqual([0, 2]);
  });
});
