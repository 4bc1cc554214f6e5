// Learning-rate schedules with warm-up: a pure function of the update's number, so a resume needs no state.
import { z } from "zod";

const common = {
  /** Updates (>= 1) or share of all updates (< 1) over which the rate rises linearly from 0. */
  warmup: z.number().min(0).default(0),
};

export const scheduleSchema = z.discriminatedUnion("type", [
  z.strictObject({ type: z.literal("constant"), ...common }),
  /** Half a cosine from the full rate to `floor` x rate. */
  z.strictObject({ type: z.literal("cosine"), ...common, floor: z.number().min(0).max(1).default(0) }),
  /** A straight line from the full rate to `floor` x rate. */
  z.strictObject({ type: z.literal("linear"), ...common, floor: z.number().min(0).max(1).default(0) }),
  /** x factor from each of these updates on: the paper's drop in the second epoch. */
  z.strictObject({
    type: z.literal("step"),
    ...common,
    at: z.array(z.number().int().min(1)).min(1),
    factor: z.number().positive().max(1).default(0.1),
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
