// How long a decision takes in this browser, through the loader's act.
import { load } from "./executor.js";

const READINGS = 101;
/** Decisions before the first reading, or milliseconds: compilers optimise what runs often. */
const WARM_UP = 200000;
const PATIENCE = 2000;
const ROUND = 1000;
/** A reading lasts so many steps of the page's clock, which is coarse: it is right within 2 %. */
const STEPS = 50;
const ROWS = 64;

const $ = (name) => document.querySelector(name);
const bytes = Uint8Array.from(atob($("#executor").textContent.trim()), (c) => c.charCodeAt(0));
const executor = await load(bytes);
const { agrees, rows, worst } = await executor.verify();
$("#golden").textContent = agrees
  ? `${rows} golden vectors agree, within ${worst.toExponential(0)}`
  : `golden vectors DIFFER by ${worst.toExponential(0)}`;
const size = bytes.length.toLocaleString("en");
$("#shape").textContent = `${executor.info.architecture}, ${size} bytes`;

/** Other numbers for each decision, so that no branch is foreseen better than in an episode. */
const seen = Array.from({ length: ROWS }, (_, row) =>
  Float32Array.from({ length: executor.info.obs }, (_, i) => Math.sin(1 + i + 7.3 * row)),
);

/** Milliseconds that so many decisions take. */
function reading(decisions) {
  const start = performance.now();
  for (let i = 0; i < decisions; i++) executor.act(seen[i % ROWS]);
  return performance.now() - start;
}

/** The least step of the page's clock, in milliseconds. */
function resolution() {
  const steps = Array.from({ length: 20 }, () => {
    const start = performance.now();
    let now = start;
    while (now === start) now = performance.now();
    return now - start;
  });
  return Math.min(...steps);
}

const step = resolution();
let warmed = 0;
for (const start = performance.now(); warmed < WARM_UP && performance.now() - start < PATIENCE; ) {
  reading(ROUND);
  warmed += ROUND;
}
let batch = 1;
const quickest = () => Math.min(reading(batch), reading(batch), reading(batch));
while (quickest() < STEPS * step) batch *= 2;
const found = [];
while (found.length < READINGS) {
  found.push((1000 * reading(batch)) / batch);
  // Lets the page draw.
  await new Promise((done) => setTimeout(done));
}
found.sort((a, b) => a - b);
const micro = (value) => `${value.toFixed(2)} µs`;
const [least, median] = [micro(found[0]), micro(found[READINGS >> 1])];
$("#least").textContent = least;
$("#median").textContent = median;
$("#how").textContent =
  `Of ${READINGS} means of ${batch.toLocaleString("en")} decisions each, after ` +
  `${warmed.toLocaleString("en")} to warm up; the page's clock steps by ${step.toFixed(3)} ms.`;
console.log(`median ${median}, least ${least}. ${$("footer").textContent}`);
