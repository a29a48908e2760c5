// The world of envs/changing.py, agentkd/ChangingPendulum-v0: Gymnasium's Pendulum-v1 whose motor's
// gain, length and mass can be changed. tests/test_deploy_page.py compares it step by step with the
// Python one.

const GRAVITY = 10;
const TORQUE = 2;
const FASTEST = 8;

/** Seconds between two ticks. */
export const PERIOD = 0.05;

const clip = (x, most) => Math.min(Math.max(x, -most), most);

export class World {
  /** The numbers of the world; the executor observes them. */
  gain = 1;
  length = 1;
  mass = 1;
  /** Radians from upright, and radians a second. */
  angle = Math.PI;
  velocity = 0;

  /** What the executor sees: cosine, sine, velocity, and the numbers of the world. */
  observe() {
    const { angle, velocity, gain, length, mass } = this;
    return [Math.cos(angle), Math.sin(angle), velocity, gain, length, mass];
  }

  /** Radians from upright, between -pi and pi. */
  tilt() {
    const turn = 2 * Math.PI;
    return ((((this.angle + Math.PI) % turn) + turn) % turn) - Math.PI;
  }

  /** Does one tick with a torque in Nm; returns the reward. */
  step(torque) {
    const limit = TORQUE * Math.abs(this.gain);
    const moved = clip(clip(torque, TORQUE) * this.gain, limit);
    const cost = this.tilt() ** 2 + 0.1 * this.velocity ** 2 + 0.001 * moved ** 2;
    const pull = ((3 * GRAVITY) / (2 * this.length)) * Math.sin(this.angle);
    const push = (3 / (this.mass * this.length ** 2)) * moved;
    this.velocity = clip(this.velocity + (pull + push) * PERIOD, FASTEST);
    this.angle += this.velocity * PERIOD;
    return -cost;
  }
}
