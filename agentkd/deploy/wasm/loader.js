@mark@
// For browsers and Node; it needs no other file than the .wasm. A page with a Content-Security-Policy
// allows it by script-src 'wasm-unsafe-eval'.
//
//   import { load } from "./@loader@";
//   const executor = await load();      // or load(address), load(bytes)
//   executor.reset();                   // an episode begins
//   const action = executor.act(obs);   // in the environment's units
//   const { agrees } = await executor.verify();

/**
 * Loads an executor. `source` is an address (URL or text) or bytes; by default the file that was
 * written beside this one.
 * @param {URL | string | ArrayBuffer | ArrayBufferView} [source]
 * @returns {Promise<Executor>}
 */
export async function load(source = new URL(@wasm@, import.meta.url)) {
  return instantiate(await WebAssembly.compile(await bytesOf(source)));
}

async function bytesOf(source) {
  if (source instanceof ArrayBuffer || ArrayBuffer.isView(source)) return source;
  const url = new URL(source, globalThis.location?.href ?? import.meta.url);
  if (url.protocol === "file:") {
    const { readFile } = await import("node:fs/promises");
    return readFile(url);
  }
  const response = await fetch(url);
  if (!response.ok) throw new Error(`${url} was answered with status ${response.status}.`);
  return response.arrayBuffer();
}

async function instantiate(module) {
  const [facts] = WebAssembly.Module.customSections(module, "agentkd.facts");
  if (!facts) throw new Error("This WebAssembly is not an executor written by agentkd.");
  const info = JSON.parse(new TextDecoder().decode(facts));
  return new Executor(module, await WebAssembly.instantiate(module), info);
}

/** Difference of two numbers, relative to their size or that of their range. */
function apart(got, wanted, span) {
  return Math.abs(got - wanted) / Math.max(1 + Math.abs(wanted), span);
}

/**
 * An executor with a memory of its own: one for each agent. `info` says what it is: the numbers of
 * an observation (`obs`), of the last layer (`out`) and of an action (`actions`), what an action is
 * (`action`: "choice", "choices" or "numbers"), `architecture`, and `memory`.
 */
class Executor {
  #module;
  #exports;
  #obs;
  #outputs;
  #action;

  constructor(module, instance, info) {
    const { memory, obs, outputs, action } = instance.exports;
    const Kind = info.action === "numbers" ? Float32Array : Int32Array;
    this.info = info;
    this.#module = module;
    this.#exports = instance.exports;
    this.#obs = new Float32Array(memory.buffer, obs(), info.obs);
    this.#outputs = new Float32Array(memory.buffer, outputs(), info.out);
    this.#action = new Kind(memory.buffer, action(), info.actions);
    this.reset();
  }

  /**
   * Decides for one observation, flat and as the environment gives it. Returns a number for one
   * choice, an Int32Array for several, and a Float32Array in the environment's units for numbers.
   * Throws a RangeError, and leaves the memory as it was, if the observation has another size or
   * holds NaN or infinity.
   */
  act(obs) {
    if (obs.length !== this.info.obs) {
      throw new RangeError(`The observation has ${obs.length} numbers, not ${this.info.obs}.`);
    }
    this.#obs.set(obs);
    if (this.#exports.step() !== 0) {
      throw new RangeError("@not_finite@");
    }
    return this.info.action === "choice" ? this.#action[0] : this.#action.slice();
  }

  /** The last layer's numbers of the last decision, a Float32Array. */
  get outputs() {
    return this.#outputs.slice();
  }

  /** Begins an episode: clears the memory. */
  reset() {
    this.#exports.reset();
  }

  /** The same executor with a memory of its own. */
  another() {
    return instantiate(this.#module);
  }

  /**
   * Decides for the observations that are in the file, and compares with what they gave where the
   * executor was made: within 1e-5 of NumPy, relative to 1 + |x|, and the same choices.
   * @returns {Promise<{agrees: boolean, rows: number, worst: number}>}
   */
  async verify() {
    const { obs, out, actions, rows, spans, action } = this.info;
    const [golden] = WebAssembly.Module.customSections(this.#module, "agentkd.golden");
    const numbers = new Float32Array(golden);
    const taken = action === "numbers" ? numbers : new Int32Array(golden);
    const probe = await this.another();
    let worst = 0;
    for (let row = 0; row < rows; row++) {
      const decided = probe.act(numbers.subarray(row * obs, (row + 1) * obs));
      const flat = action === "choice" ? [decided] : decided;
      const outputs = probe.outputs;
      for (let i = 0; i < out; i++) {
        const wanted = numbers[rows * obs + row * out + i];
        worst = Math.max(worst, apart(outputs[i], wanted, 0));
      }
      for (let i = 0; i < actions; i++) {
        const wanted = taken[rows * (obs + out) + row * actions + i];
        const same = flat[i] === wanted ? 0 : 1;
        worst = Math.max(worst, action === "numbers" ? apart(flat[i], wanted, spans[i]) : same);
      }
    }
    return { agrees: worst <= 1e-5, rows, worst };
  }
}
