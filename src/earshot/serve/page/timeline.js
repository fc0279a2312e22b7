// The picture of time: level, speech, both end-points and what lies between them.

const SHOWN_S = 12;
const STEP_S = 0.04;

export class Timeline {
  /** @param {HTMLCanvasElement} canvas */
  constructor(canvas) {
    this.canvas = canvas;
    this.context = canvas.getContext("2d");
    this.clear();
    new ResizeObserver(() => this.draw()).observe(canvas);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.draw());
  }

  clear() {
    this.levels = []; // 0..1, one every STEP_S
    this.seconds = 0;
    this.marks = []; // {kind: start | spec | gone | final, t, won?}
    this.spans = []; // {from, to}: the time won
    this.draw();
  }

  /** @param {number} level  0..1 over the next `seconds` of sound */
  push(level, seconds) {
    this.seconds += seconds;
    while (this.levels.length * STEP_S < this.seconds) this.levels.push(level);
  }

  mark(kind, t, specId = null) {
    this.marks.push({ kind, t, specId });
    this.describe();
  }

  withdraw(specId) {
    const mark = this.marks.find((one) => one.kind === "spec" && one.specId === specId);
    if (mark) mark.kind = "gone";
    this.describe();
  }

  win(from, to) {
    this.spans.push({ from, to });
    this.describe();
  }

  describe() {
    const count = (kind) => this.marks.filter((mark) => mark.kind === kind).length;
    const won = this.spans.map(({ from, to }) => `${Math.round(1000 * (to - from))} ms`);
    this.canvas.setAttribute("aria-label",
      `${this.seconds.toFixed(1)} s of sound: ${count("start")} times speech began, `
      + `${count("final")} final ends, ${count("spec")} speculative ends that held and `
      + `${count("gone")} withdrawn${won.length ? `; won ${won.join(", ")}` : ""}.`);
  }

  draw() {
    const { canvas, context } = this;
    const ratio = window.devicePixelRatio || 1;
    const width = canvas.clientWidth;
    const height = canvas.clientHeight;
    if (!width) return;
    if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
      canvas.width = Math.round(width * ratio);
      canvas.height = Math.round(height * ratio);
    }
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.clearRect(0, 0, width, height);
    const style = getComputedStyle(canvas);
    const colour = (name) => style.getPropertyValue(`--${name}`).trim();
    const end = Math.max(SHOWN_S, this.seconds);
    const first = end - SHOWN_S;
    const x = (t) => ((t - first) / SHOWN_S) * width;
    const base = height - 20;
    const top = 26;
    const middle = (top + base) / 2;

    context.fillStyle = colour("won");
    for (const { from, to } of this.spans) {
      if (to > first) context.fillRect(x(from), top, Math.max(2, x(to) - x(from)), base - top);
    }

    context.fillStyle = colour("wave");
    const step = (STEP_S / SHOWN_S) * width;
    for (let i = Math.max(0, Math.floor(first / STEP_S)); i < this.levels.length; i += 1) {
      const half = Math.max(0.75, (this.levels[i] ** 2 * (base - top)) / 2);
      context.fillRect(x(i * STEP_S), middle - half, Math.max(1, step - 0.8), 2 * half);
    }

    context.font = "11px system-ui, sans-serif";
    context.textAlign = "center";
    context.fillStyle = colour("soft");
    for (let t = Math.ceil(first); t <= end; t += 2) {
      context.fillText(`${t} s`, Math.max(12, Math.min(width - 14, x(t))), height - 4);
    }

    for (const { kind, t } of this.marks) {
      if (t < first) continue;
      context.strokeStyle = colour(kind === "gone" ? "spec" : kind);
      context.fillStyle = context.strokeStyle;
      context.lineWidth = 2;
      context.setLineDash(kind === "gone" ? [3, 3] : []);
      context.beginPath();
      context.moveTo(x(t), top);
      context.lineTo(x(t), base);
      context.stroke();
      context.setLineDash([]);
      context.beginPath();
      context.arc(x(t), top, 4, 0, 2 * Math.PI);
      if (kind === "gone") {
        context.fillStyle = colour("card");
        context.fill();
        context.stroke();
      } else {
        context.fill();
      }
    }

    context.fillStyle = colour("ink");
    context.font = "600 12px system-ui, sans-serif";
    let right = -Infinity;
    for (const { from, to } of this.spans) {
      const text = `−${Math.round(1000 * (to - from))} ms`;
      const half = context.measureText(text).width / 2;
      const centre = Math.max(half + 2, Math.min(width - half - 2, x((from + to) / 2)));
      if (to <= first || centre - half < right + 4) continue;
      context.fillText(text, centre, 13);
      right = centre + half;
    }
  }
}
