// The explorer: a changed setting asks the server for a picture, the newest wish first, and draws what comes.

import { shortly } from "./brush.js";
import { drawEverything, powerOfTen } from "./charts.js";
import { fetchPicture, Refused } from "./message.js";
import { Plane } from "./plane.js";
import { Settings } from "./settings.js";
import { dressed } from "./theme.js";

const byId = (id) => document.getElementById(id);
const canvases = Object.fromEntries(["spectrum", "growth", "distances", "energy"].map((id) => [id, byId(id)]));
const plane = new Plane(byId("paths"), byId("plane"));
let settings;
let picture = null;
let drawn = null; // the query that the picture answers; the form may say another, or none
let wanted = null;
let busy = false;
let layer = null; // null: the last
let playing = 0;

dressed(() => picture && draw());

async function begin() {
  const given = await (await fetch("/choices.json")).json();
  settings = new Settings(given, () => {
    byId("preset").value = "";
    byId("hint").textContent = "";
    ask();
  });
  for (const preset of given.presets) byId("preset").add(new Option(preset.title, preset.key));
  byId("preset").addEventListener("change", () => choose(given.presets.find((each) => each.key === byId("preset").value)));
  listen();
  const query = new URLSearchParams(location.search);
  const first = given.presets.find((each) => each.key === (query.get("preset") ?? "fig2b")) ?? given.presets[0];
  if (query.get("kernel")) {
    settings.write(new URLSearchParams({ ...Object.fromEntries(new URLSearchParams(first.query)), ...Object.fromEntries(query) }).toString());
    choosePlane(query.get("across") ?? 0, query.get("up") ?? 1);
    if (query.has("layer")) layer = Number(query.get("layer"));
    for (const own of ["across", "up", "layer", "preset"]) delete settings.scene[own];
    ask();
  } else {
    byId("preset").value = first.key;
    choose(first);
  }
}

function choose(preset) {
  if (!preset) return;
  settings.write(preset.query);
  choosePlane(preset.across, preset.up);
  byId("hint").textContent = preset.hint;
  layer = null;
  ask();
}

// The lists of coordinates are filled by the first picture; until then they hold what is asked for.
function choosePlane(across, up) {
  for (const [id, value] of [["across", across], ["up", up]]) {
    if (![...byId(id).options].some((option) => option.value === String(value))) byId(id).add(new Option("", value));
    byId(id).value = value;
  }
}

// Another field or kernel may have no such coordinates; then the first two are shown.
function sceneQuery() {
  const [across, up] = ["across", "up"].map((id) => Number(byId(id).value));
  const fits = across !== up && [across, up].every((each) => each >= 0 && each < settings.coordinates());
  return `${settings.query()}&across=${fits ? across : 0}&up=${fits ? up : 1}`;
}

async function ask() {
  wanted = { query: sceneQuery(), refusal: settings.refusal(), since: performance.now() };
  if (busy) return;
  busy = true;
  while (wanted) {
    const { query, refusal, since } = wanted;
    wanted = null;
    try {
      if (refusal) throw new Refused(refusal);
      const side = Math.round(byId("plane").clientWidth - 42);
      picture = await fetchPicture(`${query}&side=${Math.min(2000, Math.max(50, side))}`);
      drawn = query;
      complain(null);
      draw();
      requestAnimationFrame(() => performance.measure("keelnet:update", { start: since, end: performance.now() }));
      remember();
    } catch (error) {
      complain(error instanceof Refused ? error.message : `The page lost its server (${error.message}); see whether keelnet explore still runs`);
    }
  }
  busy = false;
  document.documentElement.dataset.drawn = Number(document.documentElement.dataset.drawn ?? 0) + 1;
}

function complain(message) {
  byId("error").hidden = message === null;
  byId("error").textContent = message === null ? "" : `${message}.${picture ? " Shown is the last network that could be computed." : ""}`;
  if (message !== null && !picture) say("what", "There is no picture yet.");
  settings.point(message);
}

