// Asks an ONNX file in ONNX Runtime Web: {obs, memory} as JSON on stdin, outputs and actions back.
// argv: the package's folder, the model.
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

const require = createRequire(`${process.argv[2]}/package.json`);
const entry = require.resolve("onnxruntime-web");
const found = await import(pathToFileURL(entry));
const ort = found.InferenceSession ? found : found.default;
ort.env.wasm.numThreads = 1;
ort.env.logLevel = "error";
const session = await ort.InferenceSession.create(new Uint8Array(readFileSync(process.argv[3])), {
  executionProviders: ["wasm"],
});
const { obs, memory } = JSON.parse(readFileSync(0, "utf8"));
let kept = new Float32Array(memory);
const answers = [];
for (const row of obs) {
  const feeds = { obs: new ort.Tensor("float32", Float32Array.from(row), [1, row.length]) };
  if (memory) feeds.memory = new ort.Tensor("float32", kept, [1, memory]);
  const got = await session.run(feeds);
  if (memory) kept = Float32Array.from(got.memory_out.data);
  answers.push([Array.from(got.outputs.data), Array.from(got.action.data, Number)]);
}
console.log(JSON.stringify(answers));
