// What the server's list says of an adapter, in words.

export const BASE = "__base__"; // the model without an adapter

export const writes = (model) => model?.task_type === "CAUSAL_LM";

export function described({ id, task, task_type: type, labels }) {
  if (id === BASE) return "the model without an adapter";
  if (labels) return `${task}: ${labels.slice(0, 6).join(", ")}${labels.length > 6 ? ", …" : ""}`;
  return type === "SEQ_CLS" ? `${task}: a number` : task;
}

// Those that have every word in their name, task or labels; first those whose names begin with the first word, then
// those that have all in their names.
export function matching(models, written) {
  const words = written.toLowerCase().split(/\s+/).filter(Boolean);
  if (!words.length) return models;
  const ranks = [[], [], []];
  for (const model of models) ranks[rank(model, words)]?.push(model);
  return ranks.flat();
}

function rank({ id, task, labels }, words) {
  const name = id.toLowerCase();
  if (words.every((word) => name.includes(word))) return name.startsWith(words[0]) ? 0 : 1;
  const all = [name, task, ...(labels ?? [])].join(" ").toLowerCase();
  return words.every((word) => all.includes(word)) ? 2 : -1;
}
