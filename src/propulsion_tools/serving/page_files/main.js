// The page: which adapters are asked, what they are asked, and what they answer.
import { inWords, shown, verdict } from "./answers.js";
import { isAbort, json, key } from "./api.js";
import { Chooser } from "./chooser.js";
import { byId, count, el } from "./dom.js";
import { drawFields, row, values, writes } from "./fields.js";
import { BASE, Live } from "./live.js";
import { Paper } from "./writing.js";

const state = { models: [], listed: { at: -Infinity, took: 0, like: "" }, papers: [null, null], asking: null };
const choosers = [new Chooser(byId("first"), "Adapter", () => chosen()), new Chooser(byId("second"), "Beside it", () => chosen())];
const live = new Live({ onSample: sampled, onProblem: (error) => failed(error), onChoice: (name) => choosers[0].choose(name) });

const model = (name) => state.models.find((one) => one.id === name);
const compares = () => byId("compare").getAttribute("aria-pressed") === "true";
const asked = () => choosers.slice(0, compares() ? 2 : 1).map((chooser) => model(chooser.value)).filter(Boolean);
const mode = () => document.querySelector("[name=mode]:checked")?.value;

// --- the server's door

async function open() {
  try {
    await list();
    byId("door").hidden = true;
    byId("room").hidden = false;
    byId("forget").hidden = !key.get();
    live.start();
  } catch (error) {
    failed(error);
    if (error.status !== 401) setTimeout(open, 2000);
  }
}

function failed(error) {
  const server = byId("server");
  server.className = "gone";
  server.textContent = error.status === 401 ? "Locked" : error.message;
  if (error.status === 401) lock(key.get() ? error.message : "");
}

function lock(sentence) {
  live.stop();
  key.forget();
  byId("forget").hidden = true;
  byId("room").hidden = true;
  byId("door").hidden = false;
  byId("refused").textContent = sentence;
  byId("key").focus();
}

// --- the adapters that there are

async function list() {
  const begun = performance.now();
  const { data } = await json("v1/models");
  state.models = data;
  state.listed = { ...state.listed, at: performance.now(), took: performance.now() - begun };
  const names = wanted();
  choosers.forEach((chooser, number) => chooser.value !== names[number] || !chooser.models.length ? chooser.set(data, names[number]) : (chooser.models = data));
  live.show(data);
  const own = data.filter((one) => one.id !== BASE);
  const server = byId("server");
  server.className = "ready";
  server.textContent = `${count(own.length, "adapter")} served`;
  byId("send").disabled = !data.length;
  if (!data.length) server.textContent = "This server has no adapter yet: POST /v1/adapters loads one.";
  chosen();
}

// What is chosen, or what the address says, as far as it is there.
function wanted() {
  const address = new URLSearchParams(location.hash.slice(1));
  const told = [choosers[0].value ?? address.get("adapter"), choosers[1].value ?? address.get("beside")];
  const first = model(told[0]) ?? state.models.find((one) => one.id !== BASE) ?? state.models[0];
  const second = model(told[1]) ?? state.models.find((one) => one !== first) ?? first;
  return [first?.id ?? null, second?.id ?? null];
}

// The list again, where something may have changed, at a twentieth of the time at most: it can be long.
function sampled(sample) {
  const like = [sample.adapters, sample.resident, sample.requests].join();
  const { at, took } = state.listed;
  if (like !== state.listed.like && performance.now() - at > Math.max(3000, 20 * took)) {
    state.listed.like = like;
    list().catch(failed);
  } else if (byId("server").className === "gone") list().catch(failed);
}

function chosen() {
  const models = asked();
  drawFields(models);
  const isWriter = writes(models[0]);
  byId("wishes").hidden = !isWriter;
  byId("wishes").disabled = !isWriter;
  if (isWriter && !mode()) byId("wishes").querySelector(`[value=${models[0].chat_template ? "chat" : "text"}]`).checked = true;
  byId("send").textContent = !isWriter ? "Ask" : mode() === "chat" ? "Send" : "Write";
  byId("second").hidden = !compares();
  byId("compare").textContent = compares() ? "One adapter is enough" : "Compare with another adapter";
  byId("compare").hidden = state.models.length < 2 && !compares();
  const address = new URLSearchParams(models.map((one, number) => [["adapter", "beside"][number], one.id]));
  history.replaceState(null, "", `#${address}`);
}

// --- asking

