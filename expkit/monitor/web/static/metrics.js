// All metrics, group by group, behind a filter: only what is open and in view is drawn.

import { element } from "./elements.js";

const OPEN_AT_ONCE = 40; // metrics that a filter may find and open by itself

const $ = (id) => document.getElementById(id);

export class Metrics {
  /** @param {import("./board.js").Board} board draws the panels */
  constructor(board) {
    this.board = board;
    this.groups = new Map(); // title -> {details, title, grid, panels: name -> element}
    this.names = [];
    this.wanted = () => true;
  }

  /** Take the names that the runs have now. */
  update(said) {
    const names = [...new Set(said.runs.flatMap((run) => Object.keys(run.last)))].sort();
    if (names.join("\n") === this.names.join("\n")) return;
    this.names = names;
    this.#show(false);
  }

  /** Show only what a filter names: words that are in a name, or patterns as in a shell; one of them is enough. */
  filter(text) {
    const words = text.split(/[\s,]+/).filter(Boolean);
    const tests = words.map((word) => (/[*?]/.test(word) ? pattern(word) : (name) => name.includes(word)));
    this.wanted = words.length === 0 ? () => true : (name) => tests.some((test) => test(name));
    this.#show(words.length > 0);
  }

  #show(filtered) {
    const found = this.names.filter((name) => this.wanted(name));
    $("count").textContent =
      found.length < this.names.length ? `(${found.length} of ${this.names.length})` : `(${this.names.length})`;
    const titles = new Map();
    for (const name of found) {
      const title = name.includes("/") ? name.slice(0, name.indexOf("/")) : "run";
      titles.set(title, [...(titles.get(title) ?? []), name]);
    }
    for (const title of this.groups.keys()) if (!titles.has(title)) this.#drop(title);
    for (const [title, names] of titles) {
      const group = this.groups.get(title) ?? this.#add(title);
      group.names = names;
      group.title.textContent = `(${names.length})`;
      if (filtered && found.length <= OPEN_AT_ONCE) group.details.open = true;
      if (group.details.open) this.#fill(group);
    }
  }

  #add(title) {
    const counted = element("span");
    const grid = element("div", { className: "panels" });
    const details = element("details", {}, element("summary", {}, `${title} `, counted), grid);
    const group = { details, title: counted, grid, names: [], panels: new Map() };
    details.addEventListener("toggle", () => (details.open ? this.#fill(group) : this.#empty(group)));
    const later = [...this.groups.keys()].filter((other) => other > title).sort()[0];
    $("groups").insertBefore(details, this.groups.get(later)?.details ?? null);
    this.groups.set(title, group);
    return group;
  }

  #drop(title) {
    this.#empty(this.groups.get(title));
    this.groups.get(title).details.remove();
    this.groups.delete(title);
  }

  #fill(group) {
    const wanted = new Set(group.names);
    for (const [name, root] of group.panels) if (!wanted.has(name)) this.#remove(group, name, root);
    for (const name of group.names) {
      if (!group.panels.has(name)) group.panels.set(name, this.board.add(group.grid, name));
    }
  }

  #empty(group) {
    for (const [name, root] of group.panels) this.#remove(group, name, root);
  }

  #remove(group, name, root) {
    this.board.remove(root);
    group.panels.delete(name);
  }
}

function pattern(word) {
  const source = word.replace(/[.+^${}()|[\]\\]/g, "\\$&").replaceAll("*", ".*").replaceAll("?", ".");
  const made = new RegExp(`^${source}$`);
  return (name) => made.test(name);
}
