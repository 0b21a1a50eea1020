// Predictions as people read them: bars, a number, coloured words, a place in a text.
import { el } from "./dom.js";
import { count, percent, short } from "./words.js";

const SHOWN = 8;
const COLOURS = 6;

// What a prediction looks like; `first` is that of the adapter beside, whose order the bars follow.
export function shown(prediction, values, first) {
  if (prediction.scores) return bars(prediction, first?.scores ?? prediction.scores);
  if (prediction.tags) return words(prediction, values[0]);
  if ("answer" in prediction) return place(prediction, values.at(-1));
  if ("score" in prediction) return el("p", { class: "number" }, short(prediction.score));
  return el("pre", {}, JSON.stringify(prediction, null, 2));
}

// The same in a few words, for those who hear it, and to tell two answers apart.
export function inWords(prediction) {
  if (prediction.scores) return `${prediction.label}, ${percent(prediction.scores[prediction.label])}`;
  if (prediction.tags) return list(marksOf(prediction).map((entity) => `${entity.text} (${entity.type})`)) || "nothing was found";
  if ("answer" in prediction) return prediction.answer || "no answer";
  return "score" in prediction ? short(prediction.score) : JSON.stringify(prediction);
}

// What two adapters say together, where that can be said in a sentence.
export function verdict(one, other) {
  const labels = ({ scores }) => Object.keys(scores).sort().join("\n");
  if (!one.scores || !other.scores || labels(one) !== labels(other)) return "";
  return one.label === other.label ? `Both say ${one.label}.` : `They differ: ${one.label} against ${other.label}.`;
}

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

function words(prediction, text) {
  const marks = marksOf(prediction);
  const types = [...new Set(marks.map((mark) => mark.type))].sort();
  const places = placesIn(text, prediction.tokens);
  const nodes = [];
  let next = 0;
  for (const { start, end, type } of marks) {
    const [from, to] = [places[start][0], places[end - 1][1]];
    if (from < next) continue;
    const kind = `kind-${types.indexOf(type) % COLOURS}`;
    nodes.push(text.slice(next, from), el("mark", { class: kind }, text.slice(from, to), el("small", {}, type)));
    next = to;
  }
  nodes.push(text.slice(next));
  const said = marks.length ? null : el("p", { class: "faint" }, "Nothing was found in this text.");
  return el("div", {}, el("p", { class: "words" }, ...nodes), said);
}

// Where in a text its words stand, which the server has cut it into.
function placesIn(text, tokens) {
  let next = 0;
  return tokens.map((token) => {
    const start = Math.max(next, text.indexOf(token, next));
    next = start + token.length;
    return [start, next];
  });
}

// Entities, or each word where tags open and end nothing: parts of speech for example.
function marksOf({ tokens, tags, entities }) {
  if (tags.every((tag) => tag === "O" || /^[BIESLU]-/.test(tag))) return [...entities].sort((one, other) => one.start - other.start);
  return tags.map((type, start) => ({ type, text: tokens[start], start, end: start + 1 })).filter(({ type }) => type !== "O");
}

function place(prediction, context) {
  const letters = Array.from(context); // the server counts characters, and a string here halves of some
  const [before, found, after] = [[0, prediction.start], [prediction.start, prediction.end], [prediction.end]].map((ends) => letters.slice(...ends).join(""));
  const numbers = [`score ${short(prediction.score)}`];
  if ("no_answer_score" in prediction) numbers.push(`no answer ${short(prediction.no_answer_score)}`);
  const answer = el("p", { class: prediction.answer ? "answer" : "answer none" }, prediction.answer || "There is no answer in this text.");
  const text = el("p", { class: "words" }, before, found ? el("mark", { class: "kind-0" }, found) : null, after);
  return el("div", {}, answer, el("p", { class: "faint" }, numbers.join(", ")), text);
}
