// The panels with curves: which are in view, asking for them, drawing them. Only what is in view is drawn.

import { element, newSwatch, paintSwatch } from "./elements.js";

const AT_ONCE = 8; // panels in a question
const FEW_STEPS = 8; // no ticks between whole ones
const KEPT = 24; // plots that stay when they have left the view
const CONFIG = { displaylogo: false, displayModeBar: false, responsive: true, doubleClick: false };
const TOUCH = matchMedia("(pointer: coarse)").matches;

export class Board {
  /**
   * @param {object} settings what the tools say: along, log, smooth, zoom, theme, hiddenRuns
   * @param {(between: number[] | null) => void} zoomed called when somebody has drawn a box, or clicked twice
   */
  constructor(settings, zoomed) {
    this.settings = settings;
    this.zoomed = zoomed;
    this.limits = null;
    this.unit = null; // of time, in seconds
    this.runs = 1;
    this.panels = new Map(); // element -> panel
    this.asked = 0;
    this.observer = new IntersectionObserver((entries) => this.#moved(entries), { rootMargin: "150px" });
  }

  /** Add a panel, drawn when it comes into view. */
  add(parent, key) {
    const title = element("h3", {}, key);
    const legend = element("div", { className: "legend" });
    const said = element("p", { className: "said" });
    const plot = element("div", { className: "plot", role: "img", ariaLabel: `curve of ${key}` });
    const head = element("div", { className: "head" }, title, said);
    const root = element("figure", { className: "panel" }, head, legend, plot);
    root.dataset.key = key;
    this.panels.set(root, { key, root, title, legend, said, plot, hidden: new Set(), visible: false, answer: null });
    parent.append(root);
    this.observer.observe(root);
    return root;
  }

  remove(root) {
    const panel = this.panels.get(root);
    if (panel?.drawn) Plotly.purge(panel.plot);
    this.observer.unobserve(root);
    this.panels.delete(root);
    root.remove();
  }

  /** Have the usual panels in their place, in their order. */
  setUsual(parent, keys) {
    const now = [...parent.children].map((root) => root.dataset.key);
    if (now.join("\n") === keys.join("\n")) return;
    for (const root of [...parent.children]) if (!keys.includes(root.dataset.key)) this.remove(root);
    const roots = new Map([...parent.children].map((root) => [root.dataset.key, root]));
    parent.append(...keys.map((key) => roots.get(key) ?? this.add(parent, key)));
  }

  /** Ask for all panels in view and draw them; what was asked for before and has not come yet is dropped. */
  async refresh() {
    const asked = ++this.asked;
    const inView = [...this.panels.values()].filter((panel) => panel.visible);
    for (let start = 0; start < inView.length; start += AT_ONCE) {
      await this.#ask(inView.slice(start, start + AT_ONCE), () => asked === this.asked);
    }
  }

  redraw() {
    for (const panel of this.panels.values()) if (panel.drawn) this.#draw(panel);
  }

  forgetHeights() {
    for (const panel of this.panels.values()) panel.height = null;
  }

  async #ask(panels, wanted) {
    const { along, log, smooth, zoom, theme } = this.settings;
    const widest = Math.max(...panels.map((panel) => panel.plot.clientWidth), 100);
    const lines = Math.max(1, ...panels.map((panel) => panel.answer?.lines.length ?? this.runs));
    const bins = Math.round(Math.max(80, Math.min(widest, 2400 / lines)) / 20) * 20;
    const query = new URLSearchParams({ x: along, theme, bins: String(bins) });
    if (log !== "") query.set("log", log);
    if (smooth !== null) query.set("smooth", smooth.toFixed(5));
    if (zoom !== null) for (const [place, name] of ["from", "to"].entries()) query.set(name, String(zoom[place]));
    if (zoom !== null && along === "time" && this.unit) query.set("unit", String(this.unit)); // what zoom is in
    for (const panel of panels) query.append("panel", panel.key);
    const answer = await fetch(`api/panels?${query}`, { cache: "no-store", signal: AbortSignal.timeout(20000) });
    const said = await answer.json();
    if (!answer.ok) throw new Error(said.error ?? `HTTP ${answer.status}`);
    if (!wanted()) return;
    this.limits = said.limits;
    this.unit = said.unit;
    for (const [place, panel] of panels.entries()) {
      panel.answer = said.panels[place];
      if (this.panels.has(panel.root)) this.#draw(panel);
    }
  }

