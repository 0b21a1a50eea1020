"use strict";
// Each panel is a figure of its own, as wide as its place on the page, so that a phone shows them below each other.
const PANELS = JSON.parse(document.getElementById("panels-data").textContent);
const CONFIG = { displaylogo: false, displayModeBar: false };
let shown = Object.keys(PANELS[0].variants)[0];

function draw() {
  PANELS.forEach((panel, number) => {
    const place = document.getElementById(`panel-${number}`);
    const [width, margin] = [place.clientWidth, panel.layout.margin];
    const square = width - margin.l - margin.r + margin.t + margin.b;
    const layout = { ...panel.layout, width, height: panel.height ?? square };
    Plotly.react(place, panel.variants[shown] ?? Object.values(panel.variants)[0], layout, CONFIG);
  });
  for (const button of document.querySelectorAll("button")) {
    button.setAttribute("aria-pressed", String(button.textContent === shown));
  }
}

for (const button of document.querySelectorAll("button")) {
  button.addEventListener("click", () => {
    shown = button.textContent;
    draw();
  });
}
addEventListener("resize", draw);
draw();
document.documentElement.dataset.drawn = "true";
