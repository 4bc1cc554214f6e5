// `rank-grpo evaluate`: a checkpoint, or completions made elsewhere, against the ground truth; baselines beside it.
import { Command } from "commander";
export function evaluateCommand(): Command {
  return new Command("evaluate");
}
