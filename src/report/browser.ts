// The browser of dialogues: what was asked, what was wanted, and the lists side by side with their lines marked.
import { html, type Markup, shortNumber } from "./html.ts";
import type { Dialogue, Mark, MarkedLine, MarkedList } from "./lists.ts";

/** Sign and word of a mark, and what it means; colour comes on top. */
const marks: Readonly<Record<Mark, readonly [sign: string, word: string, meaning: string]>> = {
  hit: ["✓", "hit", "a wanted title"],
  repeat: ["↻", "repeat", "stands in the list already"],
  outside: ["✗", "outside", "not in the catalogue"],
  seen: ["◦", "seen", "named in the dialogue"],
  unreadable: ["?", "unreadable", "no title with a year"],
};

const line = ({ text, marks: set, reward }: MarkedLine): Markup =>
  html`<li class="${set.join(" ")}">${text}${set.map(
    (mark) => html` <span class="mark ${mark}">${marks[mark][0]} ${marks[mark][1]}</span>`,
  )}${reward !== undefined && reward !== 0 && html` <span class="reward">reward ${shortNumber(reward)}</span>`}</li>`;

const list = ({ caption, lines, ndcg }: MarkedList): Markup =>
  html`<div class="list"><h5>${caption}${ndcg !== undefined && html` <small>NDCG@20 ${shortNumber(ndcg)}</small>`}</h5><ol>${lines.map(line)}</ol></div>`;

/** Turns of the dialogue on lines of their own, where the text names the speakers. */
const conversation = (text: string): Markup =>
  html`<div class="conversation">${text.split("\n").map((turn) => {
    const [, speaker, said] =
      /^(?:Here is the conversation: )?(USER|SYSTEM|User|Assistant|user|assistant): (.*)$/.exec(turn) ?? [];
    return speaker ? html`<p><b>${speaker.toLowerCase()}</b> ${said}</p>` : turn.trim() !== "" && html`<p>${turn}</p>`;
  })}</div>`;

/** What all prompts begin with, up to a line's end: the instruction, shown once. */
export function commonStart(texts: readonly string[]): string {
  const [first = ""] = texts;
  if (texts.length < 2) return "";
  let length = first.length;
  for (const text of texts) while (!text.startsWith(first.slice(0, length))) length--;
  return first.slice(0, first.lastIndexOf("\n", length - 1) + 1);
}

const has = (dialogue: Dialogue, mark: Mark): boolean =>
  dialogue.lists.some(({ lines }) => lines.some((l) => l.marks.includes(mark)));

/** How much better the last list is than the first; rollouts have none. */
const change = (dialogue: Dialogue): number | undefined => {
  const [before, after] = [dialogue.lists[0]?.ndcg, dialogue.lists.at(-1)?.ndcg];
  return dialogue.lists.length < 2 || before === undefined || after === undefined ? undefined : after - before;
};

function card(dialogue: Dialogue, skip: number): Markup {
  const by = change(dialogue);
  const tags = [
    by !== undefined && (by > 1e-9 ? "better" : by < -1e-9 ? "worse" : "equal"),
    ...(["hit", "repeat", "outside"] as const).map((mark) => has(dialogue, mark) && mark),
  ].filter((tag) => tag !== false);
  const verdict =
    by === undefined
      ? ""
      : by > 1e-9
        ? `▲ better by ${shortNumber(by)}`
        : by < -1e-9
          ? `▼ worse by ${shortNumber(-by)}`
          : "= equal";
  return html`<article class="dialogue" data-tags="${tags.join(" ")}" data-change="${by === undefined ? "" : by.toFixed(6)}"><h4>${
    dialogue.step !== undefined && `Step ${dialogue.step}: `
  }${dialogue.id} <small>${verdict}</small></h4>${
    dialogue.prompt !== "" &&
    html`<details open><summary>Dialogue</summary>${conversation(dialogue.prompt.slice(skip))}</details>`
  }${
    dialogue.truths.length > 0 && html`<p class="wanted"><b>Wanted:</b> ${dialogue.truths.join("; ")}</p>`
  }<div class="lists">${dialogue.lists.map(list)}</div></article>
`;
}

export function browser(dialogues: readonly Dialogue[]): Markup {
  const start = commonStart(dialogues.map(({ prompt }) => prompt).filter((prompt) => prompt !== ""));
  const tags: [value: string, label: string][] = [
    ["better", "better afterwards"],
    ["worse", "worse afterwards"],
    ["hit", "with a hit"],
    ["repeat", "with a repeat"],
    ["outside", "outside the catalogue"],
  ];
  const compared = dialogues.some((dialogue) => change(dialogue) !== undefined);
  const offered = tags.filter(([value]) => compared || (value !== "better" && value !== "worse"));
  return html`<div class="browser wide">
<form class="controls"><label>Show <select name="tag"><option value="">all</option>${offered.map(
    ([value, label]) => html`<option value="${value}">${label}</option>`,
  )}</select></label>${
    compared &&
    html`<label>Order <select name="order"><option value="">of the file</option><option value="gain">most gained first</option><option value="loss">most lost first</option></select></label>`
  }<label>Search <input type="search" name="words" placeholder="title, word, id"></label><output class="count"></output></form>
<p class="key">${Object.entries(marks).map(([mark, [sign, word, meaning]]) => html`<span class="mark ${mark}">${sign} ${word}</span> ${meaning} `)}</p>
${start.length > 60 && html`<details><summary>Instruction, the same in every prompt</summary><p class="instruction">${start}</p></details>`}
<div class="dialogues">${dialogues.map((dialogue) => card(dialogue, dialogue.prompt === "" ? 0 : start.length > 60 ? start.length : 0))}</div>
<button type="button" class="more" hidden>Show more</button></div>`;
}
