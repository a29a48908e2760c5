// Asks an executor in Node: observations come on stdin, answers leave on stdout, as 32-bit words.
import { readFileSync, writeFileSync } from "node:fs";
import { pathToFileURL } from "node:url";

const { load } = await import(pathToFileURL(process.argv[2]));
const executor = await load();
const { agrees, worst } = await executor.verify();
if (!agrees) throw new Error(`golden vectors differ by ${worst}`);
const given = readFileSync(0);
const { obs, out, actions, action } = executor.info;
const rows = given.length / 4 / obs;
const numbers = new Float32Array(given.buffer.slice(given.byteOffset, given.byteOffset + given.length));
const answers = new Float32Array(rows * (out + actions));
const choices = new Int32Array(answers.buffer);
for (let row = 0; row < rows; row++) {
  const taken = executor.act(numbers.subarray(row * obs, (row + 1) * obs));
  const at = row * (out + actions);
  answers.set(executor.outputs, at);
  (action === "numbers" ? answers : choices).set(action === "choice" ? [taken] : taken, at + out);
}
writeFileSync(1, new Uint8Array(answers.buffer));
