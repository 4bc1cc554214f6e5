// The loggers of a run: those of its configuration, then those that the caller brings.
import { csvLogger } from "./csv.ts";
import { type Logger, Loggers } from "./logger.ts";
import { mlflowLogger } from "./mlflow.ts";
import { type LogConfig, mlflowSchema, wandbSchema } from "./schema.ts";
import { tensorboardLogger } from "./tensorboard.ts";
import { wandbLogger } from "./wandb.ts";

/** What a logger may want to know of its run; `resumedAt` is the step that a resumed run goes on from. */
export interface LogContext {
  readonly folder: string;
  readonly kind: "sft" | "train";
  readonly config: object & { readonly log: LogConfig };
  readonly resumedAt: number | undefined;
}

/** Nothing is written before the first report. @throws BAD_CONFIG where a server's address or key is missing */
export function openLoggers(context: LogContext, own: readonly Logger[] = []): Loggers {
  const { folder, kind, config, resumedAt } = context;
  const configured = config.log.map((entry): Logger => {
    if (entry === "tensorboard") return tensorboardLogger(folder, resumedAt);
    if (entry === "csv") return csvLogger(folder, resumedAt);
    if (entry === "wandb") return wandbLogger(folder, kind, config, wandbSchema.parse({}));
    if (entry === "mlflow") return mlflowLogger(folder, kind, config, mlflowSchema.parse({}));
    if ("wandb" in entry) return wandbLogger(folder, kind, config, entry.wandb);
    return mlflowLogger(folder, kind, config, entry.mlflow);
  });
  return new Loggers([...configured, ...own]);
}
