// HTML as tagged templates: whatever is put in is escaped, unless it is markup itself.

export class Markup {
  readonly text: string;
  constructor(text: string) {
    this.text = text;
  }
}

type Content = Markup | string | number | false | null | undefined | readonly Content[];

const entities: Readonly<Record<string, string>> = {
  "&": "&amp;",
  "<": "&lt;",
  ">": "&gt;",
  '"': "&quot;",
  "'": "&#39;",
};

export const escapeText = (text: string): string => text.replace(/[&<>"']/g, (c) => entities[c]!);

const render = (content: Content): string => {
  if (content === false || content === null || content === undefined) return "";
  if (content instanceof Markup) return content.text;
  if (typeof content === "string") return escapeText(content);
  if (typeof content === "number") return String(content);
  return content.map(render).join("");
};

/** Text and attribute values (always in double quotes) are escaped; arrays are joined; false, null and undefined are nothing. */
export function html(parts: TemplateStringsArray, ...contents: Content[]): Markup {
  let text = parts[0]!;
  for (const [i, content] of contents.entries()) text += render(content) + parts[i + 1]!;
  return new Markup(text);
}

/** A number for people: three or four significant digits. */
export function shortNumber(value: number): string {
  if (!Number.isFinite(value)) return "–";
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (Number.isInteger(value) && size < 1000) return minus(String(value));
  if (size < 1e-3 || size >= 1e7) return minus(value.toExponential(1));
  if (size >= 1000) return minus(value.toFixed(0).replace(/\B(?=(\d{3})+$)/g, "\u202f"));
  return minus(size >= 100 ? value.toFixed(1) : size >= 10 ? value.toFixed(2) : value.toFixed(size < 0.1 ? 4 : 3));
}

const minus = (text: string): string => text.replace("-", "−");
