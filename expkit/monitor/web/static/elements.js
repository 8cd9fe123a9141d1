// Small things that all parts of the page need. Text from runs becomes text nodes, never HTML.

/** Return a new element with properties and children; `role` and the like are attributes. */
export function element(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name in made) made[name] = value;
    else made.setAttribute(name, value);
  }
  made.append(...children);
  return made;
}

/** Return a sample of a line for a legend, to be painted. */
export function newSwatch() {
  return element("span", { className: "swatch" });
}

/** Show a line of each of some styles (solid, dash, dot, dashdot), one below the other. */
export function paintSwatch(swatch, dashes, colour) {
  swatch.style.color = colour;
  swatch.replaceChildren(...dashes.map((dash) => element("span", { className: dash })));
}

/** Return a number with thousands separated, and few digits. */
export function digits(value, most = 4) {
  if (!Number.isFinite(value)) return String(value);
  if (Number.isInteger(value)) return value.toLocaleString("en-US");
  const size = Math.abs(value);
  if (size >= 1e6 || size < 1e-3) return value.toExponential(most - 1);
  return value.toLocaleString("en-US", { maximumSignificantDigits: most });
}

/** Return a time in its two largest units. */
export function span(seconds) {
  const units = [["d", 86400], ["h", 3600], ["min", 60], ["s", 1]];
  const place = Math.max(0, units.findIndex(([, length]) => seconds >= length));
  if (seconds < 60) return `${Math.round(seconds)} s`;
  const [[large, length], [small, part]] = [units[place], units[place + 1]];
  return `${Math.floor(seconds / length)} ${large} ${Math.floor((seconds % length) / part)} ${small}`;
}

/** Put children into a parent, which keeps what is there already under the same key. */
export function reconcile(parent, items, keyOf, make) {
  const kept = new Map([...parent.children].map((child) => [child.dataset.key, child]));
  const wanted = items.map((item) => {
    const key = keyOf(item);
    const child = kept.get(key) ?? make(item);
    child.dataset.key = key;
    return child;
  });
  const stays = new Set(wanted);
  for (const child of [...parent.children]) if (!stays.has(child)) child.remove();
  for (const [place, child] of wanted.entries()) {
    if (parent.children[place] !== child) parent.insertBefore(child, parent.children[place] ?? null);
  }
}
