// docs/api.md: every export of the package with its docstring and its declaration, taken from what the compiler writes into the .d.ts files.
import { dirname, relative, resolve } from "node:path";
import ts from "typescript";

/** A variable's type beyond this is told by its name alone; the zod schemas are in docs/configuration.md. */
const longType = 200;

const entries = [
  ["rank-grpo", "src/index.ts"],
  ["rank-grpo/kernels", "src/kernels.ts"],
  ["rank-grpo/data", "src/data/index.ts"],
] as const;

/** Texts of the .d.ts files by source file. */
function emitDeclarations(program: ts.Program): Map<string, ts.SourceFile> {
  const files = new Map<string, ts.SourceFile>();
  program.emit(
    undefined,
    (path, text, _bom, _error, sources) => {
      const source = sources?.[0];
      if (!source || !path.endsWith(".d.ts")) return;
      files.set(source.fileName, ts.createSourceFile(path, text, ts.ScriptTarget.Latest, true));
    },
    undefined,
    true,
  );
  return files;
}

type Named = ts.Declaration & { name: ts.Identifier };

/** Top-level declarations of a .d.ts file under a name; several for overloads. */
function declarationsOf(file: ts.SourceFile, name: string): ts.Node[] {
  return file.statements.filter((statement) =>
    ts.isVariableStatement(statement)
      ? statement.declarationList.declarations.some((d) => ts.isIdentifier(d.name) && d.name.text === name)
      : (statement as unknown as Partial<Named>).name?.text === name,
  );
}

/** Types of this package that a declaration names: those of its own file, and what that imports from others of the package. */
function namedTypes(file: ts.SourceFile, node: ts.Node): string[] {
  const own = new Set(
    file.statements.flatMap((statement) => {
      if (!ts.isImportDeclaration(statement)) return (statement as unknown as Partial<Named>).name?.text ?? [];
      const bindings = statement.importClause?.namedBindings;
      const local = statement.moduleSpecifier.getText().startsWith('".');
      return local && bindings && ts.isNamedImports(bindings) ? bindings.elements.map(({ name }) => name.text) : [];
    }),
  );
  const found: string[] = [];
  const visit = (child: ts.Node): void => {
    if (ts.isTypeReferenceNode(child) && own.has(child.typeName.getText())) found.push(child.typeName.getText());
    ts.forEachChild(child, visit);
  };
  visit(node);
  return found;
}

/** Prose of the JSDoc before a declaration, tags as sentences. */
function docstring(node: ts.Node): string {
  const docs = ts.getJSDocCommentsAndTags(node).filter(ts.isJSDoc);
  return docs
    .flatMap((doc) => [
      ts.getTextOfJSDocComment(doc.comment) ?? "",
      ...(doc.tags ?? []).map((tag) => {
        const text = ts.getTextOfJSDocComment(tag.comment) ?? "";
        const name = ts.isJSDocParameterTag(tag) ? `\`${tag.name.getText()}\`: ` : "";
        return tag.tagName.text === "throws" ? `Throws ${text}` : `${name}${text}`;
      }),
    ])
    .map((text) => text.trim())
    .filter((text) => text !== "")
    .join("\n\n");
}

/** A declaration as it is written, members with their comments, without `export declare` and private parts. */
function code(node: ts.Node): string {
  let text = node
    .getText()
    .replace(/^export /, "")
    .replace(/^declare /, "");
  if (ts.isVariableStatement(node)) {
    const [declaration] = node.declarationList.declarations;
    const type = declaration?.type?.getText() ?? "";
    if (type.length > longType) text = text.replace(type, `${type.slice(0, type.search(/[<{[]/))}<...>`);
  }
  if (ts.isClassDeclaration(node))
    for (const member of node.members) {
      const hidden =
        ts.getCombinedModifierFlags(member) & ts.ModifierFlags.Private ||
        member.name?.kind === ts.SyntaxKind.PrivateIdentifier;
      if (hidden) text = text.replace(member.getFullText(), "");
    }
  return text.replaceAll(/^ {4}/gm, "  ");
}

/** The page; `root` is the package's folder. */
export function apiPage(root: string): string {
  const { config } = ts.readConfigFile(resolve(root, "tsconfig.json"), ts.sys.readFile);
  const { fileNames, options } = ts.parseJsonConfigFileContent(config, ts.sys, root);
  const program = ts.createProgram(fileNames, {
    ...options,
    noEmit: false,
    emitDeclarationOnly: true,
    sourceMap: false,
  });
  const checker = program.getTypeChecker();
  const files = emitDeclarations(program);
  const parts: string[] = [];
  const shown = new Map<string, string>(); // where a declaration already stands
  const named = new Map<string, string>(); // types by an export that names them
  for (const [name, path] of entries) {
    const file = program.getSourceFile(resolve(root, path))!;
    const exported = checker.getExportsOfModule(checker.getSymbolAtLocation(file)!);
    parts.push(`## \`${name}\`\n`);
    const sorted = exported.toSorted((a, b) => (a.name.toLowerCase() < b.name.toLowerCase() ? -1 : 1));
    for (const symbol of sorted) {
      const target = symbol.flags & ts.SymbolFlags.Alias ? checker.getAliasedSymbol(symbol) : symbol;
      const source = target.declarations?.[0]?.getSourceFile();
      const emitted = source && files.get(source.fileName);
      const nodes = emitted ? declarationsOf(emitted, target.name) : [];
      if (!source || nodes.length === 0) throw new Error(`No declaration of ${symbol.name}, an export of ${name}.`);
      const where = relative(root, source.fileName);
      const key = `${where}#${target.name}`;
      if (shown.has(key)) {
        parts.push(`### ${symbol.name}\n\nAs in \`${shown.get(key)}\`.\n`);
        continue;
      }
      shown.set(key, name);
      for (const type of nodes.flatMap((node) => namedTypes(emitted!, node))) named.set(type, symbol.name);
      const prose = nodes.map(docstring).filter((text) => text !== "");
      parts.push(`### ${symbol.name}\n`);
      if (prose.length > 0) parts.push(`${prose.join("\n\n")}\n`);
      parts.push(
        `\`\`\`ts\n${nodes.map(code).join("\n")}\n\`\`\`\n\n[${where}](${relative(resolve(root, "docs"), dirname(source.fileName))}/${where.split("/").at(-1)})\n`,
      );
    }
  }
  const names = new Set([...shown.keys()].map((key) => key.split("#")[1]!));
  names.add("Addon"); // `typeof addon`: docs/native.md has what is behind it
  for (const [type, by] of named)
    if (!names.has(type)) throw new Error(`No entry exports ${type}, which ${by} names: a caller could not write it.`);
  return `# The library

Made from the sources by \`npm run docs\`: what each entry of the package exports. Errors have a \`code\` (\`ErrorCode\`) and say what was expected, what came and what to do.

${parts.join("\n")}`;
}
