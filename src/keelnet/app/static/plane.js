// The phase plane: paths, arrows of the field, the features at one layer, and a cross to add features by keys.

import { brushOf, colourOf, mark, shortly, themed, ticks } from "./brush.js";
import { placeOf } from "./message.js";

const EDGE = 34;
const INK = Uint8ClampedArray.from({ length: 64 }, (_, crossings) => (crossings ? 40 + (190 * Math.log(crossings)) / Math.log(63) : 0));

export class Plane {
  constructor(still, moving) {
    this.still = still;
    this.moving = moving;
    this.picture = null;
    this.cross = null;
    this.layer = 0;
  }

  show(picture) {
    this.picture = picture;
    this.drawPaths();
  }

  scale() {
    const side = this.still.clientWidth;
    const window_ = this.picture.window;
    const unit = (side - EDGE - 8) / (2 * window_);
    const centre = EDGE + (side - EDGE - 8) / 2;
    const middle = 8 + (side - EDGE - 8) / 2;
    return { side, unit, x: (value) => centre + unit * value, y: (value) => middle - unit * value, centre, middle };
  }

  // The point of the plane under a place on the screen, to as many digits as a pixel tells.
  pointAt(clientX, clientY) {
    const box = this.moving.getBoundingClientRect();
    const { unit, centre, middle } = this.scale();
    const digits = Math.max(0, Math.ceil(Math.log10(unit)));
    return [(clientX - box.left - centre) / unit, (middle - clientY + box.top) / unit].map((value) => Number(value.toFixed(digits)));
  }

  drawPaths() {
    const { brush, width, height } = brushOf(this.still);
    const scale = this.scale();
    this.drawAxes(brush, scale, width, height);
    brush.save();
    brush.beginPath();
    brush.rect(EDGE, 8, width - EDGE - 8, height - EDGE - 8);
    brush.clip();
    this.drawArrows(brush, scale);
    const { paths } = this.picture.arrays;
    const features = this.picture.features;
    this.drawCloud(brush, scale);
    brush.lineWidth = paths.shape[1] > 400 ? 1 : 1.8;
    for (let index = features - 1; index >= 0; index -= 1) {
      brush.strokeStyle = colourOf(index);
      this.drawPath(brush, scale, paths, index);
    }
    for (let index = 0; index < features; index += 1) {
      const at = index * paths.shape[1] * 2;
      mark(brush, index, scale.x(paths.values[at]), scale.y(paths.values[at + 1]), 5, false);
    }
    brush.restore();
  }

  drawCloud(brush, scale) {
    const { cloud, density } = this.picture.arrays;
    if (density) {
      const span = 2 * this.picture.window * scale.unit;
      brush.drawImage(inked(density, themed("cloud")), EDGE, 8, span, span);
      return;
    }
    brush.strokeStyle = themed("cloud");
    brush.lineWidth = 1;
    brush.globalAlpha = 0.4;
    for (let index = 0; index < cloud.shape[0]; index += 1) this.drawPath(brush, scale, cloud, index);
    brush.globalAlpha = 1;
  }

  // Points that move less than a pixel are left out: no eye sees them, and they take most of the time.
  drawPath(brush, scale, { values, shape }, index) {
    const begin = index * shape[1] * 2;
    const end = begin + shape[1] * 2;
    const { unit, centre, middle } = scale;
    let lastX = centre + unit * values[begin];
    let lastY = middle - unit * values[begin + 1];
    brush.beginPath();
    brush.moveTo(lastX, lastY);
    for (let at = begin + 2; at < end; at += 2) {
      const x = centre + unit * values[at];
      const y = middle - unit * values[at + 1];
      if (Math.abs(x - lastX) + Math.abs(y - lastY) < 1 && at < end - 2) continue;
      brush.lineTo(x, y);
      lastX = x;
      lastY = y;
    }
    brush.stroke();
  }

  drawAxes(brush, scale, width, height) {
    const half = this.picture.window;
    brush.fillStyle = themed("soft");
    brush.strokeStyle = themed("grid");
    brush.lineWidth = 1;
    brush.textAlign = "center";
    for (const value of ticks(-half, half, 6)) {
      brush.globalAlpha = value === 0 ? 1 : 0.45;
      line(brush, scale.x(value), 8, scale.x(value), height - EDGE);
      line(brush, EDGE, scale.y(value), width - 8, scale.y(value));
      brush.globalAlpha = 1;
      brush.fillText(shortly(value), scale.x(value), height - EDGE + 14);
      brush.save();
      brush.translate(EDGE - 6, scale.y(value));
      brush.rotate(-Math.PI / 2);
      brush.fillText(shortly(value), 0, 0);
      brush.restore();
    }
    brush.fillStyle = themed("ink");
    const [across, up] = this.picture.plane.map((index) => this.picture.names[index]);
    brush.fillText(across, width / 2 + EDGE / 2, height - 5);
    brush.save();
    brush.translate(12, height / 2 - EDGE / 2);
    brush.rotate(-Math.PI / 2);
    brush.fillText(up, 0, 0);
    brush.restore();
  }

