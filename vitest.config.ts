import { defineConfig } from "vitest/config";

export default defineConfig({
  test: {
    include: ["test/**/*.test.ts"],
    pool: "forks", // addons: a crash takes one fork, and errors keep their realm
    maxWorkers: "100%", // by default a core is left for watching, and of two only one works
    testTimeout: 120_000,
    hookTimeout: 120_000,
    reporters: ["default", "./test/reporter.ts"],
  },
});
