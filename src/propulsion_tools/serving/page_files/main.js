// The page: which adapters are asked, what they are asked, and what they answer.
import { BASE, writes } from "./adapters.js";
import { json, key } from "./api.js";
import { ask, forget, turns } from "./asking.js";
import { Chooser } from "./chooser.js";
import { byId } from "./dom.js";
import { drawFields, values } from "./fields.js";
import { Live } from "./live.js";
import { count } from "./words.js";

const listed = { models: [], at: -Infinity, took: 0, like: "" };
let asking = null;
const choosers = [new Chooser(byId("first"), "Adapter", () => chosen()), new Chooser(byId("second"), "Beside it", () => chosen())];
const live = new Live({ onSample: sampled, onProblem: (error) => failed(error), onChoice: picked });

const model = (name) => listed.models.find((one) => one.id === name);
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
  status("gone", error.status === 401 ? "Locked" : error.message);
  if (error.status === 401) lock(key.get() ? error.message : "");
}

// What is said again is not set again, or it would be read aloud again.
function status(kind, sentence) {
  byId("server").className = kind;
  if (byId("server").textContent !== sentence) byId("server").textContent = sentence;
}

function lock(sentence) {
  live.stop();
  key.forget();
  if (sentence || byId("door").hidden) byId("refused").textContent = sentence;
  byId("forget").hidden = true;
  byId("room").hidden = true;
  byId("door").hidden = false;
  byId("key").focus();
}

// --- the adapters that there are

async function list() {
  const begun = performance.now();
  const { data } = await json("v1/models");
  Object.assign(listed, { models: data, at: performance.now(), took: performance.now() - begun });
  const names = wanted();
  choosers.forEach((chooser, number) => chooser.value !== names[number] || !chooser.models.length ? chooser.set(data, names[number]) : (chooser.models = data));
  live.show(data);
  const own = data.filter((one) => one.id !== BASE);
  byId("send").disabled = !data.length;
  status("ready", data.length ? `${count(own.length, "adapter")} served` : "This server has no adapter yet: POST /v1/adapters loads one.");
  chosen();
}

// What is chosen, or what the address says, as far as it is there.
function wanted() {
  const address = new URLSearchParams(location.hash.slice(1));
  const told = [choosers[0].value ?? address.get("adapter"), choosers[1].value ?? address.get("beside")];
  const first = model(told[0]) ?? listed.models.find((one) => one.id !== BASE) ?? listed.models[0];
  const second = model(told[1]) ?? listed.models.find((one) => one !== first) ?? first;
  return [first?.id ?? null, second?.id ?? null];
}

// The list again, where something may have changed, at a twentieth of the time at most: it can be long.
function sampled(sample) {
  const like = [sample.adapters, sample.resident, sample.requests].join();
  if (like !== listed.like && performance.now() - listed.at > Math.max(3000, 20 * listed.took)) {
    listed.like = like;
    list().catch(failed);
  } else if (byId("server").className === "gone") list().catch(failed);
}

function picked(name) {
  choosers[0].choose(name);
  byId("ask").scrollIntoView({ block: "nearest" });
}

function chosen() {
  const models = asked();
  const isWriter = writes(models[0]);
  byId("wishes").hidden = !isWriter;
  byId("wishes").disabled = !isWriter;
  if (isWriter && !mode()) byId("wishes").querySelector(`[value=${models[0].chat_template ? "chat" : "text"}]`).checked = true;
  drawFields(models, mode());
  byId("send").textContent = !isWriter ? "Ask" : mode() === "chat" ? "Send" : "Write";
  byId("second").hidden = !compares();
  byId("compare").textContent = compares() ? "One adapter is enough" : "Compare with another adapter";
  byId("compare").hidden = listed.models.length < 2 && !compares();
  const address = new URLSearchParams(models.map((one, number) => [["adapter", "beside"][number], one.id]));
  history.replaceState(null, "", `#${address}`);
}

// --- asking

async function send(event) {
  event.preventDefault();
  if (asking || !byId("ask").reportValidity()) return;
  const models = asked();
  asking = new AbortController();
  busy(true);
  const texts = values();
  const isSaid = await ask(models, texts, wishes(), { signal: asking.signal, onProblem: told });
  asking = null;
  busy(false);
  if (isSaid && values()[0] === texts[0]) byId("fields").querySelector("textarea").value = "";
  if (models.some((one) => one.resident === false)) list().catch(failed); // it has come to the device now
}

const wishes = () => ({ mode: mode(), most: byId("most").valueAsNumber, temperature: byId("temperature").valueAsNumber });

function told(error) {
  if (error.status === 401) failed(error);
  if (error.status === 404) list().catch(failed);
}

// Of the two buttons one is there, and has the focus if the other had it.
function busy(isBusy) {
  const [shown, gone] = isBusy ? [byId("stop"), byId("send")] : [byId("send"), byId("stop")];
  const hasFocus = document.activeElement === gone;
  [shown.hidden, gone.hidden] = [false, true];
  if (hasFocus) shown.focus();
  byId("answers").setAttribute("aria-busy", String(isBusy));
  byId("anew").hidden = isBusy || !turns();
}

function anew() {
  forget();
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
byId("forget").addEventListener("click", () => {
  asking?.abort();
  forget();
  lock("");
});
byId("ask").addEventListener("submit", send);
byId("ask").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) send(event);
});
byId("stop").addEventListener("click", () => asking?.abort());
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
