// The numbers of /metrics, and what they say of the time between two of them.

const ANSWERS = new Set(["/v1/predict", "/v1/completions", "/v1/chat/completions"]);
const LINE = /^([a-z_]+)(?:\{(.*)\})? (\S+)$/;
const LABEL = /([a-z_]+)="((?:[^"\\]|\\.)*)"/g;

// One sample of what this page shows.
export function read(text) {
  const sample = { requests: 0, refused: 0, read: 0, written: 0, queue: 0, running: 0, adapters: 0, resident: 0, seconds: 0, within: new Map() };
  for (const line of text.split("\n")) {
    const found = LINE.exec(line);
    if (!found) continue;
    const labels = Object.fromEntries([...(found[2] ?? "").matchAll(LABEL)].map(([, name, value]) => [name, value]));
    if (!("route" in labels) || ANSWERS.has(labels.route)) add(sample, found[1], labels, Number(found[3]));
  }
  return sample;
}

function add(sample, name, labels, value) {
  if (name === "propulsion_requests_total") {
    sample.requests += value;
    if (Number(labels.status) >= 400) sample.refused += value;
  } else if (name === "propulsion_tokens_total") sample[labels.kind === "completion" ? "written" : "read"] += value;
  else if (name === "propulsion_request_seconds_sum") sample.seconds += value;
  else if (name === "propulsion_request_seconds_bucket") {
    const bound = Number(labels.le.replace("+Inf", "Infinity"));
    sample.within.set(bound, (sample.within.get(bound) ?? 0) + value);
  } else if (name in GAUGES) sample[GAUGES[name]] += value;
}

const GAUGES = {
  propulsion_queue_rows: "queue",
  propulsion_running_texts: "running",
  propulsion_adapters: "adapters",
  propulsion_resident_adapters: "resident",
};

// What happened between two samples that are some seconds apart.
export function between(before, after, seconds) {
  const more = (name) => after[name] - before[name];
  const requests = more("requests");
  return {
    requests: requests / seconds,
    refused: more("refused"),
    read: more("read") / seconds,
    written: more("written") / seconds,
    latency: requests > 0 ? more("seconds") / requests : null,
    slowest: requests > 0 ? bound(before.within, after.within, 0.99) : null,
  };
}

// The least bound that so many of the requests between two samples have kept.
function bound(before, after, share) {
  const bounds = [...after.keys()].sort((a, b) => a - b);
  const counts = bounds.map((one) => after.get(one) - (before.get(one) ?? 0));
  return bounds[counts.findIndex((some) => some >= share * counts.at(-1))];
}
