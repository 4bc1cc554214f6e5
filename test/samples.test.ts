// JSONL and TRL's shapes: what is read, and every fault by line and column.
import { execFile, execFileSync } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { gzipSync } from "node:zlib";

import fc from "fast-check";
import { afterAll, beforeAll, describe, expect, it } from "vitest";

import { readJsonl } from "../src/data/jsonl.ts";
import { readSamples, toSample } from "../src/data/samples.ts";
import { hasShared, shared } from "./shared.ts";

let folder = "";
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "rank-grpo-samples-"));
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const write = (content: string | Uint8Array, name = "data.jsonl"): string => {
  const path = join(folder, name);
  writeFileSync(path, content);
  return path;
};
const all = async (path: string, limit?: number): Promise<unknown[]> => {
  const rows: unknown[] = [];
  for await (const row of readJsonl(path, undefined, limit === undefined ? {} : { limit })) rows.push(row);
  return rows;
};
const faultOf = async (content: string | Uint8Array, name?: string): Promise<string> => {
  const error: unknown = await readSamples(write(content, name)).catch((e: unknown) => e);
  expect(error).toMatchObject({ name: "RankGrpoError", code: "BAD_DATA" });
  return (error as Error).message.replaceAll(folder, "");
};

describe("JSONL", () => {
  it("byte order mark, CRLF, blank lines, U+2028 inside a text, no newline at the end", async () => {
    const path = write('\ufeff{"a": 1}\r\n\n  \r\n{"a": "x\u2028y\u0085"}\n\t{"a": 3}');
    expect(await all(path)).toEqual([{ a: 1 }, { a: "x\u2028y\u0085" }, { a: 3 }]);
    expect(await all(path, 2)).toHaveLength(2);
    expect(await all(write(""))).toEqual([]);
  });

  it("a pipe, plain and gzipped, whole and up to a limit", async () => {
    const text = '{"a": 1}\n{"a": 2}\n';
    for (const [i, content] of [text, gzipSync(text), ""].entries()) {
      const pipe = join(folder, `pipe-${i}`);
      execFileSync("mkfifo", [pipe]);
      const path = write(content, `piped-${i}`);
      for (const limit of [undefined, 1]) {
        const written = once(execFile("sh", ["-c", 'cat "$0" > "$1"', path, pipe]), "exit");
        expect(await all(pipe, limit)).toEqual(content === "" ? [] : [{ a: 1 }, { a: 2 }].slice(0, limit));
        await written;
      }
    }
  });

  it("lines longer than a chunk, and characters on its edge", async () => {
    const rows = [400_000, 1, 262_143, 262_144, 700_000].map((n, i) => ({
      i,
      text: `é${"🎬".repeat(n / 4)}x`.slice(i % 2),
    }));
    expect(await all(write(rows.map((row) => JSON.stringify(row)).join("\n")))).toEqual(rows);
  });

  it("any rows, plain and gzipped", async () => {
    await fc.assert(
      fc.asyncProperty(fc.array(fc.record({ text: fc.string({ unit: "binary" }) }), { maxLength: 8 }), async (rows) => {
        const text = rows.map((row) => `${JSON.stringify(row)}\n`).join("");
        expect(await all(write(text))).toEqual(rows);
        expect(await all(write(gzipSync(text), "data.jsonl.gz"))).toEqual(rows);
      }),
      { numRuns: 30, seed: 5 },
    );
  });

  // one line of text, compressed by zstd 1.5 (level 3)
  const zst = Buffer.from("KLUv/SAxiQEAeyJwcm9tcHQiOiAiaGVsbG8iLCAiY29tcGxldGlvbiI6ICJIZWF0ICgxOTk1KSJ9Cg==", "base64");

  it("a file that is not there, a folder, a broken archive", async () => {
    await expect(all(join(folder, "none.jsonl"))).rejects.toMatchObject({
      code: "IO",
      message: expect.stringContaining("Expected a readable file at"),
    });
    await expect(all(join(folder, "none.jsonl.gz"))).rejects.toMatchObject({ code: "IO" });
    await expect(all(folder)).rejects.toMatchObject({ code: "IO" });
    const archive = gzipSync('{"prompt": "a"}\n'.repeat(1000));
    await expect(all(write(archive.subarray(0, 30), "cut.jsonl.gz"))).rejects.toMatchObject({ code: "BAD_DATA" });
    await expect(all(write(zst.subarray(0, 50), "cut.jsonl.zst"))).rejects.toMatchObject({ code: "BAD_DATA" });
  });

  it("compression by the first bytes, whatever the name", async () => {
    const row = { prompt: "hello", completion: "Heat (1995)" };
    expect(await all(write(zst, "data.jsonl.zst"))).toEqual([row]);
    expect(await all(write(zst))).toEqual([row]);
    expect(await all(write(gzipSync(JSON.stringify(row))))).toEqual([row]);
    expect(await all(write(JSON.stringify(row), "plain.jsonl.gz"))).toEqual([row]);
  });
});