function draw() {
  const { verdict } = picture;
  byId("said").dataset.level = verdict.level;
  say("badge", { unstable: "✕ unstable", marginal: "✓ stable", dissipative: "↓ dissipative" }[verdict.level]);
  say("what", verdict.what.replace(/^(Unstable|Stable|Dissipative)[:,] /, "").replace(/^./, (first) => first.toUpperCase()));
  say("why", verdict.why);
  byId("remedy").hidden = verdict.level !== "unstable" || scene().field.includes("hamiltonian");
  if (picture.plane[0] === 0 && picture.plane[1] === 1) byId("caption").textContent = picture.arrows ? `Arrows: ${picture.arrows}, at t = 0. Hollow: layer 0.` : "Hollow: layer 0.";
  else byId("caption").textContent = "Hollow: layer 0. Features are added in the plane of y₁ and y₂.";
  settings.paint();
  fillPlanes();
  byId("layer").max = picture.depth;
  byId("layer").value = shownLayer();
  plane.show(picture);
  drawLayer();
  titles();
}

// Only what changed is announced again.
function say(id, words) {
  if (byId(id).textContent !== words) byId(id).textContent = words;
}

function fillPlanes() {
  if ([...byId("across").options].map((option) => option.text).join() === picture.names.join()) {
    [byId("across").value, byId("up").value] = picture.plane;
    return;
  }
  for (const [id, chosen] of [["across", picture.plane[0]], ["up", picture.plane[1]]]) {
    byId(id).replaceChildren(...picture.names.map((name, index) => new Option(name, index)));
    byId(id).value = chosen;
  }
}

// The settings of the picture that is shown.
function scene() {
  return Object.fromEntries(new URLSearchParams(drawn));
}

function shownLayer() {
  return Math.min(layer ?? picture.depth, picture.depth);
}

function drawLayer() {
  const shown = shownLayer();
  plane.drawLayer(shown);
  const cloud = plane.cloudLayer(shown);
  byId("layer-shown").textContent = `${shown} / ${picture.depth}${cloud === shown ? "" : `, the cloud at ${cloud}`}`;
  drawEverything(picture, shown, canvases);
  if (!playing) say("positions", plane.positions());
}

function titles() {
  const { arrays, step_size: h, squared, damping } = picture;
  const { integrator, field, damping: given } = scene();
  const method = [...byId("integrator").options].find((option) => option.value === integrator).text;
  const count = arrays.eigenvalues.shape[1];
  const scale = squared ? h * h : h;
  const first = Array.from({ length: count }, (_, index) => complex(scale * arrays.eigenvalues.values[2 * index], scale * arrays.eigenvalues.values[2 * index + 1]));
  const least = given === "auto" && field === "antisymmetric" ? `; γ = ${shortly(damping)}` : "";
  const name = squared ? "h² λ" : "h λ";
  say("spectrum-title", `${name} of feature 1 at layer 0 (✕): ${[...new Set(first)].join(", ")}; ○ at the layer shown. Green: where ${method} does not grow${least}`);
  const ends = arrays.growth.values.filter((_, index) => (index + 1) % arrays.growth.shape[1] === 0);
  say("growth-title", `Growth of a small difference, by layer: ${grown(Math.max(...ends))} at the last`);
  say("distances-title", `Distance between ${picture.features > picture.near ? `the first ${picture.near} features` : "features"}, by layer`);
  say("energy-title", `Energy ${picture.energy}, by layer`);
}

// Ten to a power, which may lie past all numbers.
function grown(power) {
  return Math.abs(power) < 300 ? `×${shortly(Number((10 ** power).toPrecision(3)))}` : powerOfTen(Math.round(power));
}

function complex(re, im) {
  const real = Math.abs(re) < 1e-9 ? "0" : shortly(Number(re.toPrecision(3))); // rounding
  if (Math.abs(im) < 1e-9) return real;
  const imaginary = `${shortly(Number(Math.abs(im).toPrecision(3)))} i`;
  return Math.abs(re) < 1e-9 ? `±${imaginary}` : `${real} ± ${imaginary}`;
}

