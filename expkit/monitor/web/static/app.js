// The page's heart: asks how the runs stand, says what is new to the parts, and wires the tools.

import { Board } from "./board.js";
import { showAlerts } from "./alerts.js";
import { Metrics } from "./metrics.js";
import { Pictures } from "./pictures.js";
import { showGauges, showHeading, showRuns } from "./runs.js";

const POLL = 800; // ms; an alert is to be seen within 2 s
const PATIENCE = 10000; // ms that an answer may take
const SMOOTHEST = 0.3; // of what is seen

const $ = (id) => document.getElementById(id);

const settings = { along: "step", log: "", smooth: null, zoom: null, theme: "dark", hiddenRuns: new Set() };
const board = new Board(settings, zoomed);
const metrics = new Metrics(board);
const pictures = new Pictures();

let tag = "";
let state = null;
let drawn = { version: null, at: -Infinity };
let timer = null;

/** Ask how the runs stand, and ask again after a while. */
async function poll() {
  clearTimeout(timer);
  try {
    const headers = tag ? { "If-None-Match": tag } : {};
    const answer = await fetch("api/state", { headers, cache: "no-store", signal: AbortSignal.timeout(PATIENCE) });
    if (answer.status !== 304) {
      if (!answer.ok) throw new Error(`HTTP ${answer.status}`);
      const said = await answer.json();
      if (said.runs) {
        tag = answer.headers.get("ETag");
        show(said);
      }
    }
    await drawIfNew();
    $("lost").hidden = true;
  } catch (error) {
    console.warn(error);
    $("lost").hidden = false;
    drawn.version = null;
  }
  if (!document.hidden) timer = setTimeout(poll, POLL);
}

/** Show curves as the command line asks for, until somebody chooses otherwise. */
function beginAs({ along, logarithmic }) {
  settings.along = $("along").value = along;
  settings.log = $("log").value = logarithmic === null ? "" : String(Number(logarithmic));
}

function show(said) {
  if (state === null) beginAs(said);
  state = said;
  showHeading(said);
  showRuns(said, settings, toggleRun);
  showAlerts(said, goToStep);
  showGauges(said);
  board.runs = said.runs.length;
  board.setUsual($("usual"), said.panels);
  metrics.update(said);
}

/** Draw what is in view, if there is something new and the interval is over. */
async function drawIfNew() {
  if (state === null || drawn.version === state.version) return;
  const now = performance.now();
  if (now - drawn.at < 1000 * state.interval && !state.reading && drawn.version !== null) return;
  drawn = { version: state.version, at: now };
  await Promise.all([board.refresh(), pictures.update()]);
}

function toggleRun(number) {
  if (!settings.hiddenRuns.delete(number)) settings.hiddenRuns.add(number);
  showRuns(state, settings, toggleRun);
  board.redraw();
}

function goToStep(step) {
  settings.along = $("along").value = "step";
  const steps = state.runs.map((run) => run.step ?? 0);
  const around = Math.max(5, 0.025 * Math.max(...steps));
  zoomed([step - around, step + around]);
  $("usual").scrollIntoView({ block: "nearest" });
}

/** Show a part of the horizontal axis, or all of it (null), in all panels. */
function zoomed(between) {
  settings.zoom = between;
  if (between === null) board.forgetHeights();
  for (const [place, id] of ["from", "to"].entries()) {
    $(id).value = between === null ? "" : Number(between[place].toPrecision(9));
  }
  board.refresh().catch(poll);
}

function setTheme(theme) {
  settings.theme = theme;
  document.documentElement.dataset.theme = theme;
  $("theme").setAttribute("aria-pressed", String(theme === "light"));
  try {
    localStorage.setItem("expkit-theme", theme);
  } catch {
    // Remembering is a courtesy: some browsers forbid it.
  }
}

/** Begin: what the tools say goes into the settings. */
function wire() {
  const ask = () => board.refresh().catch(poll);
  let saved = null;
  try {
    saved = localStorage.getItem("expkit-theme");
  } catch {
    // as above
  }
  setTheme(saved === "light" ? "light" : "dark");
  $("theme").addEventListener("click", () => {
    setTheme(settings.theme === "dark" ? "light" : "dark");
    if (state !== null) showRuns(state, settings, toggleRun);
    ask();
  });
  $("along").addEventListener("change", () => {
    settings.along = $("along").value;
    zoomed(null);
  });
  $("log").addEventListener("change", () => {
    settings.log = $("log").value;
    board.forgetHeights();
    ask();
  });
  $("smooth").addEventListener("input", () => {
    const place = Number($("smooth").value);
    settings.smooth = place === 0 ? null : SMOOTHEST * ((place - 1) / 19) ** 2; // auto, off, little ... much
    const share = 100 * settings.smooth;
    $("smooth-said").value = place === 0 ? "auto" : place === 1 ? "off" : `${share.toFixed(share < 1 ? 2 : 1)} %`;
    clearTimeout(wire.waiting);
    wire.waiting = setTimeout(ask, 120);
  });
  const typed = () => {
    const [first, last] = [$("from").value, $("to").value].map((text) => (text === "" ? NaN : Number(text)));
    const [low, high] = board.limits ?? [0, 1];
    if (Number.isNaN(first) && Number.isNaN(last)) zoomed(null);
    else if (!(first >= last)) zoomed([Number.isNaN(first) ? low : first, Number.isNaN(last) ? high : last]);
  };
  $("from").addEventListener("change", typed);
  $("to").addEventListener("change", typed);
  $("tools").addEventListener("submit", (event) => event.preventDefault());
  $("whole").addEventListener("click", () => zoomed(null));
  $("filter").addEventListener("input", () => metrics.filter($("filter").value));
  document.addEventListener("visibilitychange", () => document.hidden || poll());
  poll();
}

wire();
