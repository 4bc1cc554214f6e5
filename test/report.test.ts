// The report: what it reads, how it groups, and the page itself in a browser: no errors, no requests, light, dark, phone, print, keyboard.
import { appendFileSync, existsSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type Browser, type BrowserContextOptions, chromium, type Page } from "playwright-core";
import { afterAll, beforeAll, describe, expect, it } from "vitest";

import { readSamples } from "../src/data/samples.ts";
import { evaluateLists } from "../src/evaluate.ts";
import { Catalog } from "../src/ranking/catalog.ts";
import { commonStart } from "../src/report/browser.ts";
import { curveChart, letterOf, ticks } from "../src/report/charts.ts";
import { readEvaluation } from "../src/report/evaluations.ts";
import { html, Markup, shortNumber } from "../src/report/html.ts";
import { markList } from "../src/report/lists.ts";
import { makeReport } from "../src/report/report.ts";
import { groupRuns, readRun, readRuns, seedsOf } from "../src/report/runs.ts";
import { curve, heat, lastValues, longest, profile } from "../src/report/series.ts";
import { palettes } from "../src/report/style.ts";
import { madeList, makeData, makeRun, titles } from "./runs.ts";

const root = mkdtempSync(join(tmpdir(), "rank-grpo-report-"));
const runs = join(root, "runs");
const data = join(root, "data/test.jsonl");
const catalogFile = join(root, "data/catalog.tsv");

async function writeEvaluation(name: string, seed: number, skill: number, baselines = false): Promise<string> {
  const samples = await readSamples(data);
  const catalog = await Catalog.load(catalogFile);
  const { metrics, lists, rows } = evaluateLists(
    samples,
    samples.map((_, i) => madeList(i, seed, skill)),
    { catalog },
  );
  const file = join(root, name);
  writeFileSync(
    file,
    JSON.stringify({
      ...metrics,
      source: `model ${name}`,
      data,
      baselines: baselines ? { popularity: metrics } : {},
      lists: samples.map((sample, i) => ({ id: sample.id, completion: lists[i] })),
      row_metrics: rows,
    }),
  );
  return file;
}

beforeAll(async () => {
  for (const seed of [1, 2, 3])
    for (const [name, gain, rewards] of [
      ["inf", 0.12, "exp_inf"],
      ["log", 0.08, "log_decay"],
    ] as const)
      makeRun({
        folder: join(runs, `${name}-${seed}`),
        seed,
        steps: 40,
        gain: gain + 0.01 * seed,
        config: { rewards: [{ name: rewards }], model: `runs/sft-${seed}/final`, train: data, catalog: catalogFile },
      });
  makeData(join(root, "data"), 40);
  await writeEvaluation("before.json", 1, 0.1, true);
  await writeEvaluation("after.json", 2, 0.3);
});
afterAll(() => rmSync(root, { recursive: true, force: true }));

