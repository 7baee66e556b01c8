// What the pages gain where there is JavaScript: they renew themselves, times are also told in the reader's zone, the chart is drawn.
"use strict";

// While nobody sees the page, or somebody is about to press something in it, it stays as it is.
const isBusy = () => {
  const live = document.getElementById("live");
  return live !== null && live.querySelector("input:focus, select:focus, button:focus, .button:focus, button:hover, .button:hover") !== null;
};
document.addEventListener("htmx:before:request", (event) => {
  if (document.hidden || isBusy()) event.preventDefault();
});

// What is no page of ours, such as a proxy's word that we are away, does not take the place of what is shown.
document.addEventListener("htmx:before:swap", (event) => {
  const isPage = (event.detail.ctx.text ?? "").includes('id="live"');
  if (!isPage) offline(true);
  if (!isPage || isBusy()) event.preventDefault();
});

// An answer that is no page is no answer.
const offline = (is) => {
  const banner = document.getElementById("offline");
  if (banner) banner.hidden = !is;
};
document.addEventListener("htmx:error", () => offline(true));
document.addEventListener("htmx:after:swap", () => {
  offline(false);
  decorate();
});

// After it was hidden, the page is renewed at once.
document.addEventListener("visibilitychange", () => {
  const live = document.getElementById("live");
  if (!document.hidden && live && live.hasAttribute("hx-get")) live.dispatchEvent(new Event("every"));
});

const zone = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23", timeZoneName: "short" });
const isUtc = new Date().getTimezoneOffset() === 0;

function decorate() {
  if (!isUtc) {
    for (const time of document.querySelectorAll("time[datetime]")) {
      const local = zone.format(new Date(time.dateTime));
      if (time.dataset.local !== local) time.dataset.local = local;
    }
  }
  draw();
}

let chart = null;
let drawn = "";

function draw() {
  const holder = document.getElementById("chart");
  const source = document.getElementById("points");
  if (!holder || !source || typeof uPlot === "undefined") return;
  const style = getComputedStyle(document.documentElement);
  const colour = (name) => style.getPropertyValue(name).trim();
  const width = Math.max(240, holder.clientWidth);
  const key = source.dataset.points + width + colour("--text");
  if (key === drawn) return;
  drawn = key;
  const points = JSON.parse(source.dataset.points);
  if (chart) chart.destroy();
  const line = (label, name) => ({ label, stroke: colour(name), width: 2, spanGaps: false, points: { size: 5 } });
  const axis = { stroke: colour("--muted"), grid: { stroke: colour("--line"), width: 1 }, ticks: { stroke: colour("--line"), width: 1 } };
  const ms = (_, values) => values.map((v) => (v >= 1000 ? v / 1000 + " s" : v + " ms"));
  chart = new uPlot({
    width,
    height: 220,
    tzDate: (seconds) => uPlot.tzDate(new Date(seconds * 1e3), "UTC"),
    series: [{ label: "UTC" }, line(holder.dataset.half, "--good"), line(holder.dataset.most, "--accent"), line(holder.dataset.worst, "--bad")],
    legend: { live: false },
    cursor: { show: false },
    axes: [{ ...axis, values: (_, seconds) => seconds.map((at) => new Date(at * 1e3).toISOString().slice(11, 16)) }, { ...axis, size: 64, values: ms }],
    scales: { y: { range: (_, low, high) => [0, Math.max(high || 0, 50) * 1.1] } },
  }, points, holder);
}

// Boxes that choose all others of a name.
document.addEventListener("change", (event) => {
  const name = event.target.dataset && event.target.dataset.all;
  if (!name) return;
  for (const box of document.querySelectorAll(`input[type=checkbox][name="${name}"]`)) box.checked = event.target.checked;
});

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("input, select, textarea")) return;
  const target = event.key === "/" ? document.querySelector(".search input") : null;
  if (target) {
    event.preventDefault();
    target.focus();
  }
  if (event.key === "r") document.getElementById("refresh").click();
});

// The box that chooses all is of no use without this script.
for (const box of document.querySelectorAll("input[data-all]")) box.hidden = false;
window.addEventListener("resize", draw);
window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
decorate();
