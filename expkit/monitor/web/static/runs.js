// How the runs stand: badges, progress, and what their machines are filled to.

import { digits, element, newSwatch, paintSwatch, reconcile, span } from "./elements.js";

const $ = (id) => document.getElementById(id);

export function showHeading(said) {
  const running = said.runs.length === 1 ? said.runs[0].name : `${said.runs.length} runs`;
  $("heading").textContent = running;
  const states = [...new Set(said.runs.map((run) => run.state))].join(", ");
  document.title = `${states} · ${running}`;
  reconcile($("notes"), said.notes, (note) => note, (note) => element("li", {}, note));
}

/**
 * Show a line for each run; of several, its name is a button that hides it in all panels.
 * @param {object} said what api/state says
 * @param {{theme: string, hiddenRuns: Set<number>}} settings
 * @param {(number: number) => void} toggle
 */
export function showRuns(said, settings, toggle) {
  const several = said.runs.length > 1;
  $("runs").classList.toggle("several", several);
  const numbered = said.runs.map((run, number) => ({ run, number }));
  reconcile($("runs"), numbered, ({ number }) => String(number), ({ number }) => newRun(number, several, toggle));
  for (const { run, number } of numbered) {
    const root = $("runs").children[number];
    const [badge, name, progress, text] = root.children;
    badge.textContent = run.state;
    badge.dataset.state = run.state;
    if (several) {
      const [colour, dash] = said.looks[settings.theme][number];
      name.setAttribute("aria-pressed", String(!settings.hiddenRuns.has(number)));
      paintSwatch(name.firstChild, [dash], colour);
      name.lastChild.textContent = run.name;
    } else {
      name.textContent = run.path;
    }
    progress.hidden = !run.total_steps || run.step === null;
    if (!progress.hidden) {
      progress.max = run.total_steps;
      progress.value = Math.min(run.step, run.total_steps);
      progress.setAttribute("aria-label", `${run.name}: step ${run.step} of ${run.total_steps}`);
    }
    text.textContent = howFar(run).join("  ·  ");
  }
}

function newRun(number, several, toggle) {
  const swatch = newSwatch();
  const name = several
    ? element("button", { type: "button", className: "name", title: "show or hide" }, swatch, element("span"))
    : element("span", { className: "name" });
  if (several) name.addEventListener("click", () => toggle(number));
  const badge = element("span", { className: "badge" });
  return element("div", { className: "run" }, badge, name, element("progress"), element("span", { className: "said" }));
}

function howFar(run) {
  const parts = [];
  if (run.text) parts.push(run.text);
  if (run.step !== null) {
    const of = run.total_steps ? ` of ${digits(run.total_steps)} (${Math.floor((100 * run.step) / run.total_steps)} %)` : "";
    parts.push(`step ${digits(run.step)}${of}`);
  }
  if (run.epoch !== null) parts.push(`epoch ${digits(run.epoch)}`);
  if (run.steps_per_sec !== null) parts.push(`${digits(run.steps_per_sec, 3)} it/s`);
  if (run.eta) parts.push(run.eta);
  else if (run.eta_seconds !== null) parts.push(`ends in ${span(run.eta_seconds)}`);
  parts.push(`${digits(run.records)} records`);
  return parts;
}

/** Show what GPUs and memory are filled to, run by run. */
export function showGauges(said) {
  const runs = said.runs.filter((run) => run.gauges.length > 0);
  $("machine").hidden = runs.length === 0;
  const rows = runs.flatMap((run) => [
    ...(said.runs.length > 1 ? [{ key: `${run.path}\n`, heading: run.name }] : []),
    ...run.gauges.map((gauge) => ({ key: `${run.path}\n${gauge.name}`, gauge })),
  ]);
  reconcile($("gauges"), rows, (row) => row.key, newGauge);
  for (const [place, { gauge }] of rows.entries()) {
    if (!gauge) continue;
    const [label, meter] = $("gauges").children[place].children;
    label.textContent = `${gauge.name}: ${gauge.text}`;
    meter.value = gauge.fraction;
    meter.setAttribute("aria-label", `${gauge.name}: ${gauge.text}`);
  }
}

function newGauge(row) {
  if (row.heading) return element("h3", {}, row.heading);
  const meter = element("meter", { min: 0, max: 1, high: 0.97 });
  return element("div", {}, element("label"), meter);
}
