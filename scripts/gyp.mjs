// Builds the addon with node-gyp, offline: headers come from beside this node where they are, else from --nodedir or npm_config_nodedir.
import { spawnSync } from "node:child_process";
import { existsSync } from "node:fs";
import { createRequire } from "node:module";
import { cpus } from "node:os";
import { dirname, join } from "node:path";

const require = createRequire(import.meta.url);
const given =
  process.argv.find((arg) => arg.startsWith("--nodedir="))?.slice("--nodedir=".length) ??
  process.env.npm_config_nodedir;
const beside = dirname(dirname(process.execPath));
// node-gyp itself fetches the headers where neither place has them
const nodedir = [given, beside].find((folder) => folder && existsSync(join(folder, "include/node/node_api.h")));
const { status } = spawnSync(
  process.execPath,
  [
    require.resolve("node-gyp/bin/node-gyp.js"),
    "rebuild",
    `--jobs=${cpus().length}`,
    ...(nodedir ? [`--nodedir=${nodedir}`] : []),
  ],
  { stdio: "inherit" },
);
process.exit(status ?? 1);
