// Chat templates against the texts that transformers renders.
import { describe, expect, it } from "vitest";

import { chatRenderer, compileTemplate } from "../src/text/template.ts";
import { hasShared, readShared } from "./shared.ts";

interface Golden {
  chat_template: string;
  data: Record<string, unknown>;
  target: string;
}

describe.skipIf(!hasShared)("templates of the hub", () => {
  const goldens = hasShared
    ? readShared<Record<string, Golden>>("goldens/chat_templates/hf_jinja_e2e_subset.json")
    : {};
  for (const [name, { chat_template, data, target }] of Object.entries(goldens)) {
    it(name, () => {
      // SmolLM3's text names the day on which it was made; Llama 3.2's the default day
      const date = target.includes("10 July 2025") ? "2025-07-10" : undefined;
      expect(compileTemplate(chat_template, name, date)(data)).toBe(target);
    });
  }

  it("the day is pinned, and an option", () => {
    const { chat_template } = goldens["HuggingFaceTB/SmolLM3-3B"] as Golden;
    const chat = [{ role: "user", content: "hi" }];
    expect(chatRenderer(chat_template, "t", {})(chat)).toContain("Today Date: 26 July 2024\n");
    expect(chatRenderer(chat_template, "t", {}, { date: "2026-02-03" })(chat)).toContain(
      "Today Date: 03 February 2026\n",
    );
    const llama = (goldens["meta-llama/Llama-3.1-8B-Instruct"] as Golden).chat_template;
    expect(chatRenderer(llama, "t", {}, { date: "2026-02-03" })(chat)).toContain("Today Date: 03 Feb 2026\n");
    expect(() => chatRenderer(llama, "t", {}, { date: "2026-02-30" })).toThrow("Expected a day as YYYY-MM-DD for date");
    expect(() => chatRenderer(llama, "t", {}, { date: "yesterday" })).toThrow(
      expect.objectContaining({ code: "INVALID_ARGUMENT" }),
    );
  });

  it("further variables reach the template", () => {
    const { chat_template } = goldens["Qwen/Qwen3-0.6B"] as Golden;
    const chat = [{ role: "user", content: "hi" }];
    const thinking = chatRenderer(chat_template, "t", {});
    const plain = chatRenderer(chat_template, "t", {}, { variables: { enable_thinking: false } });
    expect(thinking(chat, { addGenerationPrompt: true })).toBe(
      "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n",
    );
    expect(plain(chat, { addGenerationPrompt: true })).toBe(
      "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n",
    );
  });
});

describe("Python's ways", () => {
  const render = (source: string, variables: Record<string, unknown> = {}): string =>
    compileTemplate(source, "test")(variables);

  it("strip, lstrip, rstrip and trim take characters, and whitespace is Python's", () => {
    const x = "\x1c\x85 \ufeffab\n\u3000";
    expect(render("[{{ x.strip() }}]", { x })).toBe("[\ufeffab]");
    expect(render("[{{ x | trim }}]", { x })).toBe("[\ufeffab]");
    expect(render("[{{ x.rstrip() }}]", { x })).toBe("[\x1c\x85 \ufeffab]");
    expect(render("[{{ x.lstrip() }}]", { x })).toBe("[\ufeffab\n\u3000]");
    expect(render("{{ x.split('</think>')[-1].lstrip('\\n') }}|", { x: "a</think>\n\n b\n" })).toBe(" b\n|");
    expect(render("{{ 'xaxbx'.strip('x') }}{{ '🎬a🎬'.rstrip('🎬') }}{{ 'aba' | trim('a') }}")).toBe("axb🎬ab");
    expect(render("{{ ' a ' | trim | upper }}{{ nothing | trim }}{{ 3 | trim }}")).toBe("A3");
    expect(render("{% set y = [' a ', 'b '] %}{{ y[0].strip() + y[1].strip() }}")).toBe("ab");
  });

  it("== and != compare as Python's do", () => {
    const same = (expression: string, variables: Record<string, unknown> = {}): string =>
      render(`{{ 1 if ${expression} else 0 }}{{ 0 if ${expression.replace("==", "!=")} else 1 }}`, variables);
    for (const expression of [
      "'a' == 'a'",
      "1 == 1.0",
      "true == 1",
      "none == none",
      "x == y[0]",
      "y == [{'a': [1, 'b']}]",
    ])
      expect(same(expression, { x: { a: [1, "b"] }, y: [{ a: [1, "b"] }] }), expression).toBe("11");
    for (const expression of ["'' == false", "'1' == 1", "'' == 0", "[1] == [2]", "x == {'a': 2}", "x == 1"])
      expect(same(expression, { x: { a: 1 } }), expression).toBe("00");
    // Llama 2's: an empty system message is one
    const system = "{% set s = messages[0]['content'] %}{% if s != false %}<<SYS>>{{ s }}<</SYS>>{% endif %}";
    expect(render(system, { messages: [{ role: "system", content: "" }] })).toBe("<<SYS>><</SYS>>");
  });

  it("blocks leave no lines, JSON is not escaped, loops break", () => {
    const loop = "{% for i in range(5) %}\n  {% if i == 3 %}{% break %}{% endif %}\n{{ i }}\n{% endfor %}\nend";
    expect(render(loop)).toBe("0\n1\n2\nend");
    expect(render("{{ m | tojson }}", { m: { a: 'é<&"', b: [1, true, null] } })).toBe(
      '{"a": "é<&\\"", "b": [1, true, null]}',
    );
    expect(
      render("{{ range(5, 1, -2) | join(',') }} {{ strftime_now('%Y-%m-%d %A %a %B %b %y %H:%M:%S %I%p %%') }}"),
    ).toBe("5,3 2024-07-26 Friday Fri July Jul 24 00:00:00 12AM %");
  });

  it("text of a user is never a template", () => {
    expect(render("{{ m }}", { m: "{{ 7 * 7 }}{% if %}" })).toBe("{{ 7 * 7 }}{% if %}");
  });

  it("faults: a broken template, a chat that it refuses", () => {
    expect(() => compileTemplate("{% if %}", "the model")).toThrow(
      expect.objectContaining({
        code: "BAD_CHECKPOINT",
        message: expect.stringContaining("Expected a Jinja chat template in the model, got: "),
      }),
    );
    const picky = "{{ raise_exception('roles must alternate') }}";
    expect(() => render(picky)).toThrow(
      expect.objectContaining({
        code: "BAD_DATA",
        message: "Expected a chat that the template of test accepts, got: roles must alternate.",
      }),
    );
    expect(() => render("{{ strftime_now('%Q') }}")).toThrow("strftime_now does not know %Q");
    expect(() => render("{{ x.strip() }}", { x: 3 })).toThrow("strip() of something that is no text");
  });
});
