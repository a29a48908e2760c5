// How long a decision takes in this browser.
import { load } from "./executor.js";

const ROUNDS = 20;
const BATCH = 10000;

const $ = (name) => document.querySelector(name);
const bytes = Uint8Array.from(atob($("#executor").textContent.trim()), (c) => c.charCodeAt(0));
const executor = await load(bytes);
const { agrees, rows, worst } = await executor.verify();
$("#golden").textContent = agrees
  ? `${rows} golden vectors agree, within ${worst.toExponential(0)}`
  : `golden vectors DIFFER by ${worst.toExponential(0)}`;
$("#shape").textContent = `${executor.info.architecture}, ${bytes.length.toLocaleString("en")} bytes`;
const obs = Float32Array.from({ length: executor.info.obs }, (_, i) => Math.sin(i));
const found = [];
// The first two rounds warm up.
for (let round = -2; round < ROUNDS; round++) {
  const start = performance.now();
  for (let i = 0; i < BATCH; i++) executor.act(obs);
  if (round >= 0) found.push(((performance.now() - start) / BATCH) * 1000);
  // Lets the page draw.
  await new Promise((done) => setTimeout(done));
}
found.sort((a, b) => a - b);
const micro = (value) => `${value.toFixed(2)} µs`;
$("#least").textContent = micro(found[0]);
$("#median").textContent = micro(found[ROUNDS / 2]);
