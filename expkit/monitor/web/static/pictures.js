// The pictures of the runs: of each kind the newest, and a slider over the steps.

import { element, reconcile } from "./elements.js";

const $ = (id) => document.getElementById(id);

export class Pictures {
  #tag = "";

  /** Ask what pictures there are. */
  async update() {
    const headers = this.#tag ? { "If-None-Match": this.#tag } : {};
    const answer = await fetch("api/pictures", { headers, cache: "no-store" });
    if (answer.status === 304 || !answer.ok) return;
    this.#tag = answer.headers.get("ETag") ?? "";
    const said = await answer.json();
    const several = said.runs.length > 1;
    const kinds = said.runs.flatMap(({ run, kinds }, number) =>
      kinds.map((kind) => ({ ...kind, key: `${number}/${kind.kind}`, whose: several ? `${run}: ` : "" })),
    );
    $("pictures-part").hidden = kinds.length === 0;
    $("picture-count").textContent = `(${kinds.length})`;
    reconcile($("pictures"), kinds, (kind) => kind.key, newKind);
    for (const [place, kind] of kinds.entries()) $("pictures").children[place].take(kind);
  }
}

/** Return a card that shows one kind; what is new is shown at once, unless somebody looks at an older one. */
function newKind({ kind, whose }) {
  const said = element("p", { className: "said" });
  const slider = element("input", { type: "range", min: 0, max: 0, value: 0, ariaLabel: `step of ${kind}` });
  const image = element("img", { loading: "lazy" });
  const root = element(
    "figure",
    { className: "panel" },
    element("div", { className: "head" }, element("h3", {}, whose + kind), said),
    slider,
    image,
  );
  let pictures = [];

  function show() {
    const picture = pictures[Number(slider.value)];
    const step = picture.step < 0 ? "" : `step ${picture.step.toLocaleString("en-US")}`;
    const number = pictures.length > 1 ? ` (${Number(slider.value) + 1} of ${pictures.length})` : "";
    said.textContent = step + number;
    slider.setAttribute("aria-valuetext", step);
    image.alt = `${kind} ${step}`;
    if (image.getAttribute("src") !== picture.url) image.src = picture.url;
  }

  slider.addEventListener("input", show);
  root.take = (now) => {
    const atEnd = Number(slider.value) === Number(slider.max);
    pictures = now.pictures;
    slider.max = pictures.length - 1;
    slider.hidden = pictures.length < 2;
    if (atEnd) slider.value = slider.max;
    show();
  };
  return root;
}