async function ask(event) {
  event.preventDefault();
  if (state.asking || !byId("ask").reportValidity()) return;
  const [models, texts] = [asked(), values()];
  state.asking = new AbortController();
  busy(true);
  say("Waiting for the answer.");
  byId("verdict").hidden = true;
  const sheets = models.map(sheet);
  byId("answers").className = models.length > 1 ? "two" : "";
  byId("answers").replaceChildren(...sheets.map((one) => one.node));
  const answer = writes(models[0]) ? write : predict;
  await answer(models, texts, sheets, state.asking.signal);
  state.asking = null;
  busy(false);
}

function busy(isBusy) {
  byId("send").hidden = isBusy;
  byId("stop").hidden = !isBusy;
  byId("answers").setAttribute("aria-busy", String(isBusy));
  byId("anew").hidden = isBusy || !state.papers.some((paper) => paper?.turns.length);
}

const say = (sentence) => (byId("said").textContent = sentence);
const sayAll = (sentences) => say(sentences.filter(Boolean).map((one) => one.replace(/[.\s]*$/, ".")).join(" "));

// A place for one adapter's answer.
function sheet(one) {
  const [below, body] = [el("small", {}, "…"), el("div", { class: "body" })];
  return { below, body, node: el("article", { class: "panel" }, el("h2", {}, one.id, " ", below), body) };
}

function problem({ below, body }, error) {
  below.textContent = isAbort(error) ? "stopped" : "";
  if (!isAbort(error)) body.append(el("p", { class: "problem" }, error.message));
  if (error.status === 401) failed(error);
  if (error.status === 404) list().catch(failed);
  return isAbort(error) ? "stopped" : error.message;
}

async function predict(models, texts, sheets, signal) {
  const waiting = models.map(async (one) => {
    const begun = performance.now();
    const answer = await json("v1/predict", { adapter: one.id, inputs: [row(one, texts)] }, signal);
    return { prediction: answer.predictions[0], took: `${Math.max(1, Math.round(performance.now() - begun))} ms` };
  });
  const ends = await Promise.allSettled(waiting);
  const answers = ends.map((end) => end.value?.prediction);
  const said = ends.map(({ value, reason }, number) => {
    if (reason) return `${models[number].id}: ${problem(sheets[number], reason)}`;
    sheets[number].below.textContent = value.took;
    sheets[number].body.replaceChildren(shown(value.prediction, texts, answers[0]));
    return `${models[number].id}: ${inWords(value.prediction)}`;
  });
  const together = answers.length === 2 && answers.every(Boolean) ? verdict(...answers) : "";
  byId("verdict").textContent = together;
  byId("verdict").hidden = !together;
  sayAll([...said, together]);
}

async function write(models, [prompt], sheets, signal) {
  const wishes = { most: byId("most").valueAsNumber, temperature: byId("temperature").valueAsNumber };
  const ends = models.map(async (one, number) => {
    const paper = paperOf(one, number);
    sheets[number].body.append(paper.node);
    try {
      sheets[number].below.textContent = await paper.write(one, prompt, wishes, signal);
      return `${one.id}: ${paper.last}`;
    } catch (error) {
      return `${one.id}: ${problem({ ...sheets[number], body: paper.node }, error)}`;
    } finally {
      sheets[number].node.classList.add("done");
    }
  });
  const said = await Promise.all(ends);
  sayAll(said);
  if (state.papers.some((paper) => paper?.turns.length)) byId("fields").querySelector("textarea").value = "";
}

// The conversation of a place goes on as long as it has the same adapter and the same way to ask.
function paperOf(one, number) {
  const last = state.papers[number];
  const goesOn = last && last.adapter === one.id && last.mode === mode();
  const paper = goesOn ? last : Object.assign(new Paper(mode()), { adapter: one.id });
  state.papers[number] = paper;
  return paper;
}

function anew() {
  state.papers = [null, null];
  byId("answers").replaceChildren();
  byId("anew").hidden = true;
  byId("fields").querySelector("textarea").focus();
}

// --- what people do

byId("door").addEventListener("submit", (event) => {
  event.preventDefault();
  key.set(byId("key").value);
  byId("key").value = "";
  open();
});
byId("forget").addEventListener("click", () => lock(""));
byId("ask").addEventListener("submit", ask);
byId("ask").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) ask(event);
});
byId("stop").addEventListener("click", () => state.asking?.abort());
byId("anew").addEventListener("click", anew);
byId("wishes").addEventListener("change", () => chosen());
byId("compare").addEventListener("click", () => {
  byId("compare").setAttribute("aria-pressed", String(!compares()));
  chosen();
  if (compares()) byId("second").querySelector("input").focus();
});
byId("most").value = Math.min(128, Number(byId("most").max));
if (new URLSearchParams(location.hash.slice(1)).has("beside")) byId("compare").setAttribute("aria-pressed", "true");
open();
