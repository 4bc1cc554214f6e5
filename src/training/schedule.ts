// Learning-rate schedules with warm-up: a pure function of the update's number, so a resume needs no state.
import { z } from "zod";

const warmup = z
  .number()
  .min(0)
  .default(0)
  .describe("updates (1 and more) or share of all updates (below 1) over which the rate rises from 0 in a line");
const floor = z.number().min(0).max(1).default(0).describe("of cosine and linear: share of the rate at the end");

export const scheduleSchema = z.discriminatedUnion("type", [
  z.strictObject({ type: z.literal("constant").describe("the rate as it is, as published for RL"), warmup }),
  z.strictObject({ type: z.literal("cosine").describe("half a cosine down to floor; usual for SFT"), warmup, floor }),
  z.strictObject({ type: z.literal("linear").describe("a straight line down to floor"), warmup, floor }),
  z.strictObject({
    type: z.literal("step").describe("x factor from each update of `at` on: the paper's drop in the second epoch"),
    warmup,
    at: z.array(z.number().int().min(1)).min(1).readonly().describe("of step, which needs it: updates, counted from 0"),
    factor: z.number().positive().max(1).default(0.1).describe("of each drop of step"),
  }),
]);

export type Schedule = z.infer<typeof scheduleSchema>;

/** Factor on the base rate for update `update` (from 0) of `total`. */
export function scheduleFactor(schedule: Schedule, update: number, total: number): number {
  const warmup = schedule.warmup < 1 ? Math.floor(schedule.warmup * total) : schedule.warmup;
  if (update < warmup) return (update + 1) / (warmup + 1);
  const progress = total > warmup ? Math.min(1, (update - warmup) / (total - warmup)) : 1;
  switch (schedule.type) {
    case "constant":
      return 1;
    case "cosine":
      return schedule.floor + ((1 - schedule.floor) * (1 + Math.cos(Math.PI * progress))) / 2;
    case "linear":
      return schedule.floor + (1 - schedule.floor) * (1 - progress);
    case "step":
      return schedule.factor ** schedule.at.filter((at) => update >= at).length;
  }
}
