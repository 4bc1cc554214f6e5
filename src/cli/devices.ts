// `rank-grpo devices`: what the engine can compute on here.
import { Command } from "commander";

import { addon } from "../native.ts";

export function devicesCommand(): Command {
  return new Command("devices").description("Show what the engine can compute on, and how").action(() => {
    const info = addon.deviceInfo();
    process.stdout.write(`cpu  ${info.threads} threads, ${info.isa} (RANK_GRPO_THREADS, RANK_GRPO_ISA change it)\n`);
    for (const { device, usable, reason, name, memoryBytes, fast } of info.devices) {
      if (device === "cpu") continue;
      const size = memoryBytes === undefined ? "" : `, ${(memoryBytes / 2 ** 30).toFixed(0)} GiB`;
      const mode = fast === undefined ? "" : `; determinism fast: ${fast}`;
      process.stdout.write(`${device} ${usable ? `${name ?? ""}${size}${mode}` : `not usable: ${reason ?? ""}`}\n`);
    }
  });
}
