// The data command as people type it.
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, afterEach, describe, expect, it, vi } from "vitest";

import { dataCommand } from "../src/cli/data.ts";

const folder = mkdtempSync(join(tmpdir(), "rank-grpo-command-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));
afterEach(() => {
  vi.restoreAllMocks();
});
const at = (name: string): string => join(folder, name);

/** What a command line prints. Throws as the command does. */
async function run(...words: string[]): Promise<string> {
  let text = "";
  const spies = [
    vi.spyOn(console, "log").mockImplementation((line: unknown) => {
      text += `${String(line)}\n`;
    }),
    vi.spyOn(process.stderr, "write").mockImplementation(() => true),
  ];
  const command = dataCommand().exitOverride();
  for (const sub of command.commands) sub.exitOverride();
  try {
    await command.parseAsync(words, { from: "user" });
  } finally {
    for (const spy of spies) spy.mockRestore();
  }
  return text;
}

describe("rank-grpo data", () => {
  it("goes from raw dialogues to demonstrations", async () => {
    const movies = ["Heat (1995)", "Ronin (1998)", "Thief (1981)", "Fargo (1996)", "Alien (1979)", "Drive (2011)"];
    const rows = Array.from({ length: 24 }, (_, d) => {
      const [a, b] = [movies[d % 6]!, movies[(d + 1) % 6]!];
      return [
        `${d}\t1\tSEEKER\tI liked ${a.slice(0, -7)}\t${a}`,
        `${d}\t2\tRECOMMENDER\tThen ${b.slice(0, -7)}\t${b}`,
      ].join("\n");
    });
    writeFileSync(at("raw.tsv"), `dialog_id\tutt_id\tspeaker\ttext\tmovies\n${rows.join("\n")}\nbroken\n`);
    const imported = await run("import", "--format", "inspired", "--input", at("raw.tsv"), "--output", at("all.jsonl"));
    expect(imported).toContain("24 records of 24 dialogues with 24 ground truths");
    expect(imported).toContain("raw.tsv:50: too few fields");
    expect(await run("split", "--input", at("all.jsonl"), "--output", at("split"), "--validation", "0")).toMatch(
      /train: \d+ rows/,
    );
    expect(await run("catalog", "--input", at("all.jsonl"), "--output", at("catalog.tsv"))).toContain("6 titles");
    expect(await run("inspect", "--input", at("all.jsonl"), "--catalog", at("catalog.tsv"))).toContain(
      "24 rows of 24 dialogues",
    );
    const train = at("split/train.jsonl");
    const shown = await run(
      ...[
        "demonstrate",
        "--data",
        train,
        "--feedback",
        train,
        "--catalog",
        at("catalog.tsv"),
        "--output",
        at("sft.jsonl"),
      ],
      ...["--list-length", "3", "--folds", "2", "--ablate"],
    );
    expect(shown).toContain("on all feedback: loss");
    expect(shown).toMatch(/adjust +│ \d\.\d{4}/);
    expect(shown).toContain("held out from what made their lists");
    for (const line of readFileSync(at("sft.jsonl"), "utf8").trim().split("\n"))
      expect(
        (JSON.parse(line) as { completion: { content: string }[] }).completion[0]!.content.split("\n"),
      ).toHaveLength(3);
    const stage = await run(
      "remap",
      "--data",
      train,
      "--feedback",
      train,
      "--catalog",
      at("catalog.tsv"),
      "--stages",
      at("stages"),
    );
    expect(stage).toContain("stages/remap.jsonl");
    expect(existsSync(at("stages/remap.jsonl"))).toBe(true);
    expect(
      await run("export", "--format", "huggingface", "--input", `train=${train}`, "--output", at("hub")),
    ).toContain("rows:");
    expect(existsSync(at("hub/dataset_dict.json"))).toBe(true);
  });

  it("takes titles from JSON Lines in Zstandard too", async () => {
    // {"prompt": "hello", "completion": "Heat (1995)"}, compressed by zstd 1.5
    const zst = "KLUv/SAxiQEAeyJwcm9tcHQiOiAiaGVsbG8iLCAiY29tcGxldGlvbiI6ICJIZWF0ICgxOTk1KSJ9Cg==";
    writeFileSync(at("one.jsonl.zst"), Buffer.from(zst, "base64"));
    const made = await run("catalog", "--input", at("one.jsonl.zst"), "--output", at("zst.tsv"));
    expect(made).toContain("1 titles");
    expect(readFileSync(at("zst.tsv"), "utf8")).toBe("Heat\t1995\n");
  });

  it.each([
    [["import", "--format", "nonsense", "--input", "x", "--output", "y"], /Allowed choices are redial/],
    [["import", "--input", "x", "--output", "y"], /--format/],
    [["import", "--format", "generic", "--columns", "prompt", "--input", "x", "--output", "y"], /prompt=question/],
    [["export", "--format", "parquet", "--input", "a", "--input", "b", "--output", "y"], /name=file/],
    [
      [
        "demonstrate",
        "--data",
        "x",
        "--feedback",
        "x",
        "--catalog",
        "x",
        "--output",
        "y",
        "--teacher",
        "http://127.0.0.1:9/v1",
      ],
      /--teacher-model/,
    ],
    [
      [
        "demonstrate",
        "--data",
        "x",
        "--feedback",
        "x",
        "--catalog",
        "x",
        "--output",
        "y",
        "--embeddings",
        "glove",
        "--embedding-model",
        "m",
      ],
      /tfidf, cooccurrence/,
    ],
    [["reflect", "--data", fileURLToPath(import.meta.url), "--feedback", "x", "--catalog", "/nowhere"], /catalogue/],
  ])("refuses %j", async (words, message) => {
    await expect(run(...words)).rejects.toThrow(message);
  });

  it("holds teacher and judge to one budget", async () => {
    const asked: string[] = [];
    const server = createServer((request, response) => {
      let body = "";
      request.setEncoding("utf8").on("data", (part: string) => {
        body += part;
      });
      request.on("end", () => {
        asked.push((JSON.parse(body) as { model: string }).model);
        response.writeHead(200, { "content-type": "application/json" });
        const message = { role: "assistant", content: "Heat (1995)" };
        response.end(JSON.stringify({ choices: [{ message }], usage: { prompt_tokens: 10, completion_tokens: 0 } }));
      });
    });
    await new Promise<void>((done) => server.listen(0, "127.0.0.1", done));
    const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}/v1`;
    const row = { id: "t-0-0", prompt: "p", groundtruth_with_release_year: [["Heat", "1995"]] };
    writeFileSync(at("paid.jsonl"), `${JSON.stringify(row)}\n`);
    writeFileSync(at("paid.tsv"), "Heat\t1995\n");
    try {
      await expect(
        run(
          ...["demonstrate", "--data", at("paid.jsonl"), "--feedback", at("paid.jsonl"), "--catalog", at("paid.tsv")],
          ...["--teacher", url, "--teacher-model", "a", "--judge", url, "--judge-model", "b"],
          ...["--output", at("paid-sft.jsonl"), "--prompt-price", "100000", "--budget", "1"], // what one answer costs
        ),
      ).rejects.toMatchObject({ code: "ABORTED" });
    } finally {
      server.close();
      server.closeAllConnections();
    }
    expect(asked).toEqual(["a"]);
  });

  it("ends its bar in a terminal where a stage fails, so that the process can end", async () => {
    let asked = 0;
    const server = createServer((_, response) => {
      response.writeHead(asked++ === 0 ? 200 : 401, { "content-type": "application/json" });
      response.end(JSON.stringify({ choices: [{ message: { role: "assistant", content: "Heat (1995)" } }] }));
    });
    await new Promise<void>((done) => server.listen(0, "127.0.0.1", done));
    const rows = [0, 1].map((i) => ({
      id: `t-${i}-0`,
      prompt: `p${i}`,
      groundtruth_with_release_year: [["Heat", "1995"]],
    }));
    writeFileSync(at("two.jsonl"), rows.map((row) => `${JSON.stringify(row)}\n`).join(""));
    writeFileSync(at("one.tsv"), "Heat\t1995\n");
    const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}/v1`;
    let written = "";
    vi.spyOn(process.stderr, "write").mockImplementation((text) => {
      written += String(text);
      return true;
    });
    vi.spyOn(console, "log").mockImplementation(() => {});
    const { isTTY } = process.stderr;
    process.stderr.isTTY = true;
    const files = ["--data", at("two.jsonl"), "--feedback", at("two.jsonl"), "--catalog", at("one.tsv")];
    const teacher = ["--teacher", url, "--teacher-model", "stub", "--concurrency", "1"];
    try {
      const command = dataCommand().exitOverride();
      await expect(
        command.parseAsync(["demonstrate", ...files, ...teacher, "--output", at("no.jsonl")], { from: "user" }),
      ).rejects.toThrow(/401/);
    } finally {
      process.stderr.isTTY = isTTY;
      server.close();
      server.closeAllConnections();
    }
    expect(written).toMatch(/teach \[.*1\/2.*\n$/s);
  });

  it("explains every flag", () => {
    for (const sub of dataCommand().commands) {
      const help = sub.helpInformation();
      expect(sub.description().length).toBeGreaterThan(20);
      for (const option of sub.options)
        expect([sub.name(), option.long, (option.description ?? "").length > 2]).toEqual([
          sub.name(),
          option.long,
          true,
        ]);
      expect(help).toContain("--");
    }
  });

  it.each(["--targets", "--history"])("refuses %s 0 by its name", async (option) => {
    const words = [
      "import",
      "--format",
      "interactions",
      "--input",
      at("r.csv"),
      "--output",
      at("i.jsonl"),
      option,
      "0",
    ];
    await expect(run(...words)).rejects.toThrow(
      `option '${option} <N>' argument '0' is invalid. Expected a whole number from 1.`,
    );
  });
});
