// The form and the scene that it says; a scene is a query of strings, as in scene.py.

import { colourOf, MARKS } from "./brush.js";

const WORDS = {
  plain: "plain: f(y K + u)",
  antisymmetric: "antisymmetric: f(½ y (K − Kᵀ − γ I) + u)",
  symmetric: "symmetric: −f(y K + u) Kᵀ",
  hamiltonian: "Hamiltonian, one kernel: y′ = f(z Kᵀ + u), z′ = −f(y K + u)",
  double_hamiltonian: "Hamiltonian, two kernels: y′ = f(z K + u₁) Kᵀ, z′ = −f(y K + u₂) Kᵀ",
  euler: "Euler: the residual network",
  rk4: "Runge–Kutta: fourth order",
  midpoint: "midpoint: two steps",
  leapfrog: "leapfrog: y″ = f",
  verlet: "Verlet: z first, then y with the new z",
  full: "a whole one (as in the source)",
  half: "half of one (second order)",
  constant: "constant",
  smooth: "changes smoothly (a sine)",
  abrupt: "changes abruptly (its sign)",
};
const PLAIN = ["step_size", "depth", "strength", "period", "cloud", "spread"];
// Rows that some networks have no use for.
const ROWS = { damping: "damping-row", strength: "variation-row", period: "variation-row" };
const SLIDES = ["step_size", "depth", "damping"];
const byId = (id) => document.getElementById(id);

export class Settings {
  constructor(given, changed) {
    this.given = given;
    this.changed = changed;
    this.scene = {};
    for (const [name, known] of Object.entries(given.choices)) {
      for (const value of known) byId(name).add(new Option(words(value)[0], value));
      byId(name).addEventListener("change", () => this.read(name));
    }
    for (const name of [...PLAIN, "damping"]) this.listen(byId(name), name);
    for (const name of SLIDES) {
      byId(`${name}-slide`).addEventListener("input", (event) => {
        byId(name).value = event.target.value;
        this.read(name);
      });
    }
    for (const name of ["rows", "columns", "damping-auto"]) byId(name).addEventListener("change", () => this.read(name));
    byId("clear").addEventListener("click", () => this.setFeatures(this.features().slice(0, 1)));
  }

  listen(input, name) {
    input.addEventListener("change", () => this.read(name));
    input.addEventListener("keydown", (event) => step(event, () => this.read(name)));
  }

  // Put a scene (a query) into the form.
  write(query) {
    this.scene = Object.fromEntries(new URLSearchParams(query));
    for (const name of [...Object.keys(this.given.choices), ...PLAIN]) byId(name).value = this.scene[name];
    const auto = this.scene.damping === "auto";
    byId("damping-auto").checked = auto;
    byId("damping").value = auto ? "" : this.scene.damping;
    this.writeKernel(matrix(this.scene.kernel));
    this.writeBias(matrix(this.scene.bias));
    this.writeFeatures(matrix(this.scene.features));
    this.arrange();
  }

  // Read the form after one of its parts changed, and tell.
  read(name) {
    for (const each of Object.keys(this.given.choices)) this.scene[each] = byId(each).value;
    for (const each of PLAIN) this.scene[each] = typed(byId(each));
    if (name === "field") this.fitMethod();
    const square = this.given.square.includes(this.scene.field);
    if (square) byId(name === "columns" ? "rows" : "columns").value = byId(name === "columns" ? "columns" : "rows").value;
    const [rows, columns] = ["rows", "columns"].map((id) => Number(byId(id).value));
    const old = this.kernel();
    if (old.length !== rows || old[0].length !== columns) {
      this.writeKernel(Array.from({ length: rows }, (_, i) => Array.from({ length: columns }, (__, j) => old[i]?.[j] ?? (i === j ? "1" : "0"))));
    }
    this.scene.kernel = text(this.kernel());
    this.writeBias(entries("bias"));
    const bias = entries("bias");
    this.scene.bias = bias.flat().every((value) => value !== "" && Number(value) === 0) ? "" : text(bias); // none is 0
    this.scene.features = text(this.features());
    if (!byId("damping-auto").checked && byId("damping").value === "") byId("damping").value = "0";
    this.scene.damping = byId("damping-auto").checked ? "auto" : typed(byId("damping"));
    this.arrange();
    this.changed();
  }

