// Word lattices as they come over the wire (docs/formats/lattice.md), and a picture of them.

const SVG = "http://www.w3.org/2000/svg";
const MAX_ARCS = 24; // more than that nobody can read

/** The fields of a protobuf message: number -> values, undecoded. */
function fieldsOf(bytes) {
  const found = new Map();
  let at = 0;
  const varint = () => {
    let value = 0;
    let scale = 1;
    for (;;) {
      if (at >= bytes.length || scale > 2 ** 56) throw new Error("lattice: cut short");
      const byte = bytes[at];
      at += 1;
      value += (byte & 127) * scale;
      if (byte < 128) return value;
      scale *= 128;
    }
  };
  while (at < bytes.length) {
    const key = varint();
    const kind = key & 7;
    let value;
    if (kind === 0) {
      value = varint();
    } else if (kind === 2) {
      const length = varint();
      value = bytes.subarray(at, at + length);
      at += length;
    } else if (kind === 5) {
      value = bytes.subarray(at, at + 4);
      at += 4;
    } else {
      throw new Error("lattice: unknown field type");
    }
    if (at > bytes.length) throw new Error("lattice: cut short");
    found.set(key >>> 3, value);
  }
  return found;
}

function packed(bytes = new Uint8Array()) {
  const values = [];
  for (let at = 0; at < bytes.length;) {
    let value = 0;
    let scale = 1;
    let byte;
    do {
      byte = bytes[at];
      at += 1;
      value += (byte & 127) * scale;
      scale *= 128;
    } while (byte > 127 && at < bytes.length);
    values.push(value);
  }
  return values;
}

/** Front-coded words: each begins with a character that says how much it shares with the last. */
function wordsOf(bytes = new Uint8Array()) {
  const words = [];
  let last = [];
  let current = null;
  for (const letter of new TextDecoder().decode(bytes)) {
    const code = letter.codePointAt(0);
    if (code < 32) {
      if (current) words.push((last = current).join(""));
      current = last.slice(0, code - 1);
    } else {
      current.push(letter);
    }
  }
  if (current) words.push(current.join(""));
  return words;
}

async function inflated(bytes) {
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate-raw"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

/**
 * @param {Uint8Array} bytes
 * @returns {Promise<{states: number, step: number,
 *   arcs: {src: number, dst: number, word: string, loss: number}[]}>}
 */
export async function parseLattice(bytes) {
  let fields = fieldsOf(bytes);
  if (fields.get(1) !== 1) throw new Error(`lattice: version ${fields.get(1)} is not known`);
  if (fields.get(15)?.length) fields = fieldsOf(await inflated(fields.get(15)));
  const words = wordsOf(fields.get(2));
  const leaving = packed(fields.get(3));
  const ahead = packed(fields.get(4));
  const word = packed(fields.get(5));
  const loss = packed(fields.get(8));
  const step = fields.get(10) ? new DataView(fields.get(10).slice().buffer).getFloat32(0, true) : 1;
  const arcs = [];
  leaving.forEach((count, src) => {
    for (let i = 0; i < count; i += 1) {
      const n = arcs.length;
      const dst = src + 1 + (ahead[n] ?? 0);
      arcs.push({ src, dst, word: word[n] ? words[word[n] - 1] ?? "?" : "", loss: step * (loss[n] ?? 0) });
    }
  });
  return { states: leaving.length + 1, step, arcs };
}

export function fromBase64(text) {
  return Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
}

/**
 * The arcs on the best paths. With an arc all arcs of the best path through it are kept, because
 * none of them is on a worse one; so what is shown holds together.
 */
function likeliest(states, arcs) {
  const behind = new Array(states).fill(Infinity);
  behind[0] = 0;
  const ofPath = arcs.map(({ src, dst, loss }) => {
    const own = behind[src] + loss;
    behind[dst] = Math.min(behind[dst], own);
    return own;
  });
  const limit = [...ofPath].sort((a, b) => a - b)[Math.min(MAX_ARCS, arcs.length) - 1];
  return arcs.filter((_, n) => ofPath[n] <= limit);
}

/** Draw states in a row and arcs as bows; the best path straight and dark. */
export function drawLattice(svg, { states, arcs }) {
  const shown = likeliest(states, arcs);
  const isShown = new Set(shown.flatMap(({ src, dst }) => [src, dst]));
  // The longest path to a state is its column, so that arcs always go right.
  const column = new Array(states).fill(0);
  for (const { src, dst } of shown) column[dst] = Math.max(column[dst], column[src] + 1);
  const rows = new Map();
  const row = column.map((c, state) => {
    if (!isShown.has(state)) return 0;
    const n = rows.get(c) ?? 0;
    rows.set(c, n + 1);
    return n;
  });
  // From the start, the arc that loses nothing.
  const best = new Set();
  for (let state = 0; state < states - 1;) {
    const arc = shown.filter(({ src }) => src === state).sort((a, b) => a.loss - b.loss)[0];
    if (!arc) break;
    best.add(arc);
    state = arc.dst;
  }
  const bestStates = new Set([...best].flatMap(({ src, dst }) => [src, dst]));
  const columns = Math.max(...column) + 1;
  const step = 110;
  const depth = Math.max(1, ...rows.values());
  const height = 90 + 46 * depth;
  const width = step * columns + 20;
  const at = (state) => [
    30 + column[state] * step,
    bestStates.has(state) ? 60 : 60 + 46 * Math.max(1, row[state]),
  ];
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  svg.setAttribute("width", width);
  svg.setAttribute("height", height);
  svg.replaceChildren();
  const make = (name, attributes, text) => {
    const node = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    if (text !== undefined) node.textContent = text;
    svg.append(node);
  };
  const parallel = new Map();
  for (const arc of shown) {
    const [x1, y1] = at(arc.src);
    const [x2, y2] = at(arc.dst);
    const key = `${arc.src} ${arc.dst}`;
    const nth = parallel.get(key) ?? 0;
    parallel.set(key, nth + 1);
    const isBest = best.has(arc);
    const bow = isBest ? 0 : 26 + 24 * nth + 8 * (column[arc.dst] - column[arc.src] - 1);
    const middle = [(x1 + x2) / 2, (y1 + y2) / 2 + bow];
    make("path", {
      d: `M${x1} ${y1}Q${middle[0]} ${middle[1] + bow} ${x2} ${y2}`,
      class: isBest ? "best" : "other",
      "stroke-width": isBest ? 2.5 : Math.max(0.75, 2 - arc.loss / 4),
    });
    make("text", { x: middle[0], y: middle[1] - 6, class: isBest ? "best" : "other" }, arc.word || "ε");
  }
  for (const state of isShown) {
    const [cx, cy] = at(state);
    make("circle", { cx, cy, r: 5 });
  }
  const path = [...best].map(({ word }) => word).filter(Boolean).join(" ");
  svg.setAttribute("aria-label", `The ${shown.length} likeliest of ${arcs.length} arcs over ${states} states; best path: ${path}`);
}
