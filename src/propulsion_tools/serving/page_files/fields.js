// What an adapter reads: the fields of its rows, and the row that goes to the server.
import { writes } from "./adapters.js";
import { byId, el } from "./dom.js";

const SECOND = "second text, if it reads pairs";

function columns(model, mode) {
  if (writes(model)) return [mode === "chat" ? "message" : "text to continue"];
  if (model.task_type === "TOKEN_CLS") return ["text"];
  return model.columns ?? ["text", SECOND];
}

// Fields for the columns of some adapters, by their places; what was written stays.
export function drawFields(models, mode) {
  const wanted = models.map((model) => columns(model, mode)).sort((one, other) => other.length - one.length)[0] ?? [];
  const before = values();
  const place = byId("fields");
  if (JSON.stringify(wanted) === place.dataset.columns) return;
  place.dataset.columns = JSON.stringify(wanted);
  place.replaceChildren(...wanted.map((name, number) => field(name, number, models[0], before[number] ?? "")));
}

function field(name, number, model, value) {
  const input = el("textarea", { id: `field-${number}`, rows: rows(name, model), required: name !== SECOND, spellcheck: "false" });
  input.value = value;
  return el("div", {}, el("label", { for: input.id }, name), input);
}

function rows(name, model) {
  if (name === "context") return 5;
  return model.columns?.length === 2 || name === SECOND ? 2 : 3;
}

export function values() {
  return [...byId("fields").querySelectorAll("textarea")].map((input) => input.value);
}

// A row of an adapter; one that reads fewer texts than there are reads the first.
export function row(model, texts) {
  if (model.task_type === "TOKEN_CLS") return texts[0];
  if (model.columns) return Object.fromEntries(model.columns.map((name, number) => [name, texts[number] ?? ""]));
  return texts[1] ? { sentence1: texts[0], sentence2: texts[1] } : texts[0];
}