  // What matters for this network: a number in a row that is hidden can refuse none.
  query() {
    const shown = Object.entries(this.scene).filter(([name]) => !byId(ROWS[name])?.hidden);
    return new URLSearchParams(shown).toString();
  }

  // How many coordinates y and z have together (Scene.channels).
  coordinates() {
    const kernel = this.kernel();
    const rows = kernel.length;
    if (!this.scene.field.includes("hamiltonian")) return rows;
    return rows + (this.scene.field === "hamiltonian" ? kernel[0].length : rows);
  }

  // Why the form says no scene, or null. A table goes as numbers between commas and semicolons, so a cell that
  // holds one would be taken for several numbers: of another network, if their count happened to fit.
  refusal() {
    const torn = [...document.querySelectorAll("#kernel input, #bias input, #features input")].find((input) => /[,;]/.test(input.value));
    return torn ? `${torn.getAttribute("aria-label")} must be one number, such as 0.5 or 0,5, got '${torn.value.trim()}'` : null;
  }

  kernel() {
    return entries("kernel");
  }

  writeKernel(rows) {
    this.writeEntries("kernel", rows, (i, j) => `Kernel entry, row ${i}, column ${j}`);
    byId("rows").value = rows.length;
    byId("columns").value = rows[0].length;
  }

  // As many numbers as this field and kernel take (Scene.biases); those that were there stay.
  writeBias(old) {
    const kernel = this.kernel();
    const [rows, columns] = [kernel.length, kernel[0].length];
    const width = this.scene.field === "hamiltonian" && rows !== columns ? 1 : columns;
    const two = this.scene.field === "double_hamiltonian";
    const wanted = Array.from({ length: two ? 2 : 1 }, (_, i) => Array.from({ length: width }, (__, j) => old[i]?.[j] ?? "0"));
    if (text(wanted) === text(entries("bias"))) return; // an input that is written anew would lose the focus
    this.writeEntries("bias", wanted, (i, j) => `Bias ${two ? ["u₁ (in y′)", "u₂ (in z′)"][i - 1] : "u"}, entry ${j}`);
  }

  writeEntries(name, rows, label) {
    const place = byId(name);
    place.dataset.rows = rows.length;
    place.style.gridTemplateColumns = `repeat(${rows[0].length}, 1fr)`;
    place.replaceChildren();
    rows.forEach((row, i) => row.forEach((value, j) => {
      const input = numberInput(value, label(i + 1, j + 1));
      input.id = `${name}-${i + 1}-${j + 1}`;
      this.listen(input, name);
      place.append(input);
    }));
  }

  features() {
    return Array.from(byId("features").children, (item) => Array.from(item.querySelectorAll("input"), typed));
  }

  setFeatures(features) {
    this.writeFeatures(features);
    this.read("features");
  }

  writeFeatures(features) {
    byId("features").replaceChildren(...features.map((feature, index) => this.featureItem(feature, index)));
  }

  featureItem(feature, index) {
    const item = document.createElement("li");
    const sign = document.createElement("span");
    sign.className = "mark";
    sign.textContent = MARKS[index % MARKS.length];
    sign.setAttribute("aria-hidden", "true");
    const inputs = feature.map((value, axis) => numberInput(value, `Feature ${index + 1}, ${["first", "second"][axis]} coordinate`));
    for (const input of inputs) this.listen(input, "features");
    const remove = document.createElement("button");
    remove.type = "button";
    remove.textContent = "✕";
    remove.setAttribute("aria-label", `Remove feature ${index + 1}`);
    remove.addEventListener("click", () => {
      this.setFeatures(this.features().filter((_, other) => other !== index));
      (byId("features").querySelectorAll("button")[Math.max(0, index - 1)] ?? byId("clear")).focus();
    });
    item.append(sign, ...inputs, remove);
    return item;
  }

