"use strict";
// The chart of networks: choose the axes, point at a network, click it to see its blocks.
// Its data are JSON in the page (explorer.py). Names are only ever set as text, never as HTML.

// Each kind of marked network: its shape, within 9 pixels around 0.
const SHAPES = {
  winner: "M0-9 2.1-2.9 8.6-2.8 3.4 1.1 5.3 7.3 0 3.6-5.3 7.3-3.4 1.1-8.6-2.8-2.1-2.9Z",
  best: "M0-9 2.1-2.9 8.6-2.8 3.4 1.1 5.3 7.3 0 3.6-5.3 7.3-3.4 1.1-8.6-2.8-2.1-2.9Z",
  searched: "M-5.5 0A5.5 5.5 0 1 0 5.5 0 5.5 5.5 0 1 0-5.5 0Z",
  house: "M0-6.5 6 5-6 5Z",
  uniform: "M-5-5H5V5H-5Z",
  "best-uniform": "M0-7 7 0 0 7-7 0Z",
  "random-search": "M-6-4-4-6 0-2 4-6 6-4 2 0 6 4 4 6 0 2-4 6-6 4-2 0Z",
  random: "M-6-1.4H-1.4V-6H1.4V-1.4H6V1.4H1.4V6H-1.4V1.4H-6Z",
};
const MARK = 9; // pixels: the radius of a mark
const NEAR = 28; // pixels within which a network is pointed at
const [LEFT, RIGHT, TOP, BOTTOM] = [64, 14, 26, 44]; // pixels around the plot, for its labels
const views = new Map(); // what the reader has chosen in each chart; kept when it is drawn anew

function make(space, name, attributes, children) {
  const made = document.createElementNS(space, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children); // strings become text
  return made;
}
const tag = (name, attributes = {}, ...children) =>
  make("http://www.w3.org/1999/xhtml", name, attributes, children);
const draw = (name, attributes = {}, ...children) =>
  make("http://www.w3.org/2000/svg", name, attributes, children);

// Numbers as the tables write them: 5.77M.
function quantity(value) {
  const scales = [["T", 1e12], ["G", 1e9], ["M", 1e6], ["K", 1e3]];
  const [suffix, scale] = scales.find(([, one]) => value >= 0.9995 * one) ?? ["", 1];
  return `${Number((value / scale).toPrecision(3))}${suffix}`;
}
const FORMS = {
  count: quantity,
  bytes: (value) => `${quantity(value)}B`.replace(/[TGMK]?B$/, " $&"),
  ms: (value) => `${Number(value.toPrecision(3))} ms`,
  share: (value) => `${(100 * value).toFixed(1)} %`,
  rating: (value) => value.toFixed(4),
};

// Round numbers within a range.
function ticks([low, high], number) {
  const power = 10 ** Math.floor(Math.log10((high - low) / number));
  const step = power * [1, 2, 5, 10].find((one) => one * power * number >= high - low);
  const first = Math.ceil(low / step), last = Math.floor(high / step);
  return Array.from({ length: last - first + 1 }, (_, place) =>
    Number(((first + place) * step).toPrecision(12)));
}

function range(values) {
  const [low, high] = [Math.min(...values), Math.max(...values)];
  const room = 0.06 * (high - low) || 0.06 * Math.abs(high) || 1;
  return [low - room, high + room];
}

// The networks that no other beats in both axes, from left to right.
function bestOf(points) {
  let best = -Infinity;
  return points.filter((one) => one.network.complete).sort((a, b) => a.x - b.x || a.y - b.y)
    .filter((one) => -one.y > best && ((best = -one.y), true)); // pixels: higher is less
}

class Explorer {
  constructor(figure) {
    this.data = JSON.parse(figure.querySelector("script").textContent);
    const { x, y } = this.data.axes;
    this.view = views.get(figure.dataset.name) ?? { x: x[0].key, y: y[0].key, chosen: null };
    views.set(figure.dataset.name, this.view);
    this.points = []; // the drawn networks and where they are, in pixels
    this.pointed = null; // one of them
    this.plot = tag("div", { class: "plot" });
    this.tip = tag("div", { class: "tip", hidden: "" });
    this.blocks = tag("div", { class: "blocks", "aria-live": "polite" });
    const hint = "Point at a network for its numbers, click it for its blocks. The line joins " +
      "the networks that no other beats in both axes.";
    const controls = tag("div", { class: "controls" },
      this.chooser("y", "Up"), this.chooser("x", "Across"));
    figure.querySelector(".static").hidden = true;
    figure.prepend(controls, this.legend(), this.plot, tag("p", { class: "note hint" }, hint),
      this.blocks);
    this.render();
    this.listen();
  }

  axis(way) {
    return this.data.axes[way].find((one) => one.key === this.view[way]);
  }

  chooser(way, label) {
    const options = this.data.axes[way].map((one) => tag("option", { value: one.key }, one.label));
    const select = tag("select", {}, ...options);
    select.value = this.view[way];
    select.addEventListener("change", () => {
      this.view[way] = select.value;
      this.render();
    });
    return tag("label", {}, `${label} `, select);
  }

