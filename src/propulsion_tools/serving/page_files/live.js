// What the server does right now, and which adapters are on its device.
import { BASE, matching } from "./adapters.js";
import { text } from "./api.js";
import { byId, el, svg } from "./dom.js";
import { between, read } from "./metrics.js";
import { count, grouped, rate, time } from "./words.js";

const EVERY = 2000;
const [RATE, LATENCY, DRAWN] = [5, 30, 60]; // samples
const SHOWN = 100;
const PLACES = [[true, "On the device"], [false, "Waiting in memory or on disk"], [null, "Where replicas need them"]];

export class Live {
  constructor({ onSample, onProblem, onChoice }) {
    Object.assign(this, { onSample, onProblem, onChoice });
    this.samples = [];
    this.models = [];
    byId("search").addEventListener("input", () => this.list());
    this.runs = false;
    document.addEventListener("visibilitychange", () => this.runs && !document.hidden && this.poll());
  }

  start() {
    this.runs = true;
    this.poll();
  }

  stop() {
    this.runs = false;
  }

  // While nobody looks, nothing is asked.
  async poll() {
    clearTimeout(this.timer);
    try {
      const sample = { ...read(await text("metrics")), at: performance.now() / 1000 };
      this.take(sample);
      this.onSample(sample);
    } catch (error) {
      this.onProblem(error);
    }
    clearTimeout(this.timer);
    if (!document.hidden && this.runs) this.timer = setTimeout(() => this.poll(), EVERY);
  }

  take(sample) {
    if (this.samples.at(-1)?.requests > sample.requests) this.samples = []; // the server has begun anew
    this.samples = [...this.samples.slice(-DRAWN), sample];
    byId("tiles").replaceChildren(...this.tiles(sample));
  }

  tiles(sample) {
    const [recent, longer] = [this.since(RATE), this.since(LATENCY)];
    const busy = sample.running ? `, ${grouped(sample.running)} being written` : "";
    return [
      tile("Requests a second", rate(recent?.requests), `${grouped(sample.requests)} in all, ${grouped(sample.refused)} refused`, this.line("requests")),
      tile("Tokens a second", rate(recent && recent.read + recent.written), recent ? `${rate(recent.read)} read, ${rate(recent.written)} written` : "", this.line("read", "written")),
      tile("Time of an answer", time(longer?.latency), longer?.slowest ? `99 % within ${time(longer.slowest)}` : "nothing was asked in the last minute"),
      tile("Waiting", grouped(sample.queue), `${sample.queue === 1 ? "row" : "rows"} for the model${busy}`),
    ];
  }

  since(samples) {
    const [before, after] = [this.samples.at(-1 - samples) ?? this.samples[0], this.samples.at(-1)];
    return before === after ? null : between(before, after, after.at - before.at);
  }

  line(...names) {
    const pairs = this.samples.slice(1).map((after, number) => between(this.samples[number], after, after.at - this.samples[number].at));
    return spark(pairs.map((pair) => names.reduce((sum, name) => sum + pair[name], 0)));
  }

  show(models) {
    this.models = models.filter((model) => model.id !== BASE);
    this.list();
    places(this.models);
  }

  list() {
    const found = matching(this.models, byId("search").value);
    const groups = PLACES.map(([place, title]) => [title, found.filter((model) => model.resident === place)]);
    let room = SHOWN;
    const nodes = [];
    for (const [title, models] of groups.filter(([, some]) => some.length)) {
      const shown = models.slice(0, room);
      room -= shown.length;
      const more = models.length - shown.length;
      nodes.push(el("h3", {}, title, " ", el("small", {}, grouped(models.length))), el("ul", {}, ...shown.map((model) => this.entry(model))));
      if (more) nodes.push(el("p", { class: "faint" }, `and ${grouped(more)} more`));
    }
    if (!nodes.length) nodes.push(el("p", { class: "faint" }, this.models.length ? "None contains this." : "There is none yet."));
    redraw(byId("adapters"), nodes);
  }

  entry(model) {
    return el("li", {}, el("button", { type: "button", class: model.resident ? "here" : "away", click: () => this.onChoice(model.id) }, model.id));
  }
}

// New content where people may be reading: what had the focus has it again, at the same height.
function redraw(place, nodes) {
  const [height, focused] = [place.scrollTop, place.contains(document.activeElement) ? document.activeElement.textContent : null];
  place.replaceChildren(...nodes);
  place.scrollTop = height;
  if (focused !== null) [...place.querySelectorAll("button")].find((button) => button.textContent === focused)?.focus({ preventScroll: true });
}

function places(adapters) {
  const known = adapters.filter((model) => model.resident !== null).length;
  const resident = adapters.filter((model) => model.resident).length;
  byId("places").textContent = known ? `${grouped(resident)} of ${count(adapters.length, "adapter")} on the device` : count(adapters.length, "adapter");
  byId("share").hidden = !known;
  byId("share").firstElementChild.style.width = `${adapters.length ? (100 * resident) / adapters.length : 0}%`;
}

function tile(name, value, below, drawn = null) {
  return el("div", {}, el("dt", {}, name), el("dd", {}, el("b", {}, value), drawn, el("small", {}, below)));
}

function spark(values) {
  const top = Math.max(...values, 1e-9);
  const points = values.map((value, number) => `${100 - (100 / DRAWN) * (values.length - 1 - number)},${23 - (21 * value) / top}`);
  const line = svg("polyline", { points: points.join(" "), "vector-effect": "non-scaling-stroke" });
  return svg("svg", { viewBox: "0 0 100 24", preserveAspectRatio: "none", "aria-hidden": "true" }, line);
}
