// The list of alerts, newest first: rule, values, step. A click goes to the step.

import { digits, element, reconcile } from "./elements.js";

const SHOWN = 100;

const $ = (id) => document.getElementById(id);

/**
 * @param {object} said what api/state says
 * @param {(step: number) => void} go called with the step of the alert that was chosen
 */
export function showAlerts(said, go) {
  const several = said.runs.length > 1;
  const alerts = said.runs
    .flatMap((run) => run.alerts.map((alert) => ({ ...alert, run: several ? run.name : "" })))
    .sort((one, other) => other.time - one.time)
    .slice(0, SHOWN);
  const keyOf = (alert) => [alert.run, alert.time, alert.step, alert.rule, alert.message].join("\n");
  const first = new Map(alerts.map((alert) => [keyOf(alert), alert])); // the same twice is shown once
  reconcile($("alerts"), [...first.values()], keyOf, (alert) => newAlert(alert, go));
  $("no-alerts").hidden = alerts.length > 0;
}

function newAlert(alert, go) {
  const when = new Date(1000 * alert.time).toLocaleTimeString();
  const badge = element("span", { className: `badge ${alert.severity.toLowerCase()}` }, alert.severity);
  const button = element(
    "button",
    { type: "button", title: `show step ${alert.step}` },
    badge,
    ` ${alert.rule} · step ${digits(alert.step)}`,
    element("small", {}, [alert.run, when].filter(Boolean).join(" · ")),
    alert.message,
  );
  const values = Object.entries(alert.values).map(([name, value]) => `${name} ${said(value)}`);
  if (values.length > 0) button.append(element("small", {}, values.join(", ")));
  button.addEventListener("click", () => go(alert.step));
  return element("li", {}, button);
}

function said(value) {
  if (typeof value === "number") return digits(value);
  return value !== null && typeof value === "object" ? JSON.stringify(value) : String(value);
}