  // The marks in the colours of the theme.
  paint() {
    document.querySelectorAll("#features .mark").forEach((sign, index) => {
      sign.style.color = colourOf(index);
    });
  }

  // A method that cannot move the chosen field gives way to one that can.
  fitMethod() {
    const fits = (name) => this.given.moves[name].includes(this.scene.field);
    if (!fits(this.scene.integrator)) this.scene.integrator = Object.keys(this.given.moves).find(fits);
    byId("integrator").value = this.scene.integrator;
  }

  // What does not matter for this network is not shown.
  arrange() {
    for (const option of byId("integrator").options) option.disabled = !this.given.moves[option.value].includes(this.scene.field);
    for (const name of ["field", "integrator"]) byId(`${name}-words`).textContent = words(this.scene[name])[1] ?? "";
    // Which part moves first: Verlet.shears.
    if (this.scene.integrator === "verlet" && this.scene.field === "double_hamiltonian" && this.scene.start === "full") byId("integrator-words").textContent = "y first, then z with the new y";
    byId("start-row").hidden = !["verlet", "leapfrog"].includes(this.scene.integrator);
    byId("damping-row").hidden = this.scene.field !== "antisymmetric";
    byId("damping").disabled = byId("damping-slide").disabled = this.scene.damping === "auto";
    byId("variation-row").hidden = this.scene.variation === "constant";
    for (const name of SLIDES) byId(`${name}-slide`).value = this.scene[name];
  }

  // The inputs that an error of the server means.
  point(message) {
    const means = { "step size": "step_size", depth: "depth", damping: "damping", strength: "strength", period: "period", cloud: "cloud", spread: "spread" };
    for (const input of document.querySelectorAll('#controls input[type="text"]')) {
      const named = Object.entries(means).some(([words, id]) => message?.replace("_", " ").startsWith(words) && input.id === id);
      const bad = message !== null && (named || (input.offsetParent !== null && !input.disabled && !Number.isFinite(Number(input.value || NaN))));
      if (bad) input.setAttribute("aria-invalid", "true");
      else input.removeAttribute("aria-invalid");
    }
  }
}

// The numbers of a table of inputs, row by row.
function entries(name) {
  const rows = Number(byId(name).dataset.rows ?? 0);
  const values = Array.from(byId(name).querySelectorAll("input"), typed);
  const columns = values.length / rows;
  return Array.from({ length: rows }, (_, i) => values.slice(i * columns, (i + 1) * columns));
}

// What stands in an input. One comma alone is a decimal one, and becomes the point that it means where it is seen; not in
// a count, whose comma can only part thousands.
function typed(input) {
  const value = input.value.trim();
  if (input.inputMode === "numeric" || !/^[^.,;]*,[^.,;]*$/.test(value)) return value;
  input.value = value.replace(",", ".");
  return input.value;
}

function numberInput(value, label) {
  const input = document.createElement("input");
  input.type = "text";
  input.inputMode = "decimal";
  input.value = value;
  input.setAttribute("aria-label", label);
  return input;
}

// The arrow keys change a number by a tenth (a whole one where it counts something).
function step(event, done) {
  const sign = { ArrowUp: 1, ArrowDown: -1 }[event.key];
  if (!sign) return;
  const content = typed(event.target);
  const value = Number(content);
  if (content === "" || !Number.isFinite(value)) return;
  event.preventDefault();
  const size = event.target.inputMode === "numeric" ? 1 : 0.1;
  event.target.value = String(Number((value + sign * size).toPrecision(12)));
  done();
}

// The name of a choice, and its formula where it has one.
function words(value) {
  return (WORDS[value] ?? value).split(": ");
}

function matrix(query = "") {
  return query.split(";").filter(Boolean).map((row) => row.split(","));
}

function text(rows) {
  return rows.map((row) => row.join(",")).join(";");
}
