// Elements whose texts are texts: nothing that a server or a user has written is ever read as HTML.

export const byId = (id) => document.getElementById(id);

export function el(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  set(node, attributes);
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

export function svg(tag, attributes = {}, ...children) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  set(node, attributes);
  node.append(...children);
  return node;
}

function set(node, attributes) {
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") node.addEventListener(name, value);
    else if (value !== null && value !== undefined && value !== false) node.setAttribute(name, value === true ? "" : value);
  }
}

export function count(number, thing) {
  return `${grouped(number)} ${thing}${number === 1 ? "" : "s"}`;
}

export const grouped = (number) => number.toLocaleString("en");

// Those of some names that contain every word, first those that begin with what was written.
export function matching(models, written, textOf) {
  const words = written.toLowerCase().split(/\s+/).filter(Boolean);
  if (!words.length) return models;
  const found = models.filter((model) => words.every((word) => textOf(model).includes(word)));
  const begins = (model) => model.id.toLowerCase().startsWith(words[0]);
  return [...found.filter(begins), ...found.filter((model) => !begins(model))];
}