  legend() {
    const legend = tag("div", { class: "legend" });
    for (const [kind, shape] of Object.entries(SHAPES)) {
      const mine = this.data.networks.filter((one) => one.marks.includes(kind));
      if (!mine.length) continue;
      const icon = draw("svg", { viewBox: "-9 -9 18 18", "aria-hidden": "true" },
        draw("path", { class: `mark ${kind}`, d: shape }));
      const button = tag("button", { type: "button" }, icon, this.data.kinds[kind]);
      let turn = 0; // another click shows the next of its kind
      button.addEventListener("click", () => this.choose(mine[turn++ % mine.length]));
      legend.append(button);
    }
    return legend;
  }

  // What is said of a network: its names, and its numbers.
  title(network) {
    const found = network.origin ? [`${network.name} (${network.origin})`] : [];
    return [...network.labels, ...found].join(", ");
  }

  // All that is known of a network, or the most important of it.
  facts(network, all) {
    const { width, patch, heads } = network.shape;
    const few = ["params", "macs", this.view.x];
    const costs = this.data.axes.x.filter(({ key }) => all || few.includes(key));
    const numbers = [...this.data.axes.y, ...costs]
      .filter(({ key }) => key in network.values)
      .map(({ key, label, form }) => {
        const error = network.errors[key] ? ` ± ${FORMS[form](network.errors[key])}` : "";
        return `${label}: ${FORMS[form](network.values[key])}${error}`;
      });
    return [
      ...numbers,
      `width ${width}, blocks: ${heads.length}, patches of ${patch} x ${patch}`,
      ...(network.complete ? [] : ["dropped by racing: rated on a part of the images"]),
      ...network.finetuned.map(([name, top1]) => `${name}: ${FORMS.share(top1)} top-1`),
    ];
  }

  render() {
    const width = this.plot.clientWidth, height = Math.max(260, Math.min(420, 0.55 * width));
    const [x, y] = [this.axis("x"), this.axis("y")];
    const shown = this.data.networks.filter((one) => x.key in one.values && y.key in one.values);
    const limits = this.data.limits[x.key] ?? [];
    const across = range([...shown.map((one) => one.values[x.key]), ...limits]);
    const up = range(shown.map((one) => one.values[y.key]));
    const span = (value, [low, high]) => (value - low) / (high - low);
    this.box = { left: LEFT, right: width - RIGHT, top: TOP, bottom: height - BOTTOM, width, height };
    this.atX = (value) => LEFT + span(value, across) * (width - RIGHT - LEFT);
    this.atY = (value) => height - BOTTOM - span(value, up) * (height - BOTTOM - TOP);
    this.points = shown.map((network) =>
      ({ network, x: this.atX(network.values[x.key]), y: this.atY(network.values[y.key]) }));
    const label = `${shown.length} networks: ${y.label} against ${x.label}. The arrow keys move ` +
      "from network to network, Enter shows the blocks of one.";
    const svg = draw("svg", { width, height, viewBox: `0 0 ${width} ${height}`, tabindex: 0,
      role: "application", "aria-label": label },
      ...this.drawnAxes(across, up), ...limits.flatMap((value) => this.drawnLimit(value)),
      ...this.drawnNetworks(y.key));
    this.plot.replaceChildren(svg, this.tip);
    this.point(null);
    this.choose(this.data.networks.find((one) => one.name === this.view.chosen));
  }

  drawnAxes(across, up) {
    const { left, right, bottom, width, height } = this.box;
    const [x, y] = [this.axis("x"), this.axis("y")];
    const line = (kind, x1, x2, y1, y2) => draw("line", { class: kind, x1, x2, y1, y2 });
    const text = (kind, at, below, anchor, words) =>
      draw("text", { class: kind, x: at, y: below, "text-anchor": anchor }, words);
    const rows = ticks(up, 5).flatMap((value) => [
      line("grid", left, right, this.atY(value), this.atY(value)),
      text("tick", left - 8, this.atY(value) + 4, "end", FORMS[y.form](value)),
    ]);
    const columns = ticks(across, width < 500 ? 4 : 8).flatMap((value) => [
      line("axis", this.atX(value), this.atX(value), bottom, bottom + 5),
      text("tick", this.atX(value), bottom + 18, "middle", FORMS[x.form](value)),
    ]);
    return [
      text("", 0, 12, "start", `${y.label} (higher is better)`),
      text("", right, height - 6, "end", x.label),
      line("axis", left, right, bottom, bottom), ...rows, ...columns,
    ];
  }

  drawnLimit(value) {
    const { top, bottom } = this.box, at = this.atX(value);
    return [
      draw("line", { class: "budget", x1: at, x2: at, y1: top, y2: bottom }),
      draw("text", { class: "tick", x: at - 5, y: bottom - 6, "text-anchor": "end" }, "budget"),
    ];
  }

