// Gymnasium's LunarLander-v3 (gymnasium/envs/box2d/lunar_lander.py, MIT) on planck.js (MIT), a port
// of Box2D. Names and numbers are the original's. tests/test_deploy_page.py compares the two tick
// by tick, compare.py what an executor reaches in both.
import * as planck from "planck";

/** Ticks a second. */
export const FPS = 50;
/** Metres that are shown. */
export const WIDTH = 600 / 30;
export const HEIGHT = 400 / 30;
/** Where the pad lies: from, to, height. */
export const PAD = [0.4 * WIDTH, 0.6 * WIDTH, HEIGHT / 4];

const LIMIT = 1000;
const SCALE = 30;
const MAIN_ENGINE_POWER = 13;
const SIDE_ENGINE_POWER = 0.6;
const INITIAL_RANDOM = 1000;
const LANDER_POLY = [[-14, 17], [-17, 0], [-17, -10], [17, -10], [17, 0], [14, 17]];
const LEG_AWAY = 20;
const LEG_DOWN = 18;
const LEG_W = 2;
const LEG_H = 8;
const LEG_SPRING_TORQUE = 40;
const SIDE_ENGINE_HEIGHT = 14;
const SIDE_ENGINE_AWAY = 12;
const MAIN_ENGINE_Y_LOCATION = 4;
const CHUNKS = 11;
const WIND_INDEX = 9999;

const { Vec2 } = planck;

