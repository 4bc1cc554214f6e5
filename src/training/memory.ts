// What a training will take of the device's memory, said and held against what is free before its first step.
import { RankGrpoError } from "../errors.ts";
import type { Policy, Workload } from "../policy.ts";

/** Bytes, all but `available` estimates of the most. */
export interface MemoryPlan {
  /** Weights, gradient and optimizer state of the policy. */
  policy: number;
  /** Weights of the frozen reference; 0 without one. */
  reference: number;
  /** Activations, keys and values, and what else passes need. */
  passes: number;
  /** Optimizer state in the host's memory where the device has its own: no part of the others. */
  onHost: number;
  /** Free on the device, what this process holds of it already included; infinite where the system does not tell. */
  available: number;
}

export const planned = ({ policy, reference, passes }: MemoryPlan): number => policy + reference + passes;

const gigabytes = (bytes: number): string => (bytes / 1e9).toFixed(bytes < 1e9 ? 2 : 1);

/** One line for people. */
export const describePlan = (plan: MemoryPlan): string =>
  `memory: at most ${gigabytes(planned(plan))} GB (policy ${gigabytes(plan.policy)}, ${
    plan.reference > 0 ? `reference ${gigabytes(plan.reference)}, ` : ""
  }passes ${gigabytes(plan.passes)})${Number.isFinite(plan.available) ? ` of ${gigabytes(plan.available)} GB` : ""}${
    plan.onHost > 0 ? `, and ${gigabytes(plan.onHost)} GB of the host's for the optimizer` : ""
  }`;

/**
 * @param knobs what to set lower, for the error
 * @throws OUT_OF_MEMORY where the estimate is above what is free
 */
export function planMemory(policy: Policy, reference: Policy | undefined, work: Workload, knobs: string): MemoryPlan {
  const own = policy.memory(work);
  const frozen = reference?.memory({ ...work, backward: false, rows: 0 });
  const plan = {
    policy: own.held + own.promised,
    reference: frozen ? frozen.held + frozen.promised : 0,
    passes: own.workspace + (frozen?.workspace ?? 0),
    onHost: own.onHost,
    available: own.available + own.held + (frozen?.held ?? 0),
  };
  if (planned(plan) > plan.available)
    throw new RankGrpoError(
      "OUT_OF_MEMORY",
      `Expected ${describePlan(plan).replace("memory: at most ", "")} to be free, got less. Lower ${knobs}, or take a smaller model.`,
    );
  return plan;
}
