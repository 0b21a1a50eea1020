// A field to choose an adapter in: a combobox that shows the first of those that match, however many there are.
import { described, matching } from "./adapters.js";
import { el } from "./dom.js";
import { grouped } from "./words.js";

const SHOWN = 50;

export class Chooser {
  constructor(root, label, onChoice) {
    const id = `${root.id}-adapter`;
    this.onChoice = onChoice;
    this.models = [];
    this.value = null;
    this.active = -1;
    this.input = el("input", {
      id, role: "combobox", type: "text", autocomplete: "off", autocapitalize: "off", spellcheck: "false",
      "aria-autocomplete": "list", "aria-expanded": "false", "aria-controls": `${id}-list`,
      focus: () => this.input.select(), click: () => this.open(""), input: () => this.open(this.input.value),
      keydown: (event) => this.pressed(event), blur: () => this.close(),
    });
    const keepFocus = (event) => event.preventDefault(); // or the list would close under the pointer
    this.list = el("ul", { id: `${id}-list`, role: "listbox", "aria-label": label, hidden: true, mousedown: keepFocus });
    this.about = el("p", { class: "faint about" });
    root.append(el("label", { for: id }, label), el("div", { class: "combo" }, this.input, this.list), this.about);
  }

  set(models, name) {
    this.models = models;
    this.choose(name, false);
  }

  choose(name, tell = true) {
    const changed = this.value !== name;
    this.value = name;
    this.close();
    const model = this.models.find((one) => one.id === name);
    this.about.textContent = model ? described(model) : "";
    if (tell && changed) this.onChoice(name);
  }

  open(written) {
    const found = matching(this.models, written);
    const shown = found.slice(0, SHOWN);
    this.names = shown.map((model) => model.id);
    const options = shown.map((model, number) => this.option(model, number));
    const more = found.length - shown.length;
    if (more) options.push(el("li", { class: "more", role: "presentation" }, `and ${grouped(more)} more: type to find them`));
    if (!found.length) options.push(el("li", { class: "more", role: "presentation" }, "No adapter has this in its name, task or labels."));
    this.list.replaceChildren(...options);
    this.list.hidden = false;
    this.input.setAttribute("aria-expanded", "true");
    this.move(written ? 0 : this.names.indexOf(this.value));
  }

  option(model, number) {
    const attributes = { id: `${this.list.id}-${number}`, role: "option", "aria-selected": "false", click: () => this.choose(model.id) };
    return el("li", attributes, el("b", {}, model.id), el("small", {}, described(model)));
  }

  move(number) {
    const options = [...this.list.querySelectorAll("[role=option]")];
    this.active = options.length ? Math.max(-1, Math.min(number, options.length - 1)) : -1;
    options.forEach((option, place) => option.setAttribute("aria-selected", String(place === this.active)));
    const chosen = options[this.active];
    if (chosen) {
      this.input.setAttribute("aria-activedescendant", chosen.id);
      chosen.scrollIntoView({ block: "nearest" });
    } else this.input.removeAttribute("aria-activedescendant");
  }

  close() {
    this.list.hidden = true;
    this.active = -1;
    this.input.value = this.value ?? "";
    this.input.setAttribute("aria-expanded", "false");
    this.input.removeAttribute("aria-activedescendant");
  }

  pressed(event) {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (step) {
      event.preventDefault();
      if (this.list.hidden) this.open("");
      else this.move(this.active + step);
    } else if (event.key === "Enter" && !this.list.hidden && !event.ctrlKey && !event.metaKey) {
      event.preventDefault();
      if (this.active >= 0) this.choose(this.names[this.active]);
    } else if (event.key === "Escape" && !this.list.hidden) {
      event.preventDefault();
      this.close();
    }
  }
}
