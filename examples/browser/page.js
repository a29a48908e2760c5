// The page: a clock, a drawing, and who acts.
import { load } from "./executor.js";
import { PERIOD, World } from "./world.js";

const $ = (name) => document.querySelector(name);
const UPRIGHT = 0.25;
const BATCH = 1000;

const bytes = Uint8Array.from(atob($("#executor").textContent.trim()), (c) => c.charCodeAt(0));
const executor = await load(bytes);
const timed = await executor.another();
const { agrees, rows, worst } = await executor.verify();
$("#golden").textContent = agrees
  ? `${rows} golden vectors agree here, within ${worst.toExponential(0)}`
  : `golden vectors DIFFER here by ${worst.toExponential(0)}`;
$("#shape").textContent = `${executor.info.architecture}, ${bytes.length.toLocaleString("en")} bytes`;

const world = new World();
let acts = "executor";
let yours = 0;
let torque = 0;
let upright = 0;
let running = !matchMedia("(prefers-reduced-motion: reduce)").matches;
let due = performance.now();
let timing = 0;

function tick() {
  torque = acts === "executor" ? executor.act(world.observe())[0] : acts === "you" ? yours : 0;
  world.step(torque);
  upright = Math.abs(world.tilt()) < UPRIGHT ? upright + 1 : 0;
}

/** Decisions are shorter than what a page's clock can tell: many are timed at once. */
function time() {
  const seen = world.observe();
  const start = performance.now();
  for (let i = 0; i < BATCH; i++) timed.act(seen);
  const micro = ((performance.now() - start) / BATCH) * 1000;
  $("#decision").textContent = `${micro.toFixed(2)} µs`;
}

function draw(ahead) {
  const canvas = $("canvas");
  const size = canvas.clientWidth;
  const pixels = Math.round(size * devicePixelRatio);
  if (canvas.width !== pixels) canvas.width = canvas.height = pixels;
  const style = getComputedStyle(document.documentElement);
  const colour = (name) => style.getPropertyValue(`--${name}`).trim();
  const pen = canvas.getContext("2d");
  const unit = pixels / 3.4;
  pen.setTransform(unit, 0, 0, unit, pixels / 2, pixels / 2);
  pen.clearRect(-2, -2, 4, 4);
  pen.lineCap = "round";
  const angle = world.angle + world.velocity * ahead;
  const x = Math.sin(angle) * world.length;
  const y = -Math.cos(angle) * world.length;
  pen.strokeStyle = colour("line");
  pen.lineWidth = 0.02;
  pen.beginPath();
  pen.arc(0, 0, world.length, 0, 2 * Math.PI);
  pen.stroke();
  pen.strokeStyle = pen.fillStyle = colour(acts);
  pen.lineWidth = 0.09 * Math.sqrt(world.mass);
  pen.beginPath();
  pen.moveTo(0, 0);
  pen.lineTo(x, y);
  pen.stroke();
  const turn = -Math.PI / 2;
  const span = (torque * world.gain) / 2;
  pen.lineWidth = 0.05;
  pen.beginPath();
  pen.arc(0, 0, 0.25, turn, turn + span, span < 0);
  pen.stroke();
  pen.fillStyle = colour("ink");
  pen.beginPath();
  pen.arc(0, 0, 0.05, 0, 2 * Math.PI);
  pen.fill();
}

function show() {
  const names = { executor: "the executor", you: "you", nobody: "nobody" };
  $("#acts").textContent = names[acts];
  $("#acts").className = acts;
  $("#torque").textContent = `${torque.toFixed(2)} Nm`;
  $("#upright").textContent = upright ? `for ${(upright * PERIOD).toFixed(1)} s` : "no";
  $("#upright").dataset.ticks = upright;
}

function frame(now) {
  if (running) {
    // Ticks that a hidden page missed are skipped: there is no burst to catch up.
    if (now - due > 5000 * PERIOD) due = now;
    for (; due <= now; due += 1000 * PERIOD) tick();
    if (now - timing > 1000) {
      timing = now;
      time();
    }
  } else {
    due = now + 1000 * PERIOD;
  }
  draw(running ? PERIOD - (due - now) / 1000 : 0);
  show();
  requestAnimationFrame(frame);
}

function choose(who) {
  acts = who;
  for (const each of document.querySelectorAll("[data-acts]")) {
    each.setAttribute("aria-pressed", String(each.dataset.acts === who));
  }
}

for (const each of document.querySelectorAll("[data-acts]")) {
  each.addEventListener("click", () => choose(each.dataset.acts));
}
for (const each of document.querySelectorAll("input[data-world]")) {
  each.addEventListener("input", () => {
    world[each.dataset.world] = Number(each.value);
    $(`#${each.dataset.world}`).textContent = Number(each.value).toFixed(1);
  });
}
const pause = () => {
  $("#pause").textContent = running ? "Pause" : "Go on";
};
$("#pause").addEventListener("click", () => {
  running = !running;
  pause();
});
$("#push").addEventListener("click", () => {
  world.velocity += world.velocity < 0 ? -4 : 4;
});
const steer = (event) => {
  const box = $("canvas").getBoundingClientRect();
  yours = (4 * (event.clientX - box.left)) / box.width - 2;
  choose("you");
};
$("canvas").addEventListener("pointerdown", (event) => {
  $("canvas").setPointerCapture(event.pointerId);
  steer(event);
});
$("canvas").addEventListener("pointermove", (event) => event.buttons && steer(event));
for (const name of ["pointerup", "pointercancel"]) {
  $("canvas").addEventListener(name, () => {
    yours = 0;
    choose("executor");
  });
}
addEventListener("keydown", (event) => {
  const sides = { ArrowLeft: -2, ArrowRight: 2 };
  if (!(event.key in sides) || event.target.matches("input")) return;
  yours = sides[event.key];
  choose("you");
});
addEventListener("keyup", (event) => {
  if (event.key.startsWith("Arrow") && acts === "you") {
    yours = 0;
    choose("executor");
  }
});
pause();
requestAnimationFrame(frame);
