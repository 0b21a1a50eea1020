// What the server's list says of an adapter, in words.

export const BASE = "__base__"; // the model without an adapter

export const writes = (model) => model?.task_type === "CAUSAL_LM";

export function described({ id, task, task_type: type, labels }) {
  if (id === BASE) return "the model without an adapter";
  if (labels) return `${task}: ${labels.slice(0, 6).join(", ")}${labels.length > 6 ? ", …" : ""}`;
  return type === "SEQ_CLS" ? `${task}: a number` : task;
}

// Those that have every word in their name, task or labels, first those whose names begin with the first word.
export function matching(models, written) {
  const words = written.toLowerCase().split(/\s+/).filter(Boolean);
  if (!words.length) return models;
  const found = models.filter((model) => words.every((word) => searched(model).includes(word)));
  const begins = (model) => model.id.toLowerCase().startsWith(words[0]);
  return [...found.filter(begins), ...found.filter((model) => !begins(model))];
}

const searched = (model) => [model.id, model.task, ...(model.labels ?? [])].join(" ").toLowerCase();
