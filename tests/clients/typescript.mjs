// A visit to a server with the TypeScript client: `node typescript.mjs PACKAGE VERSION CALLS URL | COMMAND...`.
// Prints {"version", "tools", "answers"} as one line of JSON. PACKAGE is the folder of @modelcontextprotocol/client.

import { join } from "node:path";
import { pathToFileURL } from "node:url";

const [folder, version, calls, ...target] = process.argv.slice(2);
const load = (file) => import(pathToFileURL(join(folder, "dist", file)));
const { Client, StreamableHTTPClientTransport } = await load("index.mjs");
const { StdioClientTransport } = await load("stdio.mjs");

function transport([first, ...args]) {
  if (first.startsWith("http")) return new StreamableHTTPClientTransport(new URL(first));
  return new StdioClientTransport({ command: first, args, env: process.env });
}

const mode = version === "2025-11-25" ? "legacy" : { pin: version };
const client = new Client({ name: "visitor", version: "1" }, { versionNegotiation: { mode } });
await client.connect(transport(target));
const { tools } = await client.listTools();
const answers = [];
for (const [name, args] of JSON.parse(calls)) answers.push(await client.callTool({ name, arguments: args }));
await client.close();
const negotiated = client.getNegotiatedProtocolVersion() ?? version;
console.log(JSON.stringify({ version: negotiated, tools, answers }));
