// A visit to a server with the TypeScript client: `node typescript.mjs PACKAGE VERSION CALLS URL | COMMAND...`.
// Prints {"version", "tools", "answers"} as one line of JSON. PACKAGE is the folder of @modelcontextprotocol/client,
// or of its predecessor @modelcontextprotocol/sdk, which does not say the version.

import { join } from "node:path";
import { pathToFileURL } from "node:url";

const [folder, version, calls, ...target] = process.argv.slice(2);
const ours = ["index.mjs", "stdio.mjs"];
const predecessors = ["index.js", "stdio.js", "streamableHttp.js"].map((file) => join("esm", "client", file));
const files = folder.endsWith("sdk") ? predecessors : ours;
const modules = await Promise.all(files.map((file) => import(pathToFileURL(join(folder, "dist", file)))));
const { Client, StdioClientTransport, StreamableHTTPClientTransport } = Object.assign({}, ...modules);

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
console.log(JSON.stringify({ version: client.getNegotiatedProtocolVersion?.() ?? null, tools, answers }));
