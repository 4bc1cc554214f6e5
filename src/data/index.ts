// `rank-grpo/data`: dialogue data in and out, and stage 1's demonstrations.

export { type StageEffect, stageEffects } from "../demonstrate/ablate.ts";
export { type Adjustment, type AdjustOptions, fitAdjustment, type ScoreRows } from "../demonstrate/adjust.ts";
export { readItems, readRatings } from "../demonstrate/answer.ts";
export { AnswerCache } from "../demonstrate/cache.ts";
export {
  type Embedding,
  Grounding,
  type GroundOptions,
  teach,
  teachByNeighbors,
  trainableCatalog,
} from "../demonstrate/demonstrate.ts";
export { type Encoder, encodedFeatures, endpointEncoder, localEncoder, tfidfFeatures } from "../demonstrate/embed.ts";
export { type EndpointLists, type EndpointListsOptions, endpointLists } from "../demonstrate/endpoint.ts";
export { describeItems, type ItemMetadata, MetadataTable } from "../demonstrate/metadata.ts";
export { type Reflection, type ReflectOptions, reflect } from "../demonstrate/reflect.ts";
export { nameItems, type RemapOptions, RemapRows, ScoreTable } from "../demonstrate/remap.ts";
export { type DemonstrateOptions, type DemonstrateResult, demonstrate, stageNames } from "../demonstrate/stages.ts";
export {
  Endpoint,
  type EndpointOptions,
  EndpointTeacher,
  EngineTeacher,
  type Teacher,
  type Usage,
} from "../demonstrate/teacher.ts";
export { Catalog } from "../ranking/catalog.ts";
export { collectCatalog, writeCatalog } from "./catalog.ts";
export { type ExportFormat, type ExportOptions, exportData, exportFormats } from "./export.ts";
export { type ImportOptions, type ImportResult, importData, importFormats, readRecords } from "./import.ts";
export { type Inspection, type InspectOptions, inspectData } from "./inspect.ts";
export { BadLines, conversationOf, mergeTurns, recommendationPrompt, type Turn, type UnifiedRecord } from "./record.ts";
export { type SplitOptions, type SplitResult, splitData } from "./split.ts";
