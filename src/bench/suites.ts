// Every suite by name, in the order they run.
import { constraint } from "./constraint.ts";
import { data } from "./data.ts";
import { generation } from "./generation.ts";
import { growth } from "./growth.ts";
import type { Suite } from "./harness.ts";
import { kernels } from "./kernels.ts";
import { objectives } from "./objectives.ts";
import { step, update } from "./update.ts";

export const suites: Readonly<Record<string, Suite>> = {
  kernels,
  objectives,
  matmul: (harness) => harness.native("matmul"),
  attention: (harness) => harness.native("attention"),
  generation,
  update,
  step,
  data,
  growth,
  constraint,
};
