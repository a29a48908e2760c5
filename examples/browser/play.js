// Plays episodes without a page, for compare.py: the numbers that each draws come on stdin as JSON,
// what each came to leaves on stdout. argv: the executor's loader.
import { readFileSync } from "node:fs";
import { pathToFileURL } from "node:url";
import { Lander } from "./lander.js";

const { load } = await import(pathToFileURL(process.argv[2]));
const executor = await load();
const episodes = JSON.parse(readFileSync(0, "utf8")).map((drawn) => {
  const numbers = drawn.values();
  const lander = new Lander(() => numbers.next().value);
  executor.reset();
  while (!lander.ended) lander.tick(executor.act(lander.observation));
  return [lander.score, lander.ended, lander.ticks];
});
console.log(JSON.stringify(episodes));
