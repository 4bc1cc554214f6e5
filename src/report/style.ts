// The page's style and script, put into it as they are: no file and no address beside the report is needed.

/** Colours of groups c0 to c7, dark ones on white and light ones on dark: each has a contrast of at least 4.5 with its ground. */
const light = `--bg:#ffffff;--fg:#1a2028;--muted:#525c69;--line:#d9dee5;--card:#f5f7f9;--accent:#0a58a8;--heat:#0a58a8;
--c0:#0a58a8;--c1:#a84a00;--c2:#00704a;--c3:#96337f;--c4:#b3261e;--c5:#00697f;--c6:#6b5200;--c7:#4d5763;
--hit:#00613f;--bad:#9c1c14;--warn:#7a4a00;color-scheme:light`;
const dark = `--bg:#12161b;--fg:#e6eaef;--muted:#a3aebb;--line:#343d48;--card:#1b2128;--accent:#74b6ff;--heat:#74b6ff;
--c0:#74b6ff;--c1:#ffab5e;--c2:#52d3a2;--c3:#ea9bdc;--c4:#ff8d80;--c5:#5ed2e6;--c6:#dcc266;--c7:#b4bec9;
--hit:#5ddba8;--bad:#ff9a8f;--warn:#ffc46b;color-scheme:dark`;

export const palettes = { light, dark };

