// Predictions as people read them: bars, a number, coloured words, a place in a text.
import { count, el } from "./dom.js";

const SHOWN = 8;
const COLOURS = 6;

// What a prediction looks like; `first` is that of the adapter beside, whose order the bars follow.
export function shown(prediction, values, first) {
  if (prediction.scores) return bars(prediction, first?.scores ?? prediction.scores);
  if (prediction.tags) return words(prediction);
  if ("answer" in prediction) return place(prediction, values.at(-1));
  if ("score" in prediction) return el("p", { class: "number" }, number(prediction.score));
  return el("pre", {}, JSON.stringify(prediction, null, 2));
}

// The same in a few words, for those who hear it, and to tell two answers apart.
export function inWords(prediction) {
  if (prediction.scores) return `${prediction.label}, ${percent(prediction.scores[prediction.label])}`;
  if (prediction.tags) return list(prediction.entities.map((entity) => `${entity.text} (${entity.type})`)) || "nothing was found";
  if ("answer" in prediction) return prediction.answer || "no answer";
  return "score" in prediction ? number(prediction.score) : JSON.stringify(prediction);
}

// What two adapters say together, where that can be said in a sentence.
export function verdict(one, other) {
  if (!one.scores || !other.scores) return "";
  return one.label === other.label ? `Both say ${one.label}.` : `They differ: ${one.label} against ${other.label}.`;
}

export const percent = (share) => (share > 0 && share < 0.001 ? "< 0.1 %" : `${(100 * share).toFixed(1)} %`);
const number = (value) => value.toLocaleString("en", { maximumSignificantDigits: 4 });
const list = (texts) => texts.slice(0, 10).join(", ") + (texts.length > 10 ? `, and ${texts.length - 10} more` : "");

function bars(prediction, order) {
  const names = Object.keys(prediction.scores).sort((a, b) => (order[b] ?? 0) - (order[a] ?? 0) || prediction.scores[b] - prediction.scores[a]);
  const rows = names.map((name) => bar(name, prediction.scores[name], name === prediction.label));
  const table = (some) => el("ul", { class: "bars" }, ...some);
  const best = names.indexOf(prediction.label);
  const first = rows.filter((_, row) => row < SHOWN || row === best);
  const rest = rows.filter((row) => !first.includes(row));
  if (!rest.length) return table(rows);
  return el("div", {}, table(first), el("details", {}, el("summary", {}, `${count(rest.length, "more label")}`), table(rest)));
}

function bar(name, share, isBest) {
  const filled = el("span", { class: "filled" });
  filled.style.width = `${100 * share}%`;
  return el("li", { class: isBest ? "best" : null }, el("span", { class: "name" }, name), el("span", { class: "share" }, percent(share)), el("span", { class: "bar", "aria-hidden": "true" }, filled));
}

function words({ tokens, tags, entities }) {
  const marks = tags.every((tag) => tag === "O" || /^[BIESLU]-/.test(tag)) ? entities : eachWord(tokens, tags);
  const types = [...new Set(marks.map((mark) => mark.type))].sort();
  const nodes = [];
  let next = 0;
  for (const mark of [...marks].sort((a, b) => a.start - b.start)) {
    if (mark.start < next) continue;
    nodes.push(spaced(tokens.slice(next, mark.start)), marked(mark, types));
    next = mark.end;
  }
  nodes.push(spaced(tokens.slice(next)));
  const said = marks.length ? null : el("p", { class: "faint" }, "Nothing was found in this text.");
  return el("div", {}, el("p", { class: "words" }, ...nodes), said);
}

// Tags that open and end nothing, of parts of speech for example.
const eachWord = (tokens, tags) => tags.map((type, start) => ({ type, text: tokens[start], start, end: start + 1 })).filter((mark) => mark.type !== "O");

function marked(mark, types) {
  const kind = `kind-${types.indexOf(mark.type) % COLOURS}`;
  return el("mark", { class: kind }, glued(mark.text.split(" ")), el("small", {}, mark.type));
}

const spaced = (tokens) => ` ${glued(tokens)} `;

// Words with blanks between them, and none before a mark that ends something.
const glued = (tokens) => tokens.join(" ").replace(/ ([.,;:!?)\]%])(?= |$)/g, "$1").replace(/([([]) /g, "$1");

function place(prediction, context) {
  const letters = Array.from(context); // the server counts characters, and a string here halves of some
  const [before, found, after] = [[0, prediction.start], [prediction.start, prediction.end], [prediction.end]].map((ends) => letters.slice(...ends).join(""));
  const numbers = [`score ${number(prediction.score)}`];
  if ("no_answer_score" in prediction) numbers.push(`no answer ${number(prediction.no_answer_score)}`);
  const answer = el("p", { class: prediction.answer ? "answer" : "answer none" }, prediction.answer || "There is no answer in this text.");
  const text = el("p", { class: "words" }, before, found ? el("mark", { class: "kind-0" }, found) : null, after);
  return el("div", {}, answer, el("p", { class: "faint" }, numbers.join(", ")), text);
}
