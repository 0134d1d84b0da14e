// Has AsyncAPI's own parser read the document at argv[2], with what it refers to; errors end with exit code 1.
import { readFile } from "node:fs/promises";
import { Parser } from "@asyncapi/parser";

const [, , source] = process.argv;
const { document, diagnostics } = await new Parser().parse(await readFile(source, "utf8"), { source });
const errors = diagnostics.filter(({ severity }) => severity === 0);
for (const { message, path } of errors) console.error(`${path.join(".")}: ${message}`);
if (!document && errors.length === 0) console.error("no document came out of it");
process.exitCode = document && errors.length === 0 ? 0 : 1;
