// `rank-grpo bench` of the development tree: npm run bench -- [SUITE ...] (--help).
import { benchCommand } from "../src/cli/bench.ts";

await benchCommand().parseAsync();
