// The page: a clock, a drawing, and who acts.
import { load } from "./executor.js";
import { FPS, HEIGHT, Lander, PAD, WIDTH, seeded } from "./lander.js";

const $ = (name) => document.querySelector(name);
const PERIOD = 1000 / FPS;
const BATCH = 2000;
const KEYS = { ArrowLeft: 1, ArrowUp: 2, ArrowRight: 3, ArrowDown: 0 };
/** Milliseconds for which the end of an episode is shown. */
const REST = 1500;

const bytes = Uint8Array.from(atob($("#executor").textContent.trim()), (c) => c.charCodeAt(0));
const executor = await load(bytes);
const timed = await executor.another();
const { agrees, rows, worst } = await executor.verify();
$("#golden").textContent = agrees
  ? `${rows} golden vectors agree here, within ${worst.toExponential(0)}`
  : `golden vectors DIFFER here by ${worst.toExponential(0)}`;
const size = bytes.length.toLocaleString("en");
$("#shape").textContent = `${executor.info.architecture}, ${size} bytes`;

const held = new Set();
const times = [];
let counts;
let seed = 0;
let lander;
let running = !matchMedia("(prefers-reduced-motion: reduce)").matches;
let due = performance.now();
let timing = 0;
let ended = 0;

function begin() {
  const wind = Number($("#wind").value);
  // The original's defaults, 15 and 1.5, have this ratio.
  const world = { gravity: -Number($("#gravity").value), wind, turbulence: wind / 10 };
  lander = new Lander(seeded(seed++), world);
  executor.reset();
}

function change() {
  counts = { landed: 0, crashed: 0, lost: 0 };
  begin();
}

function tick(now) {
  if (lander.ended) {
    if (now - ended > REST) begin();
    return;
  }
  const decided = executor.act(lander.observation);
  lander.tick(held.size ? KEYS[[...held].at(-1)] : decided);
  if (!lander.ended) return;
  ended = now;
  counts[lander.ended in counts ? lander.ended : "lost"] += 1;
}

/** Decisions are shorter than what a page's clock can tell: many are timed at once. */
function time() {
  const start = performance.now();
  for (let i = 0; i < BATCH; i++) timed.act(lander.observation);
  if (times.push(((performance.now() - start) / BATCH) * 1000) > 15) times.shift();
  const middle = times.toSorted((a, b) => a - b)[times.length >> 1];
  $("#decision").textContent = `${middle.toFixed(1)} µs`;
}

function draw() {
  const canvas = $("canvas");
  const pixels = Math.round(canvas.clientWidth * devicePixelRatio);
  if (canvas.width !== pixels) {
    canvas.width = pixels;
    canvas.height = (pixels * HEIGHT) / WIDTH;
  }
  const style = getComputedStyle(document.documentElement);
  const colour = (name) => style.getPropertyValue(`--${name}`).trim();
  const unit = pixels / WIDTH;
  const pen = canvas.getContext("2d");
  const shape = (points, fill) => {
    pen.fillStyle = fill;
    pen.beginPath();
    for (const { x, y } of points) pen.lineTo(x, y);
    pen.fill();
  };
  pen.setTransform(unit, 0, 0, -unit, 0, canvas.height);
  pen.clearRect(0, 0, WIDTH, HEIGHT);
  shape([{ x: 0, y: 0 }, ...lander.terrain, { x: WIDTH, y: 0 }], colour("line"));
  for (const x of PAD.slice(0, 2)) {
    const [low, top, right] = [PAD[2], PAD[2] + 1.5, x + 0.06];
    const pole = [{ x, y: low }, { x, y: top }, { x: right, y: top }, { x: right, y: low }];
    shape(pole, colour("dim"));
    shape([{ x, y: top }, { x: x + 0.8, y: top - 0.25 }, { x, y: top - 0.5 }], colour("dim"));
  }
  const flames = colour(held.size ? "you" : "executor");
  const on = (body, points) => points.map(([x, y]) => body.getWorldPoint({ x, y }));
  if (!lander.ended) {
    const { hull, main, side } = lander;
    if (main) shape(on(hull, [[-0.2, -0.33], [0, -0.4 - main], [0.2, -0.33]]), flames);
    const at = -Math.sign(side) * 0.55;
    shape(on(hull, [[at, 0.3], [at - side * 0.6, 0.4], [at, 0.5]]), flames);
  }
  for (const body of [...lander.legs, lander.hull]) {
    const { m_vertices: corners } = body.getFixtureList().getShape();
    shape(corners.map((each) => body.getWorldPoint(each)), colour("ink"));
  }
}

function show() {
  $("#acts").textContent = held.size ? "you" : "the executor";
  $("#acts").className = held.size ? "you" : "executor";
  const score = Math.round(lander.score);
  $("#score").textContent = lander.ended ? `${score}, ${lander.ended}` : String(score);
  for (const name of Object.keys(counts)) $(`#${name}`).textContent = counts[name];
}

function frame(now) {
  if (running) {
    // Ticks that a hidden page missed are skipped: there is no burst to catch up.
    if (now - due > 50 * PERIOD) due = now;
    for (; due <= now; due += PERIOD) tick(now);
    if (now - timing > 1000) {
      timing = now;
      time();
    }
  } else {
    due = now;
  }
  draw();
  show();
  requestAnimationFrame(frame);
}

function pause(still) {
  running = !still;
  $("#pause").textContent = still ? "Go on (P)" : "Pause (P)";
}

for (const each of document.querySelectorAll("input")) {
  each.addEventListener("input", () => {
    each.nextElementSibling.textContent = each.value;
    change();
  });
}
const actions = {
  restart: begin,
  push: () => lander.hull.applyLinearImpulse({ x: 15, y: 0 }, lander.hull.getPosition(), true),
  pause: () => pause(running),
};
for (const name of Object.keys(actions)) {
  $(`#${name}`).addEventListener("click", actions[name]);
}
addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("input")) return;
  const button = $(`[aria-keyshortcuts="${CSS.escape(event.key.toLowerCase())}"]`);
  if (button && !event.repeat) button.click();
  if (!(event.key in KEYS)) return;
  event.preventDefault();
  held.add(event.key);
});
addEventListener("keyup", (event) => held.delete(event.key));
addEventListener("blur", () => held.clear());
change();
pause(!running);
requestAnimationFrame(frame);
