// The things to play with, in pages that may be read from a disk: no server, no network, no library.
// Each finds its element by data-play, whose content until then is a still picture; the numbers and
// the names of the pictures are in front/front.js, made by tools/front.py.
"use strict";

// Pages opened from a disk may not read each other: the search lists them without an excerpt.
if (location.protocol === "file:") DOCUMENTATION_OPTIONS.SHOW_SEARCH_SUMMARY = false;

const NAMES = {
  original: "original",
  jpeg: "JPEG",
  webp: "WebP",
  avif: "AVIF",
  direct: "blurlib, direct",
  perceptual: "blurlib, perceptual",
};

// --- elements

function element(tag, attributes = {}, ...children) {
  const svg = ["svg", "path", "line", "text", "rect", "circle", "polyline", "g", "title"];
  const made = svg.includes(tag)
    ? document.createElementNS("http://www.w3.org/2000/svg", tag)
    : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

/** A slider with its name and its value as text; `changed` hears of every new value. */
function slider(name, { min, max, step, value, text = (v) => v.toFixed(2) }, changed) {
  const input = element("input", { type: "range", min, max, step, value, "aria-label": name });
  const shown = element("span", { class: "play-value", "aria-hidden": "true" }); // aria-valuetext says it
  const update = () => {
    shown.textContent = text(input.valueAsNumber);
    input.setAttribute("aria-valuetext", shown.textContent);
  };
  input.addEventListener("input", () => (update(), changed(input.valueAsNumber)));
  update();
  const set = (v) => ((input.value = v), update());
  const label = element("label", { class: "play-slider" }, element("span", {}, name), input, shown);
  return { label, input, set };
}

/** One of several, as a list that drops down. options: value -> text. */
function choice(name, options, value, changed) {
  const select = element("select", { "aria-label": name });
  for (const [key, text] of Object.entries(options)) {
    const option = element("option", { value: key }, text);
    option.selected = key === value;
    select.append(option);
  }
  select.addEventListener("change", () => changed(select.value));
  return select;
}

const thousands = (n) => n.toLocaleString("en-US");

// --- one photo by two codecs, with a border to drag

function compare(place, { photos }) {
  const state = { photo: "china", left: "jpeg", right: "direct", at: 50 };
  const [left, right] = [0, 1].map(() => element("img"));
  const border = element("div", { class: "play-border", "aria-hidden": "true" });
  const drag = element("input", { type: "range", min: 0, max: 100, step: 1, value: state.at });
  drag.setAttribute("aria-label", "Border between the two pictures, in per cent of the width");
  const stage = element("div", { class: "play-stage play-wipe" }, right, left, drag, border);
  const numbers = { left: element("output"), right: element("output") };

  function show() {
    const { pictures, width, height, description } = photos[state.photo];
    stage.style.aspectRatio = `${width} / ${height}`;
    place.style.maxWidth = `${Math.max(width, 420)}px`; // a browser would smooth what it enlarges
    for (const [side, image] of Object.entries({ left, right })) {
      const { file, bytes, bpp, ms_ssim } = pictures[state[side]];
      image.src = place.dataset.front + file;
      image.alt = `${description}, ${NAMES[state[side]]}, ${thousands(bytes)} bytes`;
      const quality = bpp ? `${bpp.toFixed(2)} bpp, MS-SSIM ${ms_ssim.toFixed(3)}` : "uncompressed";
      numbers[side].textContent = `${thousands(bytes)} bytes, ${quality}`;
    }
  }
  function move() {
    state.at = drag.valueAsNumber;
    stage.style.setProperty("--at", `${state.at}%`);
  }
  const pick = (key) => (value) => ((state[key] = value), show());
  const side = (key) =>
    element(
      "div",
      { class: `play-${key}` },
      choice(`Picture at the ${key}`, NAMES, state[key], pick(key)),
      numbers[key],
    );
  const photoNames = Object.fromEntries(Object.entries(photos).map(([name, { title }]) => [name, title]));
  const photo = choice("Photo", photoNames, state.photo, pick("photo"));
  drag.addEventListener("input", move);
  place.replaceChildren(
    stage,
    element("div", { class: "play-sides" }, side("left"), side("right")),
    element("label", { class: "play-row" }, "Photo", photo),
  );
  show();
  move();
}

// --- the Laplacian bump, and what attention makes of it

function laplacian(place, { laplacian: learned }) {
  const state = { A: learned[0].A, sigma: learned[0].sigma };
  const TOP = 2 * Math.floor(Math.max(...learned.map(({ A }) => A)) / 2) + 2; // even, above every bump
  const SIDE = 8, QUERY = [3, 4]; // the window of the codec, and a non-anchor inside it
  const curve = element("svg", { viewBox: "0 0 320 220", role: "img" });
  const grid = element("svg", { viewBox: "0 0 220 220", role: "img" });
  const stage = element("div", { class: "play-stage play-pair" }, curve, grid);
  const told = element("output", { class: "play-told" });
  const f = (distance) => state.A * Math.exp(-distance / (2 * state.sigma ** 2));

  function drawCurve() {
    const x = (d) => 36 + (d / 7) * 270;
    const y = (v) => 190 - (v / TOP) * 175;
    const parts = Array.from({ length: TOP / 2 + 1 }, (_, i) => 2 * i).map((v) =>
      element("g", {}, element("line", { x1: 36, x2: 306, y1: y(v), y2: y(v), class: "play-rule" }),
        element("text", { x: 28, y: y(v) + 4, "text-anchor": "end" }, String(v))));
    for (let d = 0; d < 8; d++)
      parts.push(element("text", { x: x(d), y: 206, "text-anchor": "middle" }, String(d)));
    const points = Array.from({ length: 141 }, (_, i) => `${x(i / 20)},${y(f(i / 20))}`);
    parts.push(element("polyline", { points: points.join(" "), class: "play-line" }));
    parts.push(element("text", { x: 306, y: 34, "text-anchor": "end" }, "added to the logit, over |Δx| + |Δy|"));
    curve.replaceChildren(...parts);
    curve.setAttribute("aria-label", `The bump falls from ${f(0).toFixed(2)} to ${f(7).toFixed(2)} at a distance of 7`);
  }
  function drawGrid() {
    const keys = [];
    for (let row = 0; row < SIDE; row++)
      for (let column = 0; column < SIDE; column++) {
        const distance = Math.abs(row - QUERY[0]) + Math.abs(column - QUERY[1]);
        keys.push({ row, column, distance, weight: (row + column) % 2 ? 0 : Math.exp(f(distance)) });
      }
    const total = keys.reduce((sum, key) => sum + key.weight, 0);
    const largest = Math.max(...keys.map((key) => key.weight));
    const cell = 220 / SIDE;
    grid.replaceChildren(
      ...keys.map(({ row, column, distance, weight }) => {
        const own = distance === 0;
        const place = { x: column * cell + 1, y: row * cell + 1, width: cell - 2, height: cell - 2 };
        const look = own ? { class: "play-query" } : weight ? { class: "play-key" } : { class: "play-blank" };
        const strength = weight && !own ? { "fill-opacity": 0.06 + 0.94 * (weight / largest) } : {};
        const percent = ((100 * weight) / total).toFixed(1);
        return element("rect", { ...place, ...look, ...strength, rx: 3 }, element("title", {}, `${percent} %`));
      }),
    );
    const near = keys.filter((key) => key.distance === 1).reduce((sum, key) => sum + key.weight, 0);
    const percent = Math.round((100 * near) / total);
    const even = Math.round((100 * 4) / ((SIDE * SIDE) / 2));
    told.textContent =
      `The four nearest of 32 known values get ${percent} % of the attention (${even} % without an ` +
      `encoding). The bump is half as high at a distance of ${(2 * Math.LN2 * state.sigma ** 2).toFixed(1)}.`;
    grid.setAttribute("aria-label", `Attention of one position in its window: ${percent} % on the four nearest`);
  }
  const draw = () => (drawCurve(), drawGrid());
  const own = (key) => (v) => ((state[key] = v), (preset.selectedIndex = -1), draw()); // of no group
  const A = slider("A", { min: 0, max: TOP, step: 0.01, value: state.A }, own("A"));
  const sigma = slider("σ", { min: 0.4, max: 4, step: 0.01, value: state.sigma }, own("sigma"));
  const groups = Object.fromEntries(learned.map((_, j) => [j, `as group ${j + 1} has learned it`]));
  const preset = choice("Values of a group", groups, "0", (j) => {
    Object.assign(state, learned[j]);
    A.set(state.A);
    sigma.set(state.sigma);
    draw();
  });
  place.replaceChildren(stage, A.label, sigma.label, element("div", { class: "play-row" }, preset), told);
  draw();
}

// --- a photo in noise and blur; the schedule is the one of blurlib.diffusion.BlurSchedule

function schedule(t, blurMax) {
  const end = Math.atan(Math.exp(-5)), start = Math.atan(Math.exp(5));
  const logsnr = -2 * Math.log(Math.tan((start - end) * t + end));
  const power = 1 / (1 + Math.exp(-logsnr));
  return { a: Math.sqrt(power), sigma: Math.sqrt(1 - power), blur: blurMax * Math.sin((Math.PI * t) / 2) ** 2 };
}

/** The damping of DCT frequency k of n at a blur of `blur` pixels, without its lower bound. */
const damping = (k, n, blur) => Math.exp((-(Math.PI ** 2) * blur ** 2 * k ** 2) / (2 * n ** 2));

/** left · x · right for matrices n × n in rows. */
function between(left, x, right, n) {
  const half = new Float32Array(n * n), full = new Float32Array(n * n);
  for (const [a, b, out] of [[left, x, half], [half, right, full]])
    for (let i = 0; i < n; i++)
      for (let k = 0; k < n; k++) {
        const factor = a[i * n + k];
        for (let j = 0; j < n; j++) out[i * n + j] += factor * b[k * n + j];
      }
  return full;
}

function gaussians(count) {
  let seed = 1;
  const uniform = () => ((seed = (seed * 48271) % 2147483647), seed / 2147483647);
  const normal = () => Math.sqrt(-2 * Math.log(uniform())) * Math.cos(2 * Math.PI * uniform());
  return Float32Array.from({ length: count }, normal);
}

function diffuse(place, { photo }) {
  const state = { t: 0.4, blurMax: 12 };
  const picture = new Image();
  picture.onload = () => {
    const n = picture.width;
    const canvases = ["the noisy picture", "the photo in it, without the noise"].map((name) =>
      element("canvas", { width: n, height: n, role: "img", "aria-label": name }));
    const contexts = canvases.map((canvas) => canvas.getContext("2d"));
    contexts[0].drawImage(picture, 0, 0);
    const pixels = contexts[0].getImageData(0, 0, n, n).data;
    const C = new Float32Array(n * n), Ct = new Float32Array(n * n); // the orthonormal DCT-II
    for (let k = 0; k < n; k++)
      for (let i = 0; i < n; i++)
        C[k * n + i] = Ct[i * n + k] = Math.sqrt((k ? 2 : 1) / n) * Math.cos((Math.PI * (i + 0.5) * k) / n);
    const spectra = [0, 1, 2].map((c) =>
      between(C, Float32Array.from({ length: n * n }, (_, i) => pixels[4 * i + c] / 127.5 - 1), Ct, n));
    const noise = gaussians(3 * n * n);
    const told = element("output", { class: "play-told" });

    function draw() {
      const { a, sigma, blur } = schedule(state.t, state.blurMax);
      const kept = Float32Array.from({ length: n }, (_, k) => damping(k, n, blur));
      const shown = contexts.map((context) => context.createImageData(n, n));
      spectra.forEach((u, c) => {
        const damped = u.map((value, i) => value * (0.999 * kept[Math.floor(i / n)] * kept[i % n] + 0.001));
        between(Ct, damped, C, n).forEach((x, i) => {
          shown[0].data[4 * i + c] = 127.5 * (a * x + sigma * noise[c * n * n + i] + 1);
          shown[1].data[4 * i + c] = 127.5 * (x + 1);
        });
      });
      shown.forEach((image, which) => {
        for (let i = 3; i < image.data.length; i += 4) image.data[i] = 255;
        contexts[which].putImageData(image, 0, 0);
      });
      told.textContent = `Signal a = ${a.toFixed(2)}, noise σ = ${sigma.toFixed(2)}, blur ${blur.toFixed(1)} pixels of ${n}`;
    }
    let waiting = 0;
    const soon = () => (cancelAnimationFrame(waiting), (waiting = requestAnimationFrame(draw)));
    const t = slider("t", { min: 0, max: 1, step: 0.01, value: state.t }, (v) => ((state.t = v), soon()));
    const text = (v) => (v ? `${v} px` : "none");
    const most = slider("blur at t = 1", { min: 0, max: 24, step: 1, value: state.blurMax, text }, (v) => ((state.blurMax = v), soon()));
    place.replaceChildren(element("div", { class: "play-stage play-pair" }, ...canvases), t.label, most.label, told);
    draw();
  };
  picture.src = photo;
}

// --- a photo after each of the ten passes

function passes(place, { passes: { frames, groups, width, height } }) {
  const image = element("img", { width, height });
  const told = element("output", { class: "play-told" });
  for (const { file } of frames) new Image().src = place.dataset.front + file; // fetched ahead
  function show(pass) {
    const { file, bytes, psnr } = frames[pass];
    const group = Math.ceil(pass / 2), last = frames.at(-1).bytes;
    const what = pass
      ? `group ${group} (${groups[group - 1]} channels), ${pass % 2 ? "anchors" : "non-anchors"}`
      : "header and hyperprior alone";
    image.src = place.dataset.front + file;
    image.alt = `The photo after ${pass} of ${frames.length - 1} passes`;
    told.textContent = `Last read: ${what}. ${thousands(bytes)} of ${thousands(last)} bytes, PSNR ${psnr.toFixed(1)} dB.`;
  }
  const last = frames.length - 1;
  const text = (v) => `${v} of ${last}`;
  const pass = slider("passes", { min: 0, max: last, step: 1, value: 1, text }, show);
  place.replaceChildren(element("div", { class: "play-stage" }, image), pass.label, told);
  show(1);
}

// --- rate–distortion curves: what every codec reaches at a rate

/** The height of a curve [[rate, y] …] at a rate, linear in its logarithm, or null beside it. */
function at(curve, x) {
  const i = curve.findIndex(([right]) => right >= x);
  if (i < 0 || x < curve[0][0]) return null;
  const [[x0, y0], [x1, y1]] = [curve[Math.max(i - 1, 0)], curve[i]];
  return x1 > x0 ? y0 + ((y1 - y0) * Math.log(x / x0)) / Math.log(x1 / x0) : y1;
}

/** measures: of front/curves.js, made by tools/tables.py of what was measured. */
function curves(place, measures) {
  const state = { measure: "ms_ssim_db", bpp: 0.3 };
  const LOW = 0.1, HIGH = 1, WIDTH = 420, HEIGHT = 290;
  const box = { left: 44, right: WIDTH - 10, top: 12, bottom: HEIGHT - 40 };
  const drawing = element("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img" });
  const table = element("table", { class: "play-table" });
  const x = (bpp) => box.left + ((bpp - LOW) / (HIGH - LOW)) * (box.right - box.left);
  const isOurs = (name) => /^(mse|msssim|perceptual)-/.test(name);
  // Nearer to the colour of text, so that pale ones are seen in both themes.
  const colour = (name) =>
    `color-mix(in srgb, ${measures[state.measure].colours[name]} 75%, var(--pst-color-text-base))`;

  const rates = Array.from({ length: 91 }, (_, i) => LOW + i / 100);
  function draw() {
    const { label, codecs } = measures[state.measure];
    const inside = Object.entries(codecs).map(([name, curve]) =>
      [name, rates.map((bpp) => [bpp, at(curve, bpp)]).filter(([, v]) => v !== null)]);
    const values = inside.flatMap(([, points]) => points.map(([, v]) => v));
    const low = Math.min(...values), high = Math.max(...values);
    const y = (v) => box.bottom - ((v - low) / (high - low)) * (box.bottom - box.top);
    const step = [0.1, 0.2, 0.5, 1, 2, 5].find((s) => (high - low) / s <= 6);
    const parts = [];
    for (let v = Math.ceil(low / step) * step; v <= high; v += step)
      parts.push(element("line", { x1: box.left, x2: box.right, y1: y(v), y2: y(v), class: "play-rule" }),
        element("text", { x: box.left - 6, y: y(v) + 4, "text-anchor": "end" }, String(+v.toFixed(2))));
    for (const bpp of [0.1, 0.2, 0.4, 0.6, 0.8, 1])
      parts.push(element("text", { x: x(bpp), y: box.bottom + 16, "text-anchor": "middle" }, String(bpp)));
    parts.push(element("text", { x: box.right, y: HEIGHT - 6, "text-anchor": "end" }, `${label} over bits per pixel`));
    for (const [name, points] of inside)
      parts.push(element("polyline", {
        points: points.map(([bpp, v]) => `${x(bpp)},${y(v)}`).join(" "),
        fill: "none", style: `stroke: ${colour(name)}`, "stroke-width": isOurs(name) ? 3 : 1.6,
      }));
    const reached = Object.entries(codecs)
      .map(([name, curve]) => [name, at(curve, state.bpp)])
      .filter(([, v]) => v !== null)
      .sort(([, a], [, b]) => (state.measure === "lpips" ? a - b : b - a));
    parts.push(element("line", { x1: x(state.bpp), x2: x(state.bpp), y1: box.top, y2: box.bottom, class: "play-marker" }));
    for (const [name, v] of reached)
      parts.push(element("circle", { cx: x(state.bpp), cy: y(v), r: 3.5, style: `fill: ${colour(name)}` }));
    drawing.replaceChildren(...parts);
    const digits = state.measure === "lpips" ? 3 : 2;
    drawing.setAttribute("aria-label", `${label} at ${state.bpp.toFixed(2)} bits per pixel, best: ${reached[0]?.[0]}`);
    table.replaceChildren(...reached.map(([name, v]) => element("tr", {},
      element("th", { scope: "row" }, element("i", { style: `background: ${colour(name)}` }), name),
      element("td", {}, v.toFixed(digits)))));
  }
  const rate = slider("bpp", { min: LOW, max: HIGH, step: 0.01, value: state.bpp }, (v) => ((state.bpp = v), draw()));
  function point(event) {
    const { left, width } = drawing.getBoundingClientRect();
    const part = (((event.clientX - left) / width) * WIDTH - box.left) / (box.right - box.left);
    rate.set(Math.min(HIGH, Math.max(LOW, LOW + part * (HIGH - LOW))));
    state.bpp = rate.input.valueAsNumber; // as the slider has rounded it
    draw();
  }
  for (const kind of ["pointerdown", "pointermove"]) drawing.addEventListener(kind, point);
  const options = Object.fromEntries(Object.entries(measures).map(([key, { label }]) => [key, label]));
  const measure = choice("Measure", options, state.measure, (key) => ((state.measure = key), draw()));
  place.replaceChildren(
    element("div", { class: "play-row" }, measure),
    element("div", { class: "play-stage play-curves" }, drawing, table),
    rate.label,
  );
  draw();
}

// --- every page

document.addEventListener("DOMContentLoaded", () => {
  // The theme names neither the arrows of its table of contents nor the items of the references.
  for (const arrow of document.querySelectorAll(".bd-sidebar summary")) {
    const chapter = arrow.closest("li").querySelector("a");
    arrow.setAttribute("aria-label", `Sections of ${chapter.textContent.trim()}`);
  }
  for (const list of document.querySelectorAll(".citation-list")) list.removeAttribute("role");
  for (const [name, start] of Object.entries({ compare, laplacian, diffuse, passes, curves }))
    for (const place of document.querySelectorAll(`[data-play=${name}]`))
      try {
        start(place, name === "curves" ? CURVES : FRONT);
      } catch (error) {
        console.error(error); // the still picture stays
      }
});

/** A formula that has to be scrolled can be reached by the keyboard. */
function reachable() {
  for (const box of document.querySelectorAll(".katex-display"))
    if (box.scrollWidth > box.clientWidth) box.tabIndex = 0;
    else box.removeAttribute("tabindex");
}
addEventListener("load", reachable);
addEventListener("resize", reachable);