export const style = `
:root{${light}}
@media (prefers-color-scheme:dark){:root{${dark}}}
@media print{:root{${light}}}
*{box-sizing:border-box}
html{scroll-padding-top:4rem;-webkit-text-size-adjust:100%}
body{margin:0;background:var(--bg);color:var(--fg);font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"DejaVu Sans",sans-serif}
main,header,footer{max-width:1440px;margin:0 auto;padding:0 1.25rem}
header{padding-top:1.5rem}
h1{font-size:1.6rem;line-height:1.2;margin:0 0 .25rem}
h2{font-size:1.25rem;margin:2.25rem 0 .25rem;padding-top:.75rem;border-top:1px solid var(--line)}
h4{font-size:1rem;margin:0}
h5{font-size:.95rem;margin:0 0 .25rem}
p{margin:.25rem 0}
small{font-size:.85em;color:var(--muted);font-weight:normal}
.intro,figcaption p,footer{color:var(--muted);max-width:75ch}
figcaption p{font-size:.875rem;line-height:1.35}
a{color:var(--accent)}
.skip{position:absolute;left:-99rem}.skip:focus{left:1rem;top:.5rem;background:var(--bg);padding:.25rem .5rem;z-index:9}
:focus-visible{outline:2px solid var(--accent);outline-offset:2px}
nav{display:flex;flex-wrap:wrap;gap:.25rem 1rem;margin:.75rem 0}
nav a{padding:.2rem 0}
.legend{position:sticky;top:0;z-index:5;background:var(--bg);border-bottom:1px solid var(--line)}
.legend fieldset{border:0;margin:0 auto;max-width:1440px;padding:.45rem 1.25rem;display:flex;flex-wrap:wrap;gap:.15rem 1.1rem;align-items:center}
.legend legend{float:left;padding:0;margin-right:.5rem;color:var(--muted)}
.legend label{display:inline-flex;align-items:center;gap:.4rem;cursor:pointer;min-height:28px}
.legend input{width:1.05rem;height:1.05rem;margin:0;accent-color:var(--accent)}
.grid{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,390px),1fr));gap:1rem;margin-top:.75rem;align-items:start}
.wide{grid-column:1/-1}
.chart{margin:0;background:var(--card);border:1px solid var(--line);border-radius:8px;padding:.75rem .75rem .5rem;min-width:0}
.plot{position:relative;min-width:0}
@supports (grid-template-rows:subgrid){.chart{display:grid;grid-row:span 3;grid-template-rows:subgrid;grid-template-columns:minmax(0,1fr);row-gap:.2rem}.chart>.bars{grid-row:2/-1}}
svg{display:block;width:100%;height:auto;overflow:visible;touch-action:pan-y}
svg text{font:12.5px system-ui,-apple-system,"Segoe UI",Roboto,"DejaVu Sans",sans-serif;fill:var(--muted)}
svg path.grid{display:inline;stroke:var(--line);stroke-width:1}
svg path.axis{stroke:var(--muted);stroke-width:1}
svg .curve{fill:none;stroke-width:2;stroke-linejoin:round;stroke-linecap:round}
svg .faint{stroke-width:1.6;stroke-dasharray:1 4;opacity:.85}
svg .band{opacity:.16}
svg .letter{font-weight:700}
svg .baseline{stroke:var(--fg);stroke-width:1;stroke-dasharray:5 4;opacity:.65}
svg .baseline-name{fill:var(--fg);paint-order:stroke;stroke:var(--card);stroke-width:3px}
svg .cursor{stroke:var(--fg);stroke-width:1;fill:none;pointer-events:none}
svg .ground{fill:var(--bg)}
svg .cell{fill:var(--heat);shape-rendering:crispEdges}
.tip{position:absolute;top:6px;background:var(--bg);color:var(--fg);border:1px solid var(--muted);border-radius:6px;padding:.2rem .5rem;font-size:.82rem;line-height:1.4;white-space:pre;pointer-events:none;z-index:3;max-width:100%}
.swatch{width:34px;height:12px;flex:none;overflow:visible}
.scale{display:flex;align-items:center;gap:.5rem;font-size:.82rem;color:var(--muted);padding-left:12%}
.ramp{flex:0 1 12rem;height:.7rem;border:1px solid var(--line);background:linear-gradient(to right,var(--bg),var(--heat))}
details.part>summary{font-size:1rem;font-weight:600;padding:.35rem 0}
details summary{cursor:pointer;color:var(--accent);font-size:.9rem;min-height:24px}
.scroll{overflow-x:auto}
table{border-collapse:collapse;font-size:.875rem;font-variant-numeric:tabular-nums;margin:.5rem 0}
caption{text-align:left;color:var(--muted);padding-bottom:.25rem}
th,td{padding:.2rem .65rem .2rem 0;text-align:right;vertical-align:top;border-bottom:1px solid var(--line)}
th[scope=row],thead th:first-child{text-align:left;font-weight:600}
.summary th{white-space:nowrap}
.summary td,.summary th{text-align:left}
pre{overflow-x:auto;background:var(--card);border:1px solid var(--line);border-radius:8px;padding:.75rem;font-size:.85rem}
.bars p{margin:.5rem 0 .2rem}
.bar{display:flex;height:1.1rem;background:var(--bg);border-radius:3px;overflow:hidden}
.bar span+span{border-left:2px solid var(--card)}
.parts{font-size:.875rem;color:var(--muted)}
.parts span{margin-right:.9rem;white-space:nowrap}
.parts i{display:inline-block;width:.8em;height:.8em;margin-right:.35em;border-radius:2px;vertical-align:-.05em}
.p0{background:var(--c0)}.p1{background:repeating-linear-gradient(45deg,var(--c1) 0 5px,var(--card) 5px 7px)}.p2{background:repeating-linear-gradient(-45deg,var(--c2) 0 3px,var(--card) 3px 5px)}.p3{background:repeating-linear-gradient(90deg,var(--c3) 0 2px,var(--card) 2px 4px)}
.controls{display:flex;flex-wrap:wrap;gap:.5rem 1.25rem;align-items:center;margin:.5rem 0}
.controls label{display:inline-flex;gap:.4rem;align-items:center}
select,input[type=search],button{font:inherit;color:var(--fg);background:var(--bg);border:1px solid var(--muted);border-radius:6px;padding:.3rem .5rem;min-height:36px;max-width:100%}
button{cursor:pointer;padding:.4rem 1rem}
.dialogues{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,560px),1fr));gap:1rem;margin:.75rem 0;align-items:start}
.dialogue{background:var(--card);border:1px solid var(--line);border-radius:8px;padding:.75rem 1rem;min-width:0;overflow-wrap:anywhere}
.conversation{max-height:14rem;overflow:auto;font-size:.9rem;border-left:3px solid var(--line);padding-left:.75rem;margin:.25rem 0 .5rem}
.conversation b{color:var(--muted);font-weight:600}
.wanted{margin:.5rem 0}
.lists{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,215px),1fr));gap:.75rem;font-size:.9rem}
.lists ol{margin:0;padding-left:1.9rem}
.lists li{padding:.05rem 0}
.lists li::marker{color:var(--muted)}
li.hit{font-weight:600}
li.unreadable,li.outside{color:var(--muted)}
.mark{font-size:.8rem;font-weight:600;border:1px solid currentColor;border-radius:4px;padding:0 .3em;white-space:nowrap}
.mark.hit{color:var(--hit)}.mark.outside,.mark.unreadable{color:var(--bad)}.mark.repeat,.mark.seen{color:var(--warn)}
.reward{font-size:.8rem;color:var(--muted)}
.key{font-size:.85rem;color:var(--muted)}.key .mark:not(:first-child){margin-left:.9rem}
.instruction{white-space:pre-wrap;color:var(--muted);font-size:.9rem}
[hidden]{display:none!important}
footer{padding:2rem 1.25rem;font-size:.9rem}
@media (max-width:520px){main,header,footer,.legend fieldset{padding-left:.75rem;padding-right:.75rem}body{font-size:15px}svg text{font-size:13.5px}.legend{position:static}}
@media print{body{font-size:10pt}.skip,nav,.controls,.more,details.values,.legend input{display:none!important}.legend{position:static}main,header,footer,.legend fieldset{max-width:none;padding:0}
.grid{grid-template-columns:1fr 1fr}.chart,.dialogue{break-inside:avoid;background:none}h2,h4{break-after:avoid}.conversation{max-height:none;overflow:visible}.lists{grid-template-columns:1fr 1fr}.dialogues{display:block}.dialogue{margin-bottom:1rem}
svg .band,svg .cell,.bar,.parts i,.ramp{print-color-adjust:exact;-webkit-print-color-adjust:exact}}
`;

