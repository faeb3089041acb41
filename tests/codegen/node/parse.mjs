// Says what @asyncapi/parser has against documents: a line for each fault, then the number of operations.
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";

const { Parser } = createRequire(`${process.cwd()}/`)("@asyncapi/parser");
for (const file of process.argv.slice(2)) {
  const { document, diagnostics } = await new Parser().parse(readFileSync(file, "utf8"));
  for (const { severity, path, message } of diagnostics) if (severity <= 1) console.log(path.join("."), message);
  console.log(document ? document.operations().all().length : "no document");
}