describe("samples", () => {
  it("every shape of TRL", async () => {
    const user = [{ role: "user", content: "Films?" }];
    const assistant = [{ role: "assistant", content: "Alien" }];
    const rows = [
      { prompt: "Films:", completion: " Alien", extra: [1] },
      { id: "x", prompt: user, completion: assistant },
      { id: 7, prompt: user, groundtruth: ["Alien"] },
      { prompt_ids: [1, 2], completion_ids: [3] },
      { prompt: "Films:", prompt_ids: [1, 2] },
      { prompt: user, completion: "Alien", completion_ids: [9] },
      { input_ids: [1, 2, 3, 4], completion_mask: [0, 0, 1, 1] },
      { prompt: "Films:", completion: "" },
      { prompt: "Films:", completion: null },
    ];
    const samples = await readSamples(write(rows.map((row) => JSON.stringify(row)).join("\n")));
    const ids = (...values: number[]) => Int32Array.from(values);
    expect(samples.map(({ prompt, completion }) => [prompt, completion])).toEqual([
      ["Films:", " Alien"],
      [user, assistant],
      [user, undefined],
      [ids(1, 2), ids(3)],
      [ids(1, 2), undefined],
      [user, ids(9)],
      [ids(1, 2), ids(3, 4)],
      ["Films:", ""],
      ["Films:", undefined],
    ]);
    expect(samples.map((s) => s.id)).toEqual(["0", "x", "7", "3", "4", "5", "6", "7", "8"]);
    expect(samples.map((s) => s.index)).toEqual([0, 1, 2, 3, 4, 5, 6, 7, 8]);
    expect(samples.map((s) => s.columns)).toEqual(rows);
    expect("completion" in (samples[2] as object)).toBe(false);
    expect(await readSamples(join(folder, "data.jsonl"), { limit: 2 })).toEqual(samples.slice(0, 2));
  });

  it.skipIf(!hasShared)("the whole of ReDial's demonstrations", async () => {
    const path = shared("data/unified/redial_sft.jsonl");
    const rows = readFileSync(path, "utf8")
      .trim()
      .split("\n")
      .map((line) => JSON.parse(line));
    const samples = await readSamples(path);
    expect(samples.map((s) => s.columns)).toEqual(rows);
    expect(samples.every((s, i) => s.index === i && s.id === rows[i].id)).toBe(true);
  });

  const row = { prompt: "a" };
  const message = { role: "user", content: "a" };
  const faults: [string, unknown, string][] = [
    [
      "no prompt",
      { id: "x", text: "a" },
      'Expected prompt, prompt_ids or input_ids for the line\'s columns, got "id, text".',
    ],
    ["empty prompt", { prompt: "" }, 'Expected a text for prompt, got "".'],
    ["null prompt", { prompt: null }, "Expected text or a list of messages for prompt, got null."],
    ["number", { prompt: 3 }, "Expected text or a list of messages for prompt, got 3."],
    ["no messages", { prompt: [] }, "Expected at least one message for prompt, got []."],
    ["texts as messages", { prompt: ["a"] }, "Expected a text for prompt[0].role, got undefined."],
    ["no role", { prompt: [message, { content: "a" }] }, "Expected a text for prompt[1].role, got undefined."],
    [
      "parts",
      { prompt: [{ role: "user", content: [{ type: "text" }] }] },
      'Expected a text for prompt[0].content, got [{"type":"text"}].',
    ],
    ["null content", { prompt: [{ role: "user", content: null }] }, "Expected a text for prompt[0].content, got null."],
    ["completion", { ...row, completion: 1 }, "Expected text or a list of messages for completion, got 1."],
    [
      "user's completion",
      { ...row, completion: [message] },
      'Expected one message of the assistant for completion, got [{"role":"user","content":"a"}].',
    ],
    ["ids", { prompt_ids: "1 2" }, 'Expected a list of token ids for prompt_ids, got "1 2".'],
    ["no ids", { prompt_ids: [] }, "Expected at least one token id for prompt_ids, got []."],
    [
      "negative id",
      { prompt_ids: [1, -1] },
      "Expected a token id (a whole number, 0 or more) for prompt_ids[1], got -1.",
    ],
    ["fraction", { prompt_ids: [1.5] }, "Expected a token id (a whole number, 0 or more) for prompt_ids[0], got 1.5."],
    [
      "huge id",
      { prompt_ids: [1e12] },
      "Expected a token id (a whole number, 0 or more) for prompt_ids[0], got 1000000000000.",
    ],
    [
      "text id",
      { ...row, completion_ids: [1, "2"] },
      'Expected a token id (a whole number, 0 or more) for completion_ids[1], got "2".',
    ],
    [
      "empty completion ids",
      { ...row, completion_ids: [] },
      "Expected at least one token id for completion_ids, got [].",
    ],
    ["no mask", { input_ids: [1, 2] }, "Expected a list of 0 and 1 for completion_mask, got undefined."],
    [
      "short mask",
      { input_ids: [1, 2], completion_mask: [1] },
      "Expected 2 values (as input_ids has) for completion_mask, got 1.",
    ],
    [
      "mask with holes",
      { input_ids: [1, 2, 3], completion_mask: [0, 1, 0] },
      "Expected 1 to the end once it is 1 for completion_mask[2], got 0.",
    ],
    [
      "mask of others",
      { input_ids: [1, 2], completion_mask: [0, true] },
      "Expected 0 or 1 for completion_mask[1], got true.",
    ],
    [
      "no prompt in the mask",
      { input_ids: [1, 2], completion_mask: [1, 1] },
      "Expected 0 first, for at least one token of prompt, for completion_mask, got [1,1].",
    ],
    [
      "no completion in the mask",
      { input_ids: [1, 2], completion_mask: [0, 0] },
      "Expected at least one 1, the completion, for completion_mask, got [0,0].",
    ],
    ["id", { ...row, id: [1] }, "Expected a text or a number for id, got [1]."],
  ];
  for (const [name, bad, message] of faults) {
    it(`refuses: ${name}`, async () => {
      expect(await faultOf(`${JSON.stringify(row)}\n\n${JSON.stringify(bad)}\n${JSON.stringify(row)}\n`)).toBe(
        `/data.jsonl, line 3: ${message}`,
      );
      expect(() => toSample(bad as Record<string, unknown>, 0)).toThrow(message);
    });
  }

  it("refuses what is no JSON object, by line", async () => {
    expect(await faultOf('{"prompt": "a"}\n{"prompt": "a"\n')).toMatch(
      /^\/data\.jsonl, line 2: Expected JSON, got: .+$/,
    );
    expect(await faultOf('{"prompt": "a"}\n[1, 2]\n')).toBe("/data.jsonl, line 2: Expected a JSON object, got [1,2].");
    expect(await faultOf(Buffer.from([...Buffer.from('{"prompt": "a'), 0xff, 0x22, 0x7d]))).toBe(
      "/data.jsonl, line 1: Expected UTF-8, got other bytes.",
    );
    expect(await faultOf("")).toBe("Expected at least one sample for /data.jsonl, got 0.");
    expect(await faultOf(gzipSync("3\n"), "data.jsonl.gz")).toBe(
      "/data.jsonl.gz, line 1: Expected a JSON object, got 3.",
    );
  });

  it("names up to ten bad lines in one message, and stops there", async () => {
    const line = (i: number): string => (i % 2 ? `{"prompt": ${i}}` : '{"prompt": "a"}');
    const two = await faultOf([0, 1, 2, 3].map(line).join("\n"));
    expect(two).toBe(
      "/data.jsonl, 2 bad lines:\n  line 2: Expected text or a list of messages for prompt, got 1.\n  line 4: Expected text or a list of messages for prompt, got 3.",
    );
    const many = await faultOf(Array.from({ length: 100 }, (_, i) => line(i)).join("\n"));
    expect(many).toContain("the first 10 bad lines:\n  line 2: ");
    expect(many.split("\n")).toHaveLength(11);
    // a bad line before the limit counts, one after it does not
    const path = write([0, 1, 2, 4, 5].map(line).join("\n"));
    await expect(readSamples(path, { limit: 2 })).rejects.toMatchObject({ code: "BAD_DATA" });
    expect(await readSamples(path, { limit: 1 })).toHaveLength(1);
    await expect(readSamples(path, { limit: 0 })).rejects.toMatchObject({ code: "INVALID_ARGUMENT" });
  });
});
