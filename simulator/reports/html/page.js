
"use strict";
const FIGURES = JSON.parse(document.getElementById("figures").textContent);
const ROOT = document.documentElement, DARK = matchMedia("(prefers-color-scheme: dark)");
const CONFIG = { responsive: true, displayModeBar: false };
const hiddenEntries = new Set();
let wanted = "auto";

function colour(name) { return getComputedStyle(ROOT).getPropertyValue("--" + name).trim(); }

// Strings that begin with @ name colours of the theme.
function themed(value) {
  if (typeof value === "string" && value[0] === "@") {
    if (value === "@sequence") return [[0, colour("low")], [0.5, colour("mid")], [1, colour("high")]];
    return colour(value.slice(1));
  }
  if (Array.isArray(value)) return typeof value[0] === "number" ? value : value.map(themed);
  if (value && typeof value === "object") return Object.fromEntries(Object.entries(value).map(([k, v]) => [k, themed(v)]));
  return value;
}

function axis(own) {
  return Object.assign({ gridcolor: colour("line"), zerolinecolor: colour("line"), linecolor: colour("line"),
                         automargin: true }, own, { title: Object.assign({ standoff: 10 }, own && own.title) });
}

function layout(own) {
  const base = {
    font: { family: "system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif", size: 12, color: colour("ink") },
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", margin: { l: 56, r: 18, t: 30, b: 46 },
    showlegend: false, legend: { orientation: "h", x: 0, y: 1.02, yanchor: "bottom", bgcolor: "rgba(0,0,0,0)" },
    hoverlabel: { bgcolor: colour("card"), bordercolor: colour("soft"), font: { color: colour("ink") }, align: "left" },
    hovermode: "closest",
  };
  const merged = Object.assign(base, themed(own));
  merged.xaxis = axis(merged.xaxis);
  merged.yaxis = axis(merged.yaxis);
  return merged;
}

function traces(data) {
  return themed(data).map(trace => hiddenEntries.has(trace.meta) ? Object.assign(trace, { visible: false }) : trace);
}

function draw(node) {
  const figure = FIGURES[node.id.slice(5)];
  return Plotly.react(node, traces(figure.data), layout(figure.layout), CONFIG);
}

function drawAll() {
  for (const node of document.querySelectorAll(".plot")) if (!node.closest("[hidden]")) draw(node);
}

function theme(name) {
  ROOT.dataset.theme = name === "auto" ? (DARK.matches ? "dark" : "light") : name;
}

function retheme() { theme(wanted); drawAll(); }

document.getElementById("theme").addEventListener("click", event => {
  wanted = { auto: "light", light: "dark", dark: "auto" }[wanted];
  event.target.textContent = "Theme: " + wanted;
  retheme();
});
DARK.addEventListener("change", retheme);

// Paper is light and narrow; plots do not shrink by themselves.
function printing(on) {
  ROOT.classList.toggle("printing", on);
  theme(on ? "light" : wanted);
  drawAll();
  for (const node of document.querySelectorAll(".plot")) if (!node.closest("[hidden]")) Plotly.Plots.resize(node);
}
addEventListener("beforeprint", () => printing(true));
addEventListener("afterprint", () => printing(false));

for (const button of document.querySelectorAll("[data-entry]")) button.addEventListener("click", () => {
  const entry = Number(button.dataset.entry), shown = hiddenEntries.delete(entry);
  if (!shown) hiddenEntries.add(entry);
  button.setAttribute("aria-pressed", String(shown));
  drawAll();
});

for (const button of document.querySelectorAll("[data-save]")) button.addEventListener("click", () => {
  const node = document.getElementById(button.dataset.save);
  Plotly.downloadImage(node, { format: "png", scale: 3, width: node.clientWidth, height: node.clientHeight,
                               filename: node.id.replace("plot-", "kvroute-") });
});

for (const select of document.querySelectorAll("[data-shows]")) select.addEventListener("change", () => {
  for (const group of document.querySelectorAll(`[data-of="${select.dataset.shows}"]`))
    group.hidden = group.dataset.run !== select.value;
  drawAll();
});

retheme();
