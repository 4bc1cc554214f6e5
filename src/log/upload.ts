// Sending reports to a server: in the background, as many at a time as have come meanwhile, again after a while where the server does not
// answer. A run never waits for it, and what could not be sent stands in metrics.jsonl all the same.
import { RankGrpoError } from "../errors.ts";
import type { StepReport } from "../training/report.ts";
import { type Ended, type Logger, warn } from "./logger.ts";

/** What a service needs to do; every method may throw, and is then called again with the same reports. */
export interface Service {
  readonly name: string;
  /** Called before the first `send` until it succeeds once. */
  open(): Promise<void>;
  send(reports: readonly StepReport[]): Promise<void>;
  end(ended: Ended): Promise<void>;
}

/** Reports kept while the server is away; beyond that the oldest go. */
const kept = 10_000;
/** Reports of one request. */
const batch = 200;
const requestSeconds = 10;
/** Seconds between tries: doubled each time up to a minute. */
const longestWait = 60;

export function uploading(service: Service): Logger {
  const waiting: StepReport[] = [];
  let [opened, failures, lost] = [false, 0, 0];
  let sending: Promise<void> | undefined;
  let retryAt = 0;

  const send = async (): Promise<void> => {
    if (!opened) {
      await service.open();
      opened = true;
    }
    while (waiting.length > 0) {
      const part = waiting.slice(0, batch);
      await service.send(part);
      // what came meanwhile may have pushed old ones out
      for (const report of part) if (waiting[0] === report) waiting.shift();
    }
    failures = 0;
  };
  const failed = (error: unknown): void => {
    if (failures === 0)
      warn(
        `${service.name}: ${error instanceof Error ? error.message : String(error)} Trying again from time to time.`,
      );
    retryAt = Date.now() + Math.min(longestWait, 2 ** failures) * 1000;
    failures++;
  };

  const logger: Logger = (report) => {
    waiting.push(report);
    if (waiting.length > kept) {
      waiting.shift();
      lost++;
    }
    if (sending || Date.now() < retryAt) return;
    sending = send()
      .catch(failed)
      .finally(() => {
        sending = undefined;
      });
  };
  logger.close = async (ended) => {
    await sending;
    try {
      await send();
      await service.end(ended);
    } catch (error) {
      if (failures === 0) failed(error);
    }
    if (waiting.length + lost > 0)
      warn(`${service.name}: ${waiting.length + lost} reports were not sent; metrics.jsonl has them all.`);
  };
  Object.defineProperty(logger, "name", { value: service.name });
  return logger;
}

/** JSON to a server and back. @throws IO with address, status and the beginning of the answer; no headers, which hold secrets */
export async function requestJson(
  method: "GET" | "POST" | "PATCH",
  url: string,
  headers: Readonly<Record<string, string>>,
  body?: unknown,
): Promise<{ status: number; value: unknown }> {
  const failure = (what: string, cause?: unknown): RankGrpoError =>
    new RankGrpoError("IO", `Expected an answer of ${new URL(url).origin}${new URL(url).pathname}, got ${what}.`, {
      cause,
    });
  let response: Response;
  let text: string;
  try {
    response = await fetch(url, {
      method,
      headers: { ...headers, ...(body === undefined ? {} : { "content-type": "application/json" }) },
      signal: AbortSignal.timeout(requestSeconds * 1000),
      ...(body === undefined ? {} : { body: JSON.stringify(body) }),
    });
    text = await response.text();
  } catch (error) {
    const { message, cause } = error as Error;
    throw failure(cause instanceof Error ? cause.message : message, error);
  }
  if (response.status >= 500 || (response.status >= 400 && response.status !== 404))
    throw failure(`status ${response.status}: ${text.slice(0, 200)}`);
  try {
    return { status: response.status, value: text === "" ? {} : JSON.parse(text) };
  } catch (error) {
    throw failure(`status ${response.status} and no JSON: ${text.slice(0, 200)}`, error);
  }
}