describe("run folders", () => {
  it("that differ in their seed alone are one group", async () => {
    const groups = groupRuns(await readRuns([runs]));
    expect(groups.map((group) => [group.label, seedsOf(group)])).toEqual(
      expect.arrayContaining([
        ["inf-*", [1, 2, 3]],
        ["log-*", [1, 2, 3]],
      ]),
    );
    expect(groups).toHaveLength(2);
  });

  it("are one group whatever numbers a path holds beside the seed", async () => {
    const folders = [1, 2, 3].map((seed) => join(root, `llama/seed-${seed}`));
    for (const [i, folder] of folders.entries())
      makeRun({
        folder,
        seed: i + 1,
        steps: 2,
        config: { model: "../models/Llama-3.2-1B", train: `data/2025-01-${i + 1}/train.jsonl` },
      });
    makeRun({ folder: join(root, "llama/other"), seed: 2, steps: 2, config: { model: "../models/Llama-3.1-1B" } });
    const groups = groupRuns(await readRuns([...folders, join(root, "llama/other")]));
    expect(groups.map(seedsOf)).toEqual([[1, 2, 3], [2]]);
  });

  it("group across parent folders, as three quickstarts do, and by given names", async () => {
    for (const seed of [4, 5]) {
      const parent = join(root, `quick-${seed}`);
      makeRun({
        folder: join(parent, "rank-grpo"),
        seed,
        steps: 3,
        config: { model: join(parent, "sft/final"), train: join(parent, "data/prompts.jsonl") },
      });
    }
    const paths = [4, 5].map((seed) => join(root, `quick-${seed}`));
    const [group, ...others] = groupRuns(await readRuns(paths));
    expect(others).toEqual([]);
    expect(group!.label).toBe("quick-*/rank-grpo");
    const named = groupRuns(
      await readRuns([`a=${join(runs, "inf-1")}`, `b=${join(runs, "inf-2")}`, `b=${join(runs, "log-3")}`]),
    );
    expect(named.map(({ label, runs: members }) => [label, members.length])).toEqual([
      ["a", 1],
      ["b", 2],
    ]);
  });

  it("may still be written: a torn last line is left out, a step done again counts once", async () => {
    const folder = join(root, "torn");
    makeRun({ folder, seed: 1, steps: 3 });
    appendFileSync(join(folder, "metrics.jsonl"), '{"step":3,"reward/mean":9,"x":null}\n{"step":4,"rew');
    const run = await readRun(folder);
    expect(run.rows.map((row) => row.step)).toEqual([1, 2, 3]);
    expect(run.rows[2]!.values).toEqual({ "reward/mean": 9 });
  });

  it("are told from other folders", async () => {
    mkdirSync(join(root, "empty"));
    await expect(readRuns([join(root, "empty")])).rejects.toMatchObject({ code: "IO" });
    await expect(readRuns([join(root, "nowhere")])).rejects.toMatchObject({ code: "IO" });
    await expect(readEvaluation(join(runs, "inf-1"))).rejects.toThrow(/evaluation\.json.*rank-grpo evaluate/);
    writeFileSync(join(root, "other.json"), '{"a":1}');
    await expect(readEvaluation(join(root, "other.json"))).rejects.toMatchObject({ code: "BAD_DATA" });
  });
});

describe("series", () => {
  it("are means over seeds with their range", async () => {
    const group = { label: "g", kind: "train", runs: await readRuns([join(runs, "inf-1"), join(runs, "inf-3")]) };
    const points = curve(group, "policy/kl");
    expect(points).toHaveLength(40);
    const [low, high] = [0.2 * 0.13, 0.2 * 0.15];
    expect(points.at(-1)).toMatchObject({ x: 40, low: expect.closeTo(low), high: expect.closeTo(high) });
    expect(points.at(-1)!.y).toBeCloseTo((low + high) / 2);
    expect(profile(group, "reward/by_rank", "last").map(({ x }) => x)).toEqual(
      Array.from({ length: 10 }, (_, k) => k + 1),
    );
    expect(curve(group, "no/such")).toEqual([]);
    expect(lastValues(group, "list/in_catalog")).toEqual([expect.closeTo(0.9), expect.closeTo(0.9)]);
  });

  it("of long runs are thinned to means of equally many steps, and reach as far as every seed", () => {
    const run = (seed: number, steps: number): Awaited<ReturnType<typeof readRun>> => ({
      folder: "f",
      name: undefined,
      kind: "train",
      config: { seed },
      configText: "",
      samples: [],
      status: undefined,
      rows: Array.from({ length: steps + 1 }, (_, step) => ({ step, values: { m: step, v: [step, 2 * step] } })),
    });
    const points = curve({ label: "", kind: "train", runs: [run(1, 1000), run(2, 500)] }, "m");
    expect(points.length).toBeLessThanOrEqual(longest);
    expect(points[0]).toEqual({ x: 0, y: 0, low: 0, high: 0 });
    expect(points[1]).toEqual({ x: 5, y: 3, low: 3, high: 3 }); // of steps 1 to 5
    expect(points.at(-1)!.x).toBe(500);
    const columns = heat({ label: "", kind: "train", runs: [run(1, 100)] }, "v", 10);
    expect(columns.at(-1)).toEqual({ step: 100, values: [95.5, 191] });
  });
});