/** Toggles of groups, read-out of charts by pointer and arrow keys, filters of dialogues. The page can be read without it. */
export const script = `
"use strict";
const number = (v) => v === 0 ? "0" : Math.abs(v) < 1e-3 || Math.abs(v) >= 1e7 ? v.toExponential(2) : String(Number(v.toPrecision(4)));
const hiddenGroups = new Set();
for (const box of document.querySelectorAll(".legend input")) {
  const apply = () => {
    hiddenGroups[box.checked ? "delete" : "add"](Number(box.value));
    for (const part of document.querySelectorAll('svg [data-group="' + box.value + '"]')) part.toggleAttribute("hidden", !box.checked), part.style.display = box.checked ? "" : "none";
  };
  box.addEventListener("change", apply);
  if (!box.checked) apply();
}
for (const svg of document.querySelectorAll("svg[data-chart]")) {
  const chart = JSON.parse(svg.dataset.chart);
  const tip = svg.parentElement.querySelector(".tip");
  const cursor = svg.querySelector(".cursor");
  const [left, top, width, height] = chart.plot;
  const xs = chart.cells ? chart.steps.map((_, i) => i) : [...new Set(chart.series.flatMap((s) => s.points.map((p) => p[0])))].sort((a, b) => a - b);
  const ranks = chart.cells ? Math.max(...chart.cells.map((c) => c.length)) : 0;
  const at = (i) => chart.cells ? left + (i + 0.5) * width / xs.length : left + (xs[i] - chart.domain[0]) / (chart.domain[1] - chart.domain[0]) * width;
  let x = -1, rank = 0;
  const show = () => {
    const lines = [];
    if (chart.cells) {
      lines.push("step " + chart.steps[x], "rank " + (rank + 1) + ": " + number(chart.cells[x][rank] ?? NaN));
      const y = top + (rank + 0.5) * height / ranks, w = width / xs.length, h = height / ranks;
      cursor.setAttribute("d", "M" + (at(x) - w / 2) + " " + (y - h / 2) + "h" + w + "v" + h + "h" + -w + "z");
    } else {
      lines.push(chart.x + " " + xs[x]);
      for (const s of chart.series) {
        if (hiddenGroups.has(s.group)) continue;
        const p = s.points.find((q) => q[0] === xs[x]);
        if (p) lines.push(s.name + ": " + number(p[1]) + (p.length > 2 ? " (" + number(p[2]) + " to " + number(p[3]) + ")" : ""));
      }
      cursor.setAttribute("d", "M" + at(x) + " " + top + "v" + height);
    }
    tip.textContent = lines.join("\\n");
    tip.hidden = false;
    const box = svg.getBoundingClientRect(), place = at(x) / 440 * box.width;
    if (place > box.width / 2) { tip.style.left = ""; tip.style.right = box.width - place + 8 + "px"; }
    else { tip.style.right = ""; tip.style.left = place + 8 + "px"; }
  };
  const hide = () => { tip.hidden = true; cursor.setAttribute("d", ""); x = -1; };
  const move = (event) => {
    const box = svg.getBoundingClientRect();
    const px = (event.clientX - box.left) / box.width * 440, py = (event.clientY - box.top) / box.width * 440;
    let best = 0;
    for (let i = 1; i < xs.length; i++) if (Math.abs(at(i) - px) < Math.abs(at(best) - px)) best = i;
    x = best;
    rank = Math.max(0, Math.min(ranks - 1, Math.floor((py - top) / height * ranks)));
    show();
  };
  svg.addEventListener("pointermove", move);
  svg.addEventListener("pointerdown", move);
  svg.addEventListener("pointerleave", hide);
  svg.addEventListener("blur", hide);
  svg.addEventListener("keydown", (event) => {
    const by = { ArrowLeft: -1, ArrowRight: 1, Home: -1e9, End: 1e9 }[event.key];
    const down = chart.cells ? { ArrowUp: -1, ArrowDown: 1 }[event.key] : undefined;
    if (event.key === "Escape") return hide();
    if (by === undefined && down === undefined) return;
    event.preventDefault();
    if (x < 0) x = by === -1 ? xs.length - 1 : 0; else x = Math.max(0, Math.min(xs.length - 1, x + (by ?? 0)));
    if (by === 1e9) x = xs.length - 1;
    if (by === -1e9) x = 0;
    rank = Math.max(0, Math.min(Math.max(0, ranks - 1), rank + (down ?? 0)));
    show();
  });
}
for (const browser of document.querySelectorAll(".browser")) {
  const form = browser.querySelector("form"), place = browser.querySelector(".dialogues"), more = browser.querySelector(".more");
  const cards = [...place.children].map((card, index) => ({ card, index, text: card.textContent.toLowerCase(), tags: card.dataset.tags.split(" "), change: Number(card.dataset.change) }));
  const page = 12;
  let shown = page;
  const apply = () => {
    const { tag, order, words } = form.elements;
    const asked = words.value.toLowerCase().split(/\\s+/).filter(Boolean);
    const found = cards.filter((c) => (!tag.value || c.tags.includes(tag.value)) && asked.every((w) => c.text.includes(w)));
    const sign = order?.value === "gain" ? -1 : order?.value === "loss" ? 1 : 0;
    found.sort((a, b) => sign * (a.change - b.change) || a.index - b.index);
    for (const { card } of cards) card.hidden = true;
    for (const { card } of found.slice(0, shown)) { card.hidden = false; place.append(card); }
    more.hidden = found.length <= shown;
    browser.querySelector(".count").textContent = Math.min(shown, found.length) + " of " + found.length + " shown";
  };
  form.addEventListener("input", () => { shown = page; apply(); });
  form.addEventListener("submit", (event) => event.preventDefault());
  more.addEventListener("click", () => {
    const first = shown;
    shown += page;
    apply();
    const next = [...place.children].filter((card) => !card.hidden)[first];
    if (next) { next.tabIndex = -1; next.focus({ preventScroll: true }); }
  });
  apply();
}
`;