  #draw(panel) {
    const { answer } = panel;
    const { along, zoom, hiddenRuns } = this.settings;
    panel.title.textContent = answer.title;
    panel.said.textContent = answer.said.join("   ");
    this.#showLegend(panel);
    const lines = new Map(answer.lines.map((line) => [line.label, line]));
    const isShown = ({ metric, run }) => !panel.hidden.has(metric) && !hiddenRuns.has(run);
    const data = answer.figure.data.map((trace) => ({ ...trace, visible: isShown(lines.get(trace.legendgroup)) }));
    const layout = structuredClone(answer.figure.layout);
    layout.autosize = true;
    layout.dragmode = TOUCH ? false : "zoom"; // a finger scrolls the page
    layout.xaxis.range = [...(zoom ?? this.limits ?? [0, 1])];
    if (layout.xaxis.range[1] - layout.xaxis.range[0] < FEW_STEPS && along === "step") layout.xaxis.dtick = 1;
    if (panel.height) layout.yaxis.range = [...panel.height];
    Plotly.react(panel.plot, data, layout, CONFIG);
    if (!panel.drawn) {
      panel.drawn = true;
      panel.plot.on("plotly_relayout", (change) => this.#boxed(panel, change));
      panel.plot.on("plotly_doubleclick", () => this.zoomed(null));
    }
  }

  #boxed(panel, change) {
    const [first, last] = [change["xaxis.range[0]"], change["xaxis.range[1]"]];
    const [low, high] = [change["yaxis.range[0]"], change["yaxis.range[1]"]];
    if (low !== undefined) panel.height = [low, high];
    if (first !== undefined) this.zoomed([first, last]);
  }

  /** Legends are buttons: plotly's own cannot be reached with a keyboard. Of several runs the page has one for all. */
  #showLegend(panel) {
    const entries = new Map(); // metric -> colour and styles: more than eight runs have more than one of these
    for (const { metric, run, colour, dash } of panel.answer.lines) {
      const entry = entries.get(metric) ?? { colour: run === null ? colour : "", dashes: [] };
      if (!entry.dashes.includes(dash)) entry.dashes.push(dash);
      entries.set(metric, entry);
    }
    const [only] = entries.keys();
    const needed = entries.size > 1 || (entries.size === 1 && only !== panel.answer.title);
    const mark = JSON.stringify([[...entries], [...panel.hidden]]);
    if (panel.legend.dataset.mark === mark) return;
    panel.legend.dataset.mark = mark;
    const buttons = [...(needed ? entries : [])].map(([metric, { colour, dashes }]) => {
      const swatch = newSwatch();
      paintSwatch(swatch, dashes, colour);
      const button = element("button", { type: "button", ariaPressed: String(!panel.hidden.has(metric)) });
      button.append(swatch, metric);
      button.addEventListener("click", () => {
        if (!panel.hidden.delete(metric)) panel.hidden.add(metric);
        this.#draw(panel);
        panel.legend.children[[...entries.keys()].indexOf(metric)]?.focus();
      });
      return button;
    });
    panel.legend.replaceChildren(...buttons);
  }

  #moved(entries) {
    for (const entry of entries) {
      const panel = this.panels.get(entry.target);
      if (panel) panel.visible = entry.isIntersecting;
    }
    const left = [...this.panels.values()].filter((panel) => panel.drawn && !panel.visible);
    for (const panel of left.slice(0, Math.max(0, left.length - KEPT))) {
      Plotly.purge(panel.plot);
      panel.drawn = false;
    }
    clearTimeout(this.moving); // not once for each that scrolls by
    this.moving = setTimeout(() => this.refresh().catch(console.warn), 60);
  }
}
