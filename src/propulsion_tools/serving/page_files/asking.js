// What adapters are asked, and what they answer, each in a place of its own.
import { writes } from "./adapters.js";
import { inWords, shown, verdict } from "./answers.js";
import { isAbort, json } from "./api.js";
import { byId, el } from "./dom.js";
import { row } from "./fields.js";
import { time } from "./words.js";
import { Paper } from "./writing.js";

let papers = [null, null];

export const say = (sentence) => (byId("said").textContent = sentence);

// How many turns the conversations have.
export const turns = () => papers.reduce((sum, paper) => sum + (paper?.turns.length ?? 0), 0);

export function forget() {
  papers = [null, null];
  byId("answers").replaceChildren();
}

// Ask one or two adapters the same, say what they answer, and give whether it has become a part of a conversation.
export async function ask(models, texts, wishes, { signal, onProblem }) {
  say("Waiting for the answer.");
  const sheets = models.map((model) => sheet(model, onProblem));
  byId("verdict").hidden = true;
  byId("answers").className = models.length > 1 ? "two" : "";
  byId("answers").replaceChildren(...sheets.map(({ node }) => node));
  const said = writes(models[0]) ? await write(models, texts[0], wishes, sheets, signal) : await predict(models, texts, sheets, signal);
  sayAll(said);
  return writes(models[0]) && wishes.mode === "chat" && models.some((_, number) => papers[number].last);
}

const sayAll = (said) => say(said.filter(Boolean).map((sentence) => sentence.replace(/[.\s]*$/, ".")).join(" "));

// A place for one adapter's answer.
function sheet(model, onProblem) {
  const [below, body] = [el("small", {}, "…"), el("div", { class: "body" })];
  const node = el("article", { class: "panel" }, el("h2", {}, model.id, " ", below), body);
  const failed = (error, place = body) => {
    below.textContent = isAbort(error) ? "stopped" : "";
    if (isAbort(error)) return `${model.id}: stopped`;
    place.append(el("p", { class: "problem" }, error.message));
    onProblem(error);
    return `${model.id}: ${error.message}`;
  };
  return { below, body, node, failed };
}

async function predict(models, texts, sheets, signal) {
  const ends = await Promise.allSettled(models.map((model) => predicted(model, texts, signal)));
  const answers = ends.map((end) => end.value?.prediction);
  const said = ends.map(({ value, reason }, number) => {
    if (reason) return sheets[number].failed(reason);
    sheets[number].below.textContent = value.took;
    sheets[number].body.replaceChildren(shown(value.prediction, texts, answers[0]));
    return `${models[number].id}: ${inWords(value.prediction)}`;
  });
  const together = answers.length === 2 && answers.every(Boolean) ? verdict(...answers) : "";
  byId("verdict").textContent = together;
  byId("verdict").hidden = !together;
  return [...said, together];
}

async function predicted(model, texts, signal) {
  const begun = performance.now();
  const { predictions } = await json("v1/predict", { adapter: model.id, inputs: [row(model, texts)] }, signal);
  return { prediction: predictions[0], took: time((performance.now() - begun) / 1000) };
}

async function write(models, prompt, wishes, sheets, signal) {
  return Promise.all(models.map(async (model, number) => {
    const paper = paperOf(model, number, wishes.mode);
    const { below, body, node, failed } = sheets[number];
    body.append(paper.node);
    try {
      below.textContent = await paper.write(model, prompt, wishes, signal);
      return `${model.id}: ${paper.last}`;
    } catch (error) {
      return failed(error, paper.node);
    } finally {
      node.classList.add("done");
    }
  }));
}

// The conversation of a place goes on as long as it has the same adapter and the same way to ask.
function paperOf(model, number, mode) {
  const last = papers[number];
  if (last?.name !== model.id || last.mode !== mode) papers[number] = new Paper(model.id, mode);
  return papers[number];
}