  // Length grows with the square root of the rate, so that weak arrows stay visible.
  drawArrows(brush, scale) {
    const field = this.picture.arrays.field;
    if (!field) return;
    const { values, shape } = field;
    let longest = 0;
    for (let at = 0; at < values.length; at += 4) longest = Math.max(longest, Math.hypot(values[at + 2], values[at + 3]));
    if (longest === 0) return;
    const cell = (2 * this.picture.window * scale.unit) / Math.sqrt(shape[0]);
    brush.strokeStyle = themed("arrow");
    brush.fillStyle = themed("arrow");
    brush.lineWidth = 1.2;
    for (let at = 0; at < values.length; at += 4) {
      const size = Math.hypot(values[at + 2], values[at + 3]);
      if (size < 1e-9 * longest) continue;
      const length = 0.8 * cell * Math.sqrt(size / longest);
      const dx = (length * values[at + 2]) / size;
      const dy = (-length * values[at + 3]) / size;
      arrow(brush, scale.x(values[at]) - dx / 2, scale.y(values[at + 1]) - dy / 2, dx, dy, Math.min(5, length / 2));
    }
  }

  drawLayer(layer) {
    this.layer = layer;
    const { brush } = brushOf(this.moving);
    const scale = this.scale();
    const { paths, layers, cloud, cloud_layers: known } = this.picture.arrays;
    const place = placeOf(layers.values, layer);
    const near = placeOf(known.values, layer);
    brush.fillStyle = themed("dots");
    for (let index = 0; index < cloud.shape[0]; index += 1) {
      const at = 2 * (index * cloud.shape[1] + near);
      brush.fillRect(scale.x(cloud.values[at]) - 1.5, scale.y(cloud.values[at + 1]) - 1.5, 3, 3);
    }
    for (let index = this.picture.features - 1; index >= 0; index -= 1) {
      const at = 2 * (index * paths.shape[1] + place);
      mark(brush, index, scale.x(paths.values[at]), scale.y(paths.values[at + 1]), 7, true);
    }
    if (this.cross) this.drawCross(brush, scale);
  }

  // The layer whose places of the cloud are shown: of a large one they are known at some layers alone.
  cloudLayer(layer) {
    const { cloud, cloud_layers: known } = this.picture.arrays;
    return cloud.shape[0] ? known.values[placeOf(known.values, layer)] : layer;
  }

  drawCross(brush, scale) {
    const [x, y] = [scale.x(this.cross[0]), scale.y(this.cross[1])];
    brush.strokeStyle = themed("ink");
    brush.lineWidth = 2;
    line(brush, x - 9, y, x + 9, y);
    line(brush, x, y - 9, x, y + 9);
  }

  // Where the features are, for those who do not see the picture.
  positions() {
    const { paths, layers } = this.picture.arrays;
    const place = placeOf(layers.values, this.layer);
    const found = [];
    for (let index = 0; index < this.picture.features; index += 1) {
      const at = 2 * (index * paths.shape[1] + place);
      found.push(`feature ${index + 1} at (${shortly(paths.values[at])}, ${shortly(paths.values[at + 1])})`);
    }
    return `Layer ${layers.values[place]}: ${found.join("; ") || "a cloud of points"}.`;
  }
}

// A density as a picture: the more paths cross a pixel, the more ink.
function inked({ values, shape }, colour) {
  const canvas = document.createElement("canvas");
  [canvas.height, canvas.width] = shape;
  const brush = canvas.getContext("2d");
  const image = brush.createImageData(canvas.width, canvas.height);
  const [red, green, blue] = [1, 3, 5].map((at) => parseInt(colour.slice(at, at + 2), 16));
  const inks = Uint32Array.from(INK, (alpha) => ((alpha << 24) | (blue << 16) | (green << 8) | red) >>> 0);
  const pixels = new Uint32Array(image.data.buffer);
  for (let pixel = 0; pixel < pixels.length; pixel += 1) if (values[pixel]) pixels[pixel] = inks[values[pixel]];
  brush.putImageData(image, 0, 0);
  return canvas;
}

function line(brush, x1, y1, x2, y2) {
  brush.beginPath();
  brush.moveTo(x1, y1);
  brush.lineTo(x2, y2);
  brush.stroke();
}

function arrow(brush, x, y, dx, dy, head) {
  const angle = Math.atan2(dy, dx);
  line(brush, x, y, x + dx, y + dy);
  brush.beginPath();
  brush.moveTo(x + dx, y + dy);
  for (const turn of [2.6, -2.6]) brush.lineTo(x + dx + head * Math.cos(angle + turn), y + dy + head * Math.sin(angle + turn));
  brush.fill();
}