// The address, and the exports, are those of the picture that is shown.
function remember() {
  if (drawn === null) return;
  history.replaceState(null, "", `/?${drawn}${layer === null ? "" : `&layer=${layer}`}`);
  for (const kind of ["png", "svg", "json", "py"]) byId(`export-${kind}`).href = `/export/scene.${kind}?${drawn}`;
}

function add(point) {
  if (!picture) return;
  if (picture.plane[0] !== 0 || picture.plane[1] !== 1) return;
  const features = settings.features();
  if (features.length >= settings.given.most_features) {
    complain(`There are ${features.length} features already, as many as can be told apart; remove one, or add a cloud`);
    return;
  }
  settings.setFeatures([...features, point.map(String)]);
}

// Without a feature or a cloud there is no picture, and no plane to point at.
function first() {
  if (settings.features().length === 0) settings.setFeatures([["0.1", "0.1"]]);
}

function listen() {
  for (const id of ["across", "up"]) byId(id).addEventListener("change", () => swap(id));
  byId("layer").addEventListener("input", (event) => {
    if (!picture) return;
    layer = Number(event.target.value);
    drawLayer();
  });
  byId("layer").addEventListener("change", () => {
    if (!picture) return;
    titles();
    remember();
  });
  byId("play").addEventListener("click", play);
  byId("plane").addEventListener("click", (event) => (picture ? add(plane.pointAt(event.clientX, event.clientY)) : first()));
  byId("plane").addEventListener("keydown", move);
  byId("remedy").addEventListener("click", remedy);
  byId("link").addEventListener("click", copy);
  byId("controls").addEventListener("submit", (event) => event.preventDefault());
  new ResizeObserver(() => picture && draw()).observe(byId("plane-box"));
}

// Both lists cannot name one coordinate: the other takes what this one had.
function swap(id) {
  const other = byId(id === "across" ? "up" : "across");
  if (picture && byId(id).value === other.value) other.value = picture.plane[id === "across" ? 0 : 1];
  ask();
}

function move(event) {
  if (!picture) {
    if (event.key === "Enter") first();
    return;
  }
  const way = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] }[event.key];
  if (event.key === "Escape") plane.cross = null;
  else if (event.key === "Enter" && plane.cross) add(plane.cross);
  else if (way) {
    const step = picture.window / (event.shiftKey ? 100 : 20);
    const from = plane.cross ?? [0, 0];
    plane.cross = from.map((value, axis) => Number((value + step * way[axis]).toPrecision(4)));
    say("positions", `Cross at (${plane.cross.map(shortly).join(", ")}); Enter adds a feature there.`);
  } else return;
  event.preventDefault();
  plane.drawLayer(shownLayer());
}

// About six seconds through all layers.
function play() {
  if (!picture) return;
  cancelAnimationFrame(playing);
  const stop = playing !== 0;
  playing = 0;
  byId("play").setAttribute("aria-pressed", String(!stop));
  byId("play").textContent = stop ? "Play" : "Pause";
  if (stop) {
    drawLayer(); // now in words, too
    titles();
    remember();
    return;
  }
  const start = performance.now();
  const from = shownLayer() >= picture.depth ? 0 : shownLayer();
  const frame = (now) => {
    layer = Math.min(picture.depth, from + Math.floor(((now - start) / 6000) * Math.max(picture.depth, 20)));
    byId("layer").value = layer;
    drawLayer();
    if (layer < picture.depth) playing = requestAnimationFrame(frame);
    else play();
  };
  playing = requestAnimationFrame(frame);
}

// The same kernel in a Hamiltonian field under Verlet, at the same step size: if h is small enough, it holds.
function remedy() {
  byId("field").value = "hamiltonian";
  byId("integrator").value = "verlet";
  settings.read("remedy");
  byId("plane").focus({ preventScroll: true }); // the button goes, and the focus must not be lost with it
}

async function copy() {
  remember();
  try {
    await navigator.clipboard.writeText(location.href);
    byId("copied").textContent = "The link is copied.";
  } catch {
    byId("copied").textContent = "The link is the address of this page.";
  }
}

begin();