/** Numbers from 0 to 1 that a seed decides: mulberry32. */
export function seeded(seed) {
  let state = seed | 0;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** One episode. `random` gives numbers from 0 to 1, which are used in the original's order. */
export class Lander {
  /** The most that wind and turbulence do, in N and Nm. */
  wind;
  turbulence;
  /** What the last tick left. `ended` is "", "landed", "crashed", "away" or "late". */
  observation = [];
  reward = 0;
  score = 0;
  ticks = 0;
  ended = "";
  /** Throttles of the last tick: the main engine's, and the side engines', left below 0. */
  main = 0;
  side = 0;
  /** Whether each leg touches the ground. */
  touching = [false, false];

  #random;
  #shaping = null;
  #hit = false;
  #windIndex;
  #torqueIndex;

  constructor(random, { gravity = -10, wind = 0, turbulence = 0 } = {}) {
    Object.assign(this, { wind, turbulence });
    this.#random = random;
    this.world = new planck.World({ gravity: Vec2(0, gravity) });
    this.world.on("begin-contact", (contact) => this.#touch(contact, true));
    this.world.on("end-contact", (contact) => this.#touch(contact, false));
    this.terrain = this.#terrain();
    const moon = this.world.createBody();
    moon.createFixture(new planck.Edge(Vec2(0, 0), Vec2(WIDTH, 0)));
    for (let i = 1; i < CHUNKS; i++) {
      moon.createFixture(new planck.Edge(this.terrain[i - 1], this.terrain[i]), { friction: 0.1 });
    }
    this.hull = this.world.createDynamicBody({ position: Vec2(WIDTH / 2, HEIGHT) });
    const corners = LANDER_POLY.map(([x, y]) => Vec2(x / SCALE, y / SCALE));
    this.hull.createFixture(new planck.Polygon(corners), {
      density: 5,
      friction: 0.1,
      filterCategoryBits: 0x10,
      filterMaskBits: 0x1,
    });
    const force = Vec2(this.#uniform(INITIAL_RANDOM), this.#uniform(INITIAL_RANDOM));
    this.hull.applyForceToCenter(force, true);
    // The original draws these two only if there is wind; here it may rise later.
    this.#windIndex = Math.floor(random() * 2 * WIND_INDEX) - WIND_INDEX;
    this.#torqueIndex = Math.floor(random() * 2 * WIND_INDEX) - WIND_INDEX;
    this.legs = [-1, 1].map((side) => this.#leg(side));
    this.tick(0);
    this.score = this.ticks = 0;
  }

  /**
   * Does one tick. `action` is 0 (nothing), 1 (left engine), 2 (main engine) or 3 (right engine),
   * or the two numbers that the continuous variant takes.
   */
  tick(action) {
    const { hull } = this;
    if (!this.touching.includes(true)) {
      if (this.wind) hull.applyForceToCenter(Vec2(gust(this.#windIndex++) * this.wind, 0), true);
      if (this.turbulence) hull.applyTorque(gust(this.#torqueIndex++) * this.turbulence, true);
    }
    [this.main, this.side] = throttles(action);
    const [sin, cos] = [Math.sin(hull.getAngle()), Math.cos(hull.getAngle())];
    const dispersion = [this.#uniform(1) / SCALE, this.#uniform(1) / SCALE];
    const { x, y } = hull.getPosition();
    const push = (ox, oy, power, at) =>
      hull.applyLinearImpulse(Vec2(-ox * power, -oy * power), at, true);
    if (this.main) {
      const down = MAIN_ENGINE_Y_LOCATION / SCALE + 2 * dispersion[0];
      const ox = sin * down - cos * dispersion[1];
      const oy = -cos * down - sin * dispersion[1];
      push(ox, oy, MAIN_ENGINE_POWER * this.main, Vec2(x + ox, y + oy));
    }
    if (this.side) {
      const away = 3 * dispersion[1] + (Math.sign(this.side) * SIDE_ENGINE_AWAY) / SCALE;
      const ox = sin * dispersion[0] - cos * away;
      const oy = -cos * dispersion[0] - sin * away;
      // The original has 17 where it seems to mean SIDE_ENGINE_HEIGHT.
      const at = Vec2(x + ox - (sin * 17) / SCALE, y + oy + (cos * SIDE_ENGINE_HEIGHT) / SCALE);
      push(ox, oy, SIDE_ENGINE_POWER * Math.abs(this.side), at);
    }
    this.world.step(1 / FPS, 6 * 30, 2 * 30);
    this.#judge();
  }

  #uniform(most) {
    return (2 * this.#random() - 1) * most;
  }

  #terrain() {
    const height = Array.from({ length: CHUNKS + 1 }, () => (this.#random() * HEIGHT) / 2);
    height.fill(PAD[2], 3, 8);
    return Array.from({ length: CHUNKS }, (_, i) => {
      const around = height.at(i - 1) + height[i] + height[i + 1];
      return Vec2((WIDTH / (CHUNKS - 1)) * i, 0.33 * around);
    });
  }

  #leg(side) {
    const leg = this.world.createDynamicBody({
      position: Vec2(WIDTH / 2 - (side * LEG_AWAY) / SCALE, HEIGHT),
      angle: side * 0.05,
    });
    leg.createFixture(new planck.Box(LEG_W / SCALE, LEG_H / SCALE), {
      density: 1,
      filterCategoryBits: 0x20,
      filterMaskBits: 0x1,
    });
    const joint = {
      localAnchorA: Vec2(0, 0),
      localAnchorB: Vec2((side * LEG_AWAY) / SCALE, LEG_DOWN / SCALE),
      enableMotor: true,
      enableLimit: true,
      maxMotorTorque: LEG_SPRING_TORQUE,
      motorSpeed: 0.3 * side,
      lowerAngle: side < 0 ? 0.9 - 0.5 : -0.9,
      upperAngle: side < 0 ? 0.9 : -0.9 + 0.5,
    };
    this.world.createJoint(new planck.RevoluteJoint(joint, this.hull, leg));
    return leg;
  }

  #touch(contact, begins) {
    const bodies = [contact.getFixtureA().getBody(), contact.getFixtureB().getBody()];
    if (begins && bodies.includes(this.hull)) this.#hit = true;
    this.legs.forEach((leg, i) => {
      if (bodies.includes(leg)) this.touching[i] = begins;
    });
  }

  #judge() {
    const { hull } = this;
    const { x, y } = hull.getPosition();
    const velocity = hull.getLinearVelocity();
    const state = [
      (x - WIDTH / 2) / (WIDTH / 2),
      (y - (PAD[2] + LEG_DOWN / SCALE)) / (HEIGHT / 2),
      (velocity.x * (WIDTH / 2)) / FPS,
      (velocity.y * (HEIGHT / 2)) / FPS,
      hull.getAngle(),
      (20 * hull.getAngularVelocity()) / FPS,
      ...this.touching.map(Number),
    ];
    const shaping =
      -100 * Math.hypot(state[0], state[1]) -
      100 * Math.hypot(state[2], state[3]) -
      100 * Math.abs(state[4]) +
      10 * (state[6] + state[7]);
    this.reward = shaping - (this.#shaping ?? shaping);
    this.reward -= 0.3 * this.main + 0.03 * Math.abs(this.side);
    this.#shaping = shaping;
    this.ticks += 1;
    if (this.ticks >= LIMIT) this.ended = "late";
    if (Math.abs(state[0]) >= 1) [this.ended, this.reward] = ["away", -100];
    if (this.#hit) [this.ended, this.reward] = ["crashed", -100];
    if (!hull.isAwake()) [this.ended, this.reward] = ["landed", 100];
    this.score += this.reward;
    this.observation = state;
  }
}

/** How strong wind or turbulence is at a tick, from -1 to 1. */
function gust(index) {
  return Math.tanh(Math.sin(0.02 * index) + Math.sin(Math.PI * 0.01 * index));
}

/** The main engine's throttle, 0 to 1, and the side engines', -1 to 1. */
function throttles(action) {
  if (typeof action === "number") return [Number(action === 2), action % 2 ? action - 2 : 0];
  const [main, side] = Array.from(action, (each) => Math.min(Math.max(each, -1), 1));
  return [main > 0 ? (main + 1) / 2 : 0, Math.abs(side) > 0.5 ? side : 0];
}