describe("parts of the page", () => {
  it("escape what they are given", () => {
    expect(html`<p title="${'"<&'}">${["<b>", new Markup("<i>")]}${false}</p>`.text).toBe(
      '<p title="&quot;&lt;&amp;">&lt;b&gt;<i></p>',
    );
  });
  it("write numbers short", () => {
    expect([0, 300, 0.12345, -1.5, 12345, 1e-7, Number.NaN, 1e9].map(shortNumber)).toEqual([
      "0",
      "300",
      "0.123",
      "−1.500",
      "12\u202f345",
      "1.0e−7",
      "–",
      "1.0e+9",
    ]);
  });
  it("have round ticks and letters", () => {
    expect(ticks(0.013, 0.31, 4)).toEqual([0.1, 0.2, 0.3]);
    expect(ticks(0, 9, 4, true)).toEqual([0, 3, 6, 9]);
    expect([0, 25, 26, 53].map(letterOf)).toEqual(["A", "Z", "A2", "B3"]);
  });
  it("draw a constant, a single point and a negative value", () => {
    for (const ys of [[0, 0], [3], [-2, 5]]) {
      const points = ys.map((y, i) => ({ x: i, y, low: y, high: y }));
      const { text } = curveChart({ title: "t", what: "w", x: "step", series: [{ group: 0, points }] });
      expect(text).not.toMatch(/NaN|Infinity/);
      expect(text).toContain("<circle");
    }
  });
  it("show the instruction of all prompts once", () => {
    expect(commonStart(["Do it.\nUSER: a", "Do it.\nUSER: b"])).toBe("Do it.\n");
    expect(commonStart(["Do it.\nUSER: a"])).toBe("");
    expect(commonStart(["x", "y"])).toBe("");
  });
  it("mark lines as rewards and metrics see them", async () => {
    const [sample] = await readSamples(data, { limit: 1 });
    const catalog = await Catalog.load(catalogFile);
    const text = [titles[0], titles[7], titles[7], "Nowhere (1990)", "no title", titles[11]].join("\n");
    expect(markList(text, { sample, catalog }).map(({ marks }) => marks)).toEqual([
      ["seen"],
      ["hit"],
      ["repeat"],
      ["outside"],
      ["unreadable"],
      ["hit"],
    ]);
    expect(markList(text, {}).flatMap(({ marks }) => marks)).toEqual(["repeat", "unreadable"]);
  });
  it("have colours that can be read on their ground, light and dark", () => {
    const luminance = (hex: string): number => {
      const [r, g, b] = [1, 3, 5].map((i) => {
        const c = Number.parseInt(hex.slice(i, i + 2), 16) / 255;
        return c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
      }) as [number, number, number];
      return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    for (const palette of Object.values(palettes)) {
      const colors = new Map(
        [...palette.matchAll(/--(\w+):(#\w{6})/g)].map(([, name, hex]) => [name!, luminance(hex!)]),
      );
      for (const name of [
        "fg",
        "muted",
        "accent",
        "hit",
        "bad",
        "warn",
        ...Array.from({ length: 8 }, (_, i) => `c${i}`),
      ])
        for (const ground of ["bg", "card"]) {
          const pair = [colors.get(name)!, colors.get(ground)!].sort((a, b) => b - a) as [number, number];
          expect((pair[0] + 0.05) / (pair[1] + 0.05), `${name} on ${ground}`).toBeGreaterThanOrEqual(4.5);
        }
    }
  });
});

describe("the report", () => {
  const options = {
    runs: [runs],
    evaluations: [join(root, "before.json")],
    before: join(root, "before.json"),
    after: join(root, "after.json"),
    data,
    catalog: catalogFile,
  };
  it("says the same of the same runs", async () => {
    expect(await makeReport(options)).toBe(await makeReport(options));
  });
  it("shows rollouts of data without ground truths, as one's own reward may have them", async () => {
    const train = join(root, "own.jsonl");
    writeFileSync(train, '{"id":"made-0-1","prompt":"Anything new?"}\n');
    makeRun({ folder: join(root, "own"), seed: 1, steps: 2, config: { train, catalog: catalogFile } });
    const text = await makeReport({ runs: [join(root, "own")] });
    expect(text).toContain("Anything new?");
    expect(text).not.toContain("Wanted:");
  });
  it("shows an evaluation once that is given and a run's own", async () => {
    const folder = join(root, "evaluated");
    makeRun({ folder, seed: 1, steps: 2 });
    await writeEvaluation("evaluated/evaluation.json", 1, 0.2);
    const text = await makeReport({ runs: [folder], evaluations: [folder, join(folder, "evaluation.json")] });
    expect(text).toContain("1 evaluation.");
    expect(text.match(/<th scope="row">model evaluated\/evaluation.json/g)).toHaveLength(1);
  });
  it("needs one of a few things more, and says which", async () => {
    await expect(makeReport({ runs: [] })).rejects.toThrow(/at least one run/);
    await expect(makeReport({ runs: [runs], before: options.before })).rejects.toThrow(/both or neither/);
    await expect(makeReport({ ...options, data: catalogFile })).rejects.toMatchObject({ code: "BAD_DATA" });
    await expect(makeReport({ runs: [runs], before: options.before, after: options.after })).rejects.toThrow(/catalog/);
  });

  // the system's, else the one that playwright installs
  const system = "/usr/bin/chromium";
  const executablePath = existsSync(system) ? system : chromium.executablePath();
  const args = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-quic",
    "--no-first-run",
    "--disable-component-update",
    "--disable-sync",
  ];
  describe.skipIf(!existsSync(executablePath))(`in a browser (skipped without ${system} or ${executablePath})`, () => {
    let browser: Browser;
    const file = join(root, "report.html");
    beforeAll(async () => {
      writeFileSync(file, await makeReport(options));
      browser = await chromium.launch({ executablePath, args });
    });
    afterAll(() => browser.close());

    async function open(context: BrowserContextOptions): Promise<{ page: Page; trouble: string[] }> {
      const page = await (await browser.newContext(context)).newPage();
      const trouble: string[] = [];
      page.on("console", (message) => trouble.push(message.text()));
      page.on("pageerror", (error) => trouble.push(String(error)));
      page.on("request", (request) => {
        if (!/^(file|data):/.test(request.url())) trouble.push(request.url());
      });
      page.on("dialog", (dialog) => {
        trouble.push(dialog.message());
        void dialog.dismiss();
      });
      await page.goto(`file://${file}`);
      return { page, trouble };
    }
    /** Wider than the window: something sticks out. */
    const sticksOut = (page: Page): Promise<number> =>
      page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth") as Promise<number>;
    const ground = (page: Page): Promise<string> =>
      page.evaluate("getComputedStyle(document.body).backgroundColor") as Promise<string>;

    it.each([
      ["light", { viewport: { width: 1280, height: 900 }, colorScheme: "light" }, "rgb(255, 255, 255)"],
      ["dark", { viewport: { width: 1280, height: 900 }, colorScheme: "dark" }, "rgb(18, 22, 27)"],
      ["phone", { viewport: { width: 360, height: 740 }, hasTouch: true, isMobile: true }, "rgb(255, 255, 255)"],
    ] as const)("opens without errors and requests: %s", async (_, context, expected) => {
      const { page, trouble } = await open(context);
      expect(await sticksOut(page)).toBe(0);
      expect(await ground(page)).toBe(expected);
      expect(await page.locator("svg[data-chart]").count()).toBeGreaterThan(25);
      expect((await page.screenshot()).length).toBeGreaterThan(10_000);
      expect(trouble).toEqual([]);
    });

    it("prints dark pages on white paper, without controls", async () => {
      const { page, trouble } = await open({ colorScheme: "dark" });
      await page.emulateMedia({ media: "print" });
      expect(await ground(page)).toBe("rgb(255, 255, 255)");
      expect(await page.locator(".controls").first().isVisible()).toBe(false);
      expect((await page.pdf({ format: "A4" })).subarray(0, 4).toString()).toBe("%PDF");
      expect(trouble).toEqual([]);
    });

    it("is read by keyboard: values of a curve and of a heat map", async () => {
      const { page, trouble } = await open({});
      const chart = page.locator("figure", { hasText: "KL divergence" });
      await chart.locator("svg").focus();
      await page.keyboard.press("End");
      expect(await chart.locator(".tip").textContent()).toMatch(/^step 40\nA: 0\.0\d+ \(0\.0\d+ to 0\.0\d+\)\nB: /);
      await page.keyboard.press("ArrowLeft");
      expect(await chart.locator(".tip").textContent()).toMatch(/^step 39\n/);
      await page.keyboard.press("Escape");
      expect(await chart.locator(".tip").isVisible()).toBe(false);
      const map = page.locator("figure", { hasText: "reward by rank over time" }).first();
      await map.locator("svg").focus();
      await page.keyboard.press("Home");
      await page.keyboard.press("ArrowDown");
      expect(await map.locator(".tip").textContent()).toMatch(/^step 1\nrank 2: 0\.\d+$/);
      expect(trouble).toEqual([]);
    });

    it("names every picture, field and table for a screen reader", async () => {
      const { page } = await open({});
      const unnamed = (await page.evaluate(`[
        ...[...document.querySelectorAll("svg:not([aria-hidden])")].filter((svg) => !svg.getAttribute("aria-label")),
        ...[...document.querySelectorAll("input, select")].filter((field) => field.labels.length === 0),
        ...[...document.querySelectorAll("th:not([scope])")],
        ...[...document.querySelectorAll("section")].filter((s) => !document.getElementById(s.getAttribute("aria-labelledby"))),
      ].map((element) => element.outerHTML.slice(0, 200))`)) as string[];
      expect(unnamed).toEqual([]);
    });

    it("hides a group, and filters, orders and searches dialogues", async () => {
      const { page, trouble } = await open({});
      const chart = page.locator("figure", { hasText: "KL divergence" });
      await page.getByLabel(/inf-\*/).uncheck();
      const hidden = await chart
        .locator("svg g[data-group]")
        .evaluateAll((parts) => parts.map((part) => (part as unknown as { style: { display: string } }).style.display));
      expect(hidden).toContain("none");
      expect(hidden).toContain("");
      const browserOf = page.locator("section", { hasText: "lists before and after" }).locator(".browser");
      const cards = browserOf.locator("article:visible");
      expect(await cards.count()).toBe(12);
      await browserOf.getByRole("button", { name: "Show more" }).click();
      expect(await cards.count()).toBe(24);
      await browserOf.getByLabel("Order").selectOption("loss");
      const changes = await cards.evaluateAll((all) =>
        all.map((card) => Number((card as unknown as { dataset: { change: string } }).dataset.change)),
      );
      expect(changes).toEqual(changes.toSorted((a, b) => a - b));
      expect(changes[0]).toBeLessThan(0);
      await browserOf.getByLabel("Show").selectOption("worse");
      for (const text of await cards.allTextContents()) expect(text).toContain("worse by");
      await browserOf.getByLabel("Show").selectOption("");
      await browserOf.getByLabel("Search").fill("made-7-1");
      expect(await cards.count()).toBe(1);
      const text = (await cards.first().textContent())!;
      expect(text).toContain("Wanted:");
      expect(text).toMatch(/before NDCG@20.*after NDCG@20/s);
      expect(trouble).toEqual([]);
    });
  });
});
