// Writes src/rules.ts and the drawings of docs/rules from the rules themselves. Run it after changing a rule: npx tsx scripts/rules.mts
import { mkdirSync, writeFileSync } from "node:fs";
import { Probe } from "../src/objective/probe.ts";
import { drawSvg, drawWith } from "../src/objective/show.ts";
import { packageTypes } from "../src/objective/types.ts";

const at = (path: string): URL => new URL(`../${path}`, import.meta.url);
const probe = await Probe.open();
writeFileSync(at("src/rules.ts"), packageTypes(probe.rules));
mkdirSync(at("docs/rules"), { recursive: true });
for (const rule of probe.rules) writeFileSync(at(`docs/rules/${rule.name}.svg`), drawSvg(await drawWith(probe, rule)));
probe.close();
