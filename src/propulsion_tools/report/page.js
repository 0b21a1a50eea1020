"use strict";
const FIGURES = JSON.parse(document.getElementById("figures-data").textContent);
const dark = matchMedia("(prefers-color-scheme: dark)");
const printing = matchMedia("print");

// Room for the legend below the plot: as many columns as fit.
const LINE = 20;
function legendHeight(place, traces) {
  const named = traces.filter((trace) => trace.showlegend !== false).length;
  const longest = Math.max(0, ...traces.map((trace) => trace.name?.length ?? 0));
  const columns = Math.max(1, Math.floor((place.clientWidth - 70) / (60 + 7 * longest)));
  return named ? LINE * Math.ceil(named / columns) + 24 : 0;
}

function themed(layout, height) {
  const css = getComputedStyle(document.documentElement);
  const [ink, faint, line] = ["--ink", "--faint", "--line"].map((name) => css.getPropertyValue(name).trim());
  const axis = { gridcolor: line, zerolinecolor: line, linecolor: line, tickfont: { color: faint }, automargin: true };
  return {
    ...layout,
    height,
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    font: { family: "system-ui, Segoe UI, Helvetica, Arial, sans-serif", size: 13, color: ink },
    margin: { l: 56, r: 12, t: 8, b: 44, ...layout.margin },
    legend: { orientation: "h", yref: "container", y: 0, yanchor: "bottom", x: 0, font: { size: 12 } },
    hoverlabel: { align: "left" },
    xaxis: { ...axis, ...layout.xaxis },
    yaxis: { ...axis, ...layout.yaxis },
  };
}

function draw() {
  for (const [name, figure] of Object.entries(FIGURES)) {
    const place = document.getElementById(name);
    const select = place.parentElement.querySelector("select");
    const traces = figure.variants[select ? select.value : Object.keys(figure.variants)[0]];
    const config = { responsive: true, displaylogo: false, displayModeBar: false };
    Plotly.react(place, traces, themed(figure.layout, figure.height + legendHeight(place, traces)), config);
  }
}

function sort(table, column, button) {
  const heading = button.closest("th");
  const ascending = heading.getAttribute("aria-sort") === "descending";
  for (const other of table.querySelectorAll("thead th[aria-sort]")) other.setAttribute("aria-sort", "none");
  heading.setAttribute("aria-sort", ascending ? "ascending" : "descending");
  const value = (row) => row.cells[column].dataset.value ?? row.cells[column].textContent.trim();
  const rows = [...table.tBodies[0].rows].sort((one, other) => {
    const [a, b] = [value(one), value(other)];
    if (a === "" || b === "") return (a === "") - (b === ""); // what has no value stays at the end
    const [x, y] = [Number(a), Number(b)];
    const order = Number.isNaN(x) || Number.isNaN(y) ? a.localeCompare(b) : x - y;
    return ascending ? order : -order;
  });
  table.tBodies[0].append(...rows);
}

function filter(text) {
  const words = text.toLowerCase().split(/\s+/).filter(Boolean);
  const rows = [...document.querySelectorAll("tbody tr, .run")];
  for (const row of rows) row.hidden = !words.every((word) => row.dataset.name.toLowerCase().includes(word));
  const scores = [...document.querySelectorAll("#scores tbody tr")];
  const left = scores.filter((row) => !row.hidden).length;
  document.querySelector(".filter output").textContent = text ? `${left} of ${scores.length} rows` : "";
}

for (const table of document.querySelectorAll("table")) {
  [...table.tHead.rows[0].cells].forEach((heading, column) => {
    const button = heading.querySelector("button");
    if (button) button.addEventListener("click", () => sort(table, column, button));
  });
}
document.querySelector(".filter input").addEventListener("input", (event) => filter(event.target.value));
for (const select of document.querySelectorAll("figure select")) select.addEventListener("change", draw);
for (const button of document.querySelectorAll(".run button")) {
  button.addEventListener("click", () => navigator.clipboard?.writeText(button.previousElementSibling.textContent));
}
for (const query of [dark, printing]) query.addEventListener("change", draw);
draw();
document.documentElement.dataset.drawn = "true";
