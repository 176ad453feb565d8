// What all drawings share: colours, marks, crisp canvases, ticks at round numbers.

// Okabe and Ito, with a mark each for those who do not see the colours; as in drawing.py.
const COLOURS = ["#0072B2", "#D55E00", "#C4B300", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#666666"];
const DARK = ["#5AB0E8", "#FF8A45", "#DCCB1E", "#2CC79B", "#E8A0C8", "#A5DBFF", "#FFC04D", "#b4b4b4"];
export const MARKS = ["●", "■", "▲", "◆", "▼", "◀", "▶", "⬟"];

export function colourOf(index) {
  const dark = document.documentElement.dataset.theme === "dark";
  return (dark ? DARK : COLOURS)[index % COLOURS.length];
}

export function themed(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
}

// A context in CSS pixels, cleared.
export function brushOf(canvas) {
  const ratio = Math.min(2, window.devicePixelRatio || 1);
  const width = canvas.clientWidth;
  const height = canvas.clientHeight;
  if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(height * ratio);
  }
  const brush = canvas.getContext("2d");
  brush.setTransform(ratio, 0, 0, ratio, 0, 0);
  brush.clearRect(0, 0, width, height);
  brush.font = "12px system-ui, sans-serif";
  return { brush, width, height };
}

export function ticks(low, high, wanted) {
  const rough = (high - low) / wanted;
  if (!(rough > 0)) return [low];
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((each) => each * power).find((each) => each >= rough);
  const found = [];
  for (let count = Math.ceil(low / step - 1e-9); count * step <= high + 1e-9 * step; count += 1) found.push(count * step);
  return found;
}

export function shortly(value) {
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size >= 1e5 || size < 1e-4) return value.toExponential(1).replace("e+", "e").replaceAll("-", "−");
  return String(Number(value.toPrecision(4))).replace("-", "−");
}

// A mark of one of eight shapes around a point, hollow or filled.
export function mark(brush, index, x, y, size, filled) {
  const shape = index % 8;
  brush.beginPath();
  if (shape === 0) brush.arc(x, y, size, 0, 2 * Math.PI);
  else if (shape === 1) brush.rect(x - size * 0.9, y - size * 0.9, size * 1.8, size * 1.8);
  else {
    const corners = [3, 4, 3, 3, 3, 5][shape - 2];
    const turn = [-90, 0, 90, 180, 0, -90][shape - 2] * (Math.PI / 180);
    for (let corner = 0; corner < corners; corner += 1) {
      const angle = turn + (2 * Math.PI * corner) / corners;
      brush.lineTo(x + 1.25 * size * Math.cos(angle), y + 1.25 * size * Math.sin(angle));
    }
    brush.closePath();
  }
  brush.fillStyle = filled ? colourOf(index) : themed("card");
  brush.strokeStyle = filled ? themed("card") : colourOf(index);
  brush.lineWidth = filled ? 1 : 2;
  brush.fill();
  brush.stroke();
}