  drawnNetworks(key) {
    const best = bestOf(this.points);
    const plain = this.points.filter((one) => !one.network.marks.length).map((one) => {
      const kind = best.includes(one) ? "front" : one.network.complete ? "" : "dropped";
      const r = kind === "front" ? 4 : 3.2;
      return draw("circle", { class: `point ${kind}`, cx: one.x, cy: one.y, r });
    });
    const line = draw("polyline",
      { class: "best", points: best.map((one) => `${one.x},${one.y}`).join(" ") });
    const marked = this.points.filter((one) => one.network.marks.length).reverse(); // winner on top
    const marks = marked.flatMap(({ network, x, y }) => {
      const [kind] = network.marks, error = network.errors[key] ?? 0, value = network.values[key];
      return [
        draw("line", { class: `error ${kind}`, x1: x, x2: x,
          y1: this.atY(value - error), y2: this.atY(value + error) }),
        draw("path", { class: `mark ${kind}`, d: SHAPES[kind], transform: `translate(${x} ${y})` }),
      ];
    });
    return [...plain, line, ...marks];
  }

  ring(one, kind, r) {
    this.plot.querySelector(`.ring.${kind}`)?.remove();
    if (one) {
      const drawn = draw("circle", { class: `ring ${kind}`, cx: one.x, cy: one.y, r });
      this.plot.querySelector("svg").append(drawn);
    }
  }

  point(one) {
    this.pointed = one;
    this.ring(one, "pointed", 8);
    this.tip.hidden = !one;
    if (!one) return;
    const lines = this.facts(one.network, false).map((line) => tag("span", {}, line));
    this.tip.style.left = this.tip.style.top = "0"; // its size without a border nearby
    this.tip.replaceChildren(tag("b", {}, this.title(one.network)), ...lines);
    const { clientWidth: width, clientHeight: height } = this.plot;
    const { offsetWidth, offsetHeight } = this.tip;
    const beside = one.x > width / 2 ? one.x - 14 - offsetWidth : one.x + 14;
    const inside = (at, most) => `${Math.max(0, Math.min(at, most))}px`;
    this.tip.style.left = inside(beside, width - offsetWidth);
    this.tip.style.top = inside(one.y - offsetHeight / 2, height - offsetHeight);
  }

  choose(network) {
    this.view.chosen = network ? network.name : null;
    this.ring(this.points.find((one) => one.network === network), "chosen", 11);
    this.blocks.replaceChildren(...(network ? this.blocksOf(network) : []));
  }

  blocksOf(network) {
    const { head, heads, ratios, mlp } = network.shape;
    const widest = Math.max(...mlp, ...heads.map((one) => one * head));
    const bar = (value, kind) => {
      const drawn = tag("i");
      drawn.style.width = `${(60 * value) / widest}%`;
      return tag("td", {}, tag("div", { class: `bar ${kind}` }, drawn, String(value)));
    };
    const cell = (value) => tag("td", {}, String(value));
    const rows = heads.map((one, place) => tag("tr", {}, cell(place + 1), cell(one),
      bar(one * head, "attention"), cell(ratios[place]), bar(mlp[place], "mlp")));
    const names = ["block", "heads", "q/k/v width", "MLP ratio", "MLP width"];
    const header = names.map((name) => tag("th", { scope: "col" }, name));
    return [
      tag("h3", {}, this.title(network)),
      tag("p", { class: "note" }, this.facts(network, true).join("; ")),
      tag("div", { class: "scroll" },
        tag("table", {}, tag("thead", {}, tag("tr", {}, ...header)), tag("tbody", {}, ...rows))),
    ];
  }

  // A mark is pointed at anywhere within it, and comes before the points that it covers.
  nearest(event) {
    const box = this.plot.getBoundingClientRect();
    const far = (one) => Math.max(0, Math.hypot(
      one.x - (event.clientX - box.left), one.y - (event.clientY - box.top),
    ) - (one.network.marks.length ? MARK : 0));
    const [first] = this.points.filter((one) => far(one) <= NEAR).sort((a, b) =>
      far(a) - far(b) || b.network.marks.length - a.network.marks.length);
    return first ?? null;
  }

  listen() {
    const { plot } = this;
    plot.addEventListener("pointermove", (event) => this.point(this.nearest(event)));
    plot.addEventListener("pointerleave", () => this.point(null));
    plot.addEventListener("click", (event) => {
      this.point(this.nearest(event));
      this.choose(this.pointed?.network);
    });
    plot.addEventListener("keydown", (event) => this.press(event));
    let drawn = plot.clientWidth;
    new ResizeObserver(() => {
      if (plot.clientWidth === drawn) return;
      drawn = plot.clientWidth;
      this.render();
    }).observe(plot);
  }

  press(event) {
    const by = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1 }[event.key];
    const ordered = this.points.slice().sort((a, b) => a.x - b.x || a.y - b.y);
    if (by) {
      const next = (ordered.indexOf(this.pointed) + by + ordered.length) % ordered.length;
      this.point(ordered[next]);
    } else if (event.key === "Enter") {
      this.choose(this.pointed?.network);
    } else if (event.key === "Escape") {
      this.point(null);
      this.choose(null);
    } else return;
    event.preventDefault();
  }
}

function explore(root) {
  root.querySelectorAll(".explorer").forEach((figure) => new Explorer(figure));
}

explore(document);
