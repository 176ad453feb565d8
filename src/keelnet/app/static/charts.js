// The curves by layer, and the eigenvalues on the region of the method.

import { brushOf, colourOf, shortly, themed, ticks } from "./brush.js";
import { placeOf } from "./message.js";

const LEFT = 46;
const BOTTOM = 30;
const TOP = 8;
const RIGHT = 38;

// curves: [{values, colour, name}], at the layers given; logarithmic: the values are powers of ten already.
export function drawCurves(canvas, layers, curves, { layer, depth, logarithmic = false, level = null }) {
  const { brush, width, height } = brushOf(canvas);
  const [low, high] = range(curves, logarithmic, level);
  const x = (value) => LEFT + ((width - LEFT - RIGHT) * value) / Math.max(1, depth);
  const y = (value) => height - BOTTOM - ((height - BOTTOM - TOP) * (value - low)) / (high - low);
  axes(brush, { width, height, x, y, low, high, depth, logarithmic });
  if (level !== null) {
    brush.strokeStyle = themed("soft");
    brush.setLineDash([5, 4]);
    stroke(brush, [[LEFT, y(level)], [width - RIGHT, y(level)]]);
    brush.setLineDash([]);
  }
  brush.lineWidth = 1.6;
  let taken = [];
  curves.forEach(({ values, colour, name }, index) => {
    // Over a curve that it would hide a curve is dashed.
    const hides = curves.slice(0, index).some((other) => values.every((value, at) => Math.abs(y(value) - y(other.values[at])) < 1.5));
    brush.setLineDash(hides ? [7, 7] : []);
    brush.strokeStyle = colour;
    stroke(brush, Array.from(values, (value, at) => [x(layers[at]), y(value)]));
    brush.setLineDash([]);
    taken = label(brush, name, colour, width - RIGHT + 3, y(values[values.length - 1]) + 4, height - BOTTOM, taken);
  });
  brush.strokeStyle = themed("ink");
  brush.lineWidth = 1;
  stroke(brush, [[x(layer), TOP], [x(layer), height - BOTTOM]]);
}

// A name at the end of its curve with a stroke of its colour, or below the names that stand there; above them at the bottom.
function label(brush, name, colour, x, end, bottom, taken) {
  if (!name) return taken;
  const free = (step) => {
    let y = Math.min(end, bottom);
    while (taken.some((other) => Math.abs(other - y) < 12)) y += step;
    return y;
  };
  const y = free(1) <= bottom ? free(1) : free(-1);
  brush.fillStyle = colour;
  brush.fillRect(x, y - 9, 3, 10);
  brush.fillStyle = themed("ink");
  brush.textAlign = "left";
  brush.fillText(name, x + 5, y);
  return [...taken, y];
}

function range(curves, logarithmic, level) {
  let low = level ?? (logarithmic ? 0 : Infinity);
  let high = level ?? (logarithmic ? 0 : -Infinity);
  for (const { values } of curves) {
    for (const value of values) {
      low = Math.min(low, value);
      high = Math.max(high, value);
    }
  }
  if (!Number.isFinite(low)) return [0, 1];
  if (!logarithmic) low = Math.min(0, low);
  const least = logarithmic ? 0.3 : 1e-12;
  const free = Math.max(high - low, least) * 0.06;
  return [logarithmic || low < 0 ? low - free : low, high + free];
}

function axes(brush, { width, height, x, y, low, high, depth, logarithmic }) {
  brush.strokeStyle = themed("grid");
  brush.fillStyle = themed("soft");
  brush.lineWidth = 1;
  brush.textAlign = "right";
  const wanted = ticks(low, high, 4).filter((value) => !logarithmic || high - low < 2 || Number.isInteger(value));
  for (const value of wanted) {
    stroke(brush, [[LEFT, y(value)], [width - RIGHT, y(value)]]);
    brush.fillText(logarithmic ? powerOfTen(value) : shortly(value), LEFT - 5, y(value) + 4);
  }
  brush.textAlign = "center";
  for (const value of ticks(0, depth, 5).filter(Number.isInteger)) brush.fillText(shortly(value), x(value), height - BOTTOM + 14);
  brush.fillText("layer", (LEFT + width - RIGHT) / 2, height - 3);
}

export function powerOfTen(value) {
  if (!Number.isInteger(value)) return `×${shortly(Number((10 ** value).toPrecision(2)))}`;
  if (value >= 0 && value < 4) return `×${10 ** value}`;
  const digits = String(value).replace("-", "⁻").replace(/\d/g, (digit) => "⁰¹²³⁴⁵⁶⁷⁸⁹"[digit]);
  return `×10${digits}`;
}

function stroke(brush, points) {
  brush.beginPath();
  for (const [x, y] of points) brush.lineTo(x, y);
  brush.stroke();
}

