// The type of every column of a file, found by looking at all values; and that type as Arrow, parquet and Hugging Face say it.
import { Bool, type DataType, Field, Float64, Int64, List, Schema, Struct, Utf8 } from "apache-arrow";
import type { SchemaElement } from "hyparquet";

/** `json`: values of different kinds, kept as JSON text. `null`: nothing seen yet. */
export type Kind =
  | { kind: "null" | "bool" | "int" | "double" | "string" | "json" }
  | { kind: "list"; item: Kind }
  | { kind: "struct"; fields: Map<string, Kind> };

const simple = (kind: "null" | "bool" | "int" | "double" | "string" | "json"): Kind => ({ kind });

/** The kind that holds what `known` held and `value` too. */
export function widen(known: Kind, value: unknown): Kind {
  if (value === null || value === undefined || known.kind === "json") return known;
  if (Array.isArray(value)) {
    if (known.kind !== "null" && known.kind !== "list") return simple("json");
    let item = known.kind === "list" ? known.item : simple("null");
    for (const entry of value) item = widen(item, entry);
    return { kind: "list", item };
  }
  if (typeof value === "object") {
    if (known.kind !== "null" && known.kind !== "struct") return simple("json");
    const fields = known.kind === "struct" ? known.fields : new Map<string, Kind>();
    for (const [name, entry] of Object.entries(value))
      fields.set(name, widen(fields.get(name) ?? simple("null"), entry));
    return { kind: "struct", fields };
  }
  const found =
    typeof value === "boolean"
      ? "bool"
      : typeof value === "number"
        ? Number.isSafeInteger(value)
          ? "int"
          : "double"
        : "string";
  if (known.kind === "null" || known.kind === found) return simple(found);
  const numbers = new Set(["int", "double"]);
  return simple(numbers.has(known.kind) && numbers.has(found) ? "double" : "json");
}

/** For parquet, which has no object without fields: one that never had any is JSON text. */
export function withFields(kind: Kind): Kind {
  if (kind.kind === "list") return { kind: "list", item: withFields(kind.item) };
  if (kind.kind !== "struct") return kind;
  if (kind.fields.size === 0) return simple("json");
  return { kind: "struct", fields: new Map([...kind.fields].map(([name, field]) => [name, withFields(field)])) };
}

/** A value in the form that the writers of `kind` take: whole numbers as bigint, mixed values as JSON text, all fields present. */
export function shaped(kind: Kind, value: unknown): unknown {
  if (value === null || value === undefined) return null;
  switch (kind.kind) {
    case "int":
      return BigInt(value as number);
    case "json":
      return JSON.stringify(value);
    case "list":
      return (value as unknown[]).map((entry) => shaped(kind.item, entry));
    case "struct":
      return Object.fromEntries(
        [...kind.fields].map(([name, field]) => [name, shaped(field, (value as Record<string, unknown>)[name])]),
      );
    default:
      return value;
  }
}

export function arrowType(kind: Kind): DataType {
  switch (kind.kind) {
    case "bool":
      return new Bool();
    case "int":
      return new Int64();
    case "double":
      return new Float64();
    case "list":
      return new List(new Field("item", arrowType(kind.item), true));
    case "struct":
      return new Struct([...kind.fields].map(([name, field]) => new Field(name, arrowType(field), true)));
    default:
      return new Utf8();
  }
}

const hubDtype = {
  null: "string",
  bool: "bool",
  int: "int64",
  double: "float64",
  string: "string",
  json: "string",
} as const;

/** As datasets writes it into dataset_info.json. */
export function hubFeature(kind: Kind): unknown {
  if (kind.kind === "list") return { feature: hubFeature(kind.item), _type: "List" };
  if (kind.kind === "struct")
    return Object.fromEntries([...kind.fields].map(([name, field]) => [name, hubFeature(field)]));
  return { dtype: hubDtype[kind.kind], _type: "Value" };
}

export type Columns = Map<string, Kind>;

export const hubFeatures = (columns: Columns): unknown => hubFeature({ kind: "struct", fields: columns });

export function arrowSchema(columns: Columns): Schema {
  const metadata = new Map([["huggingface", JSON.stringify({ info: { features: hubFeatures(columns) } })]]);
  return new Schema(
    [...columns].map(([name, kind]) => new Field(name, arrowType(kind), true)),
    metadata,
  );
}

function parquetElements(name: string, kind: Kind): SchemaElement[] {
  const optional = { name, repetition_type: "OPTIONAL" } as const;
  switch (kind.kind) {
    case "bool":
      return [{ ...optional, type: "BOOLEAN" }];
    case "int":
      return [{ ...optional, type: "INT64" }];
    case "double":
      return [{ ...optional, type: "DOUBLE" }];
    case "list":
      return [
        { ...optional, converted_type: "LIST", num_children: 1 },
        { name: "list", repetition_type: "REPEATED", num_children: 1 },
        ...parquetElements("element", kind.item),
      ];
    case "struct":
      return [
        { ...optional, num_children: kind.fields.size },
        ...[...kind.fields].flatMap(([field, inner]) => parquetElements(field, inner)),
      ];
    default:
      return [{ ...optional, type: "BYTE_ARRAY", converted_type: "UTF8" }];
  }
}

export const parquetSchema = (columns: Columns): SchemaElement[] => [
  { name: "schema", num_children: columns.size },
  ...[...columns].flatMap(([name, kind]) => parquetElements(name, kind)),
];
