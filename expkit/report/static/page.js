// The curves: drawn by plotly from the figures in this page, in the reader's theme; all of them show the same part.
"use strict";
{
  const { panels, lines, themes, follow } = JSON.parse(document.getElementById("figures").textContent);
  const plots = [...document.querySelectorAll(".plot")];
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const touch = matchMedia("(pointer: coarse)").matches;
  const config = { displayModeBar: false, displaylogo: false, responsive: true, doubleClick: false };
  const hidden = new Set();
  const whole = panels[0].looks[themes[0]].layout.xaxis.range;
  let seen = whole;
  let printing = false;

  const theme = () => {
    if (printing && themes.includes("light")) return "light";
    return follow && dark.matches ? "dark" : themes[0];
  };

  /** Draw a panel: data once, in the look of the theme. */
  function draw(place) {
    const look = panels[place].looks[theme()];
    const data = look.data.map((trace, number) => ({
      ...trace,
      ...panels[place].data[number],
      visible: !hidden.has(trace.legendgroup),
    }));
    const layout = structuredClone(look.layout);
    layout.autosize = true;
    layout.dragmode = touch ? false : "zoom"; // a finger scrolls the page
    if (seen) layout.xaxis.range = [...seen];
    layout.legend = { orientation: "h", x: 0, y: 1, yanchor: "bottom" };
    if (layout.showlegend) layout.margin.t = 26;
    return Plotly.react(plots[place], data, layout, config);
  }

  function drawAll() {
    showLines();
    plots.forEach((_, place) => draw(place));
  }

  /** What somebody zooms into is seen in all panels; a double click shows the whole. */
  function link(place) {
    plots[place].on("plotly_relayout", (change) => {
      const between = change["xaxis.range"] ?? [change["xaxis.range[0]"], change["xaxis.range[1]"]];
      if (between[0] === undefined) return;
      if (seen && between.every((end, number) => end === seen[number])) return;
      seen = [...between];
      plots.forEach((plot, other) => other !== place && Plotly.relayout(plot, { "xaxis.range": [...seen] }));
    });
    plots[place].on("plotly_doubleclick", () => {
      seen = whole;
      plots.forEach((plot) => Plotly.relayout(plot, { "xaxis.range": [...whole], "yaxis.autorange": true }));
    });
  }

  /** One legend for all panels that show the same things: buttons, which a keyboard reaches. */
  function showLines() {
    const buttons = lines.map(({ label, looks }) => {
      const [colour, dash] = looks[theme()];
      const swatch = document.createElement("span");
      swatch.style.borderTopColor = colour;
      swatch.style.borderTopStyle = { solid: "solid", dash: "dashed" }[dash] ?? "dotted";
      const button = document.createElement("button");
      button.type = "button";
      button.ariaPressed = String(!hidden.has(label));
      button.append(swatch, label);
      button.addEventListener("click", () => {
        if (!hidden.delete(label)) hidden.add(label);
        drawAll();
        document.querySelectorAll("#lines button")[lines.findIndex((line) => line.label === label)]?.focus();
      });
      return button;
    });
    document.getElementById("lines").replaceChildren(...buttons);
  }

  document.querySelectorAll(".panel button").forEach((button, place) => {
    button.hidden = false;
    button.addEventListener("click", () => {
      const { width, height } = plots[place].getBoundingClientRect();
      Plotly.downloadImage(plots[place], { format: "svg", width, height, filename: button.dataset.name });
    });
  });

  showLines();
  let next = 0; // one at a time: the page is there before the last curve is
  const step = () => {
    if (next === plots.length) return;
    draw(next);
    link(next);
    next += 1;
    setTimeout(step);
  };
  step();

  dark.addEventListener("change", drawAll);
  addEventListener("beforeprint", () => {
    printing = true;
    plots.forEach((plot, place) => {
      draw(place);
      Plotly.relayout(plot, { autosize: false, width: 330, height: 220 });
    });
  });
  addEventListener("afterprint", () => {
    printing = false;
    plots.forEach((plot, place) => {
      Plotly.relayout(plot, { width: null, height: null });
      draw(place);
    });
  });
}