export function drawSpectrum(canvas, picture, layer) {
  const { brush, width, height } = brushOf(canvas);
  const h = picture.squared ? picture.step_size ** 2 : picture.step_size;
  const { region, eigenvalues, eigen_layers } = picture.arrays;
  const outline = pairs(region.values, 1);
  const every = pairs(eigenvalues.values, h);
  const box = square([...outline, ...every], width - 2 * LEFT, height - BOTTOM - TOP);
  const x = (value) => width / 2 + (value - box.x) * box.unit;
  const y = (value) => (height - BOTTOM + TOP) / 2 - (value - box.y) * box.unit;
  spectrumAxes(brush, { width, height, x, y, box });
  brush.fillStyle = brush.strokeStyle = colourOf(3);
  brush.globalAlpha = 0.25;
  brush.beginPath();
  for (const [re, im] of outline) brush.lineTo(x(re), y(im));
  brush.fill();
  brush.globalAlpha = 1;
  brush.lineWidth = outline.length === 2 ? 4 : 1.5;
  stroke(brush, outline.map(([re, im]) => [x(re), y(im)]));
  brush.fillStyle = themed("soft");
  for (const [re, im] of every) brush.fillRect(x(re) - 1, y(im) - 1, 2, 2);
  const count = eigenvalues.shape[1];
  const place = placeOf(eigen_layers.values, layer);
  brush.strokeStyle = themed("ink");
  brush.lineWidth = 1.5;
  for (const [re, im] of every.slice(place * count, (place + 1) * count)) {
    brush.beginPath();
    brush.arc(x(re), y(im), 6, 0, 2 * Math.PI);
    brush.stroke();
  }
  brush.strokeStyle = themed("bad");
  brush.lineWidth = 2.5;
  for (const [re, im] of every.slice(0, count)) {
    stroke(brush, [[x(re) - 5, y(im) - 5], [x(re) + 5, y(im) + 5]]);
    stroke(brush, [[x(re) - 5, y(im) + 5], [x(re) + 5, y(im) - 5]]);
  }
}

function spectrumAxes(brush, { width, height, x, y, box }) {
  brush.strokeStyle = themed("grid");
  brush.fillStyle = themed("soft");
  brush.lineWidth = 1;
  stroke(brush, [[x(0), TOP], [x(0), height - BOTTOM]]);
  stroke(brush, [[0, y(0)], [width, y(0)]]);
  brush.textAlign = "center";
  for (const value of ticks(box.x - box.across, box.x + box.across, 6)) brush.fillText(shortly(value), x(value), height - BOTTOM + 14);
  brush.textAlign = "left";
  for (const value of ticks(box.y - box.upwards, box.y + box.upwards, 4)) brush.fillText(value === 0 ? "0" : `${shortly(value)} i`, 3, y(value) + 4);
  brush.fillText("imaginary ↑", 3, TOP + 4);
  brush.textAlign = "right";
  brush.fillText("real →", width - 4, height - 3);
}

function pairs(values, scale) {
  const found = [];
  for (let at = 0; at < values.length; at += 2) found.push([scale * values[at], scale * values[at + 1]]);
  return found;
}

// The middle of all points, and pixels a unit, alike on both axes.
function square(points, width, height) {
  const [re, im] = [0, 1].map((axis) => points.map((point) => point[axis]));
  const [left, right, low, high] = [Math.min(0, ...re), Math.max(0, ...re), Math.min(...im), Math.max(...im)];
  const unit = 0.86 * Math.min(width / Math.max(right - left, 1e-9), height / Math.max(high - low, 1e-9));
  return { x: (left + right) / 2, y: (low + high) / 2, unit, across: width / 2 / unit, upwards: height / 2 / unit };
}

export function drawEverything(picture, layer, canvases) {
  const { arrays, features, depth } = picture;
  const shown = { layer, depth };
  drawSpectrum(canvases.spectrum, picture, layer);
  const growth = rowsOf(arrays.growth).map((values, index) => ({ values, colour: colourOf(index), name: features ? `${index + 1}` : "" }));
  drawCurves(canvases.growth, arrays.growth_layers.values, growth, { ...shown, logarithmic: true, level: 0 });
  const near = pairNames(features, picture.near);
  const distances = rowsOf(arrays.distances).map((values, index) => ({ values, colour: colourOf(index + 3), name: near[index][1], first: near[index][0] }));
  drawCurves(canvases.distances, arrays.curve.values, distances.filter((each) => each.first), shown);
  const energy = rowsOf(arrays.energy).map((values, index) => ({ values, colour: colourOf(index), name: features ? `${index + 1}` : "" }));
  drawCurves(canvases.energy, arrays.curve.values, energy, shown);
}

// All pairs in the server's order, by which they have their colours; drawn are those of the first features, as in drawing.py.
function pairNames(features, count) {
  const found = [];
  for (let a = 0; a < features; a += 1) for (let b = a + 1; b < features; b += 1) found.push([b < count, `${a + 1}–${b + 1}`]);
  return found;
}

function rowsOf({ values, shape }) {
  const found = [];
  for (let row = 0; row < shape[0]; row += 1) found.push(values.subarray(row * shape[1], (row + 1) * shape[1]));
  return found;
}
