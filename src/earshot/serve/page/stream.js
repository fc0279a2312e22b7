// Earshot's WebSocket protocol, version 1: sound in, events out. Knows nothing of the page.

const PATIENCE_BYTES = 1 << 20;

export class Stream {
  /**
   * @param {object} options
   * @param {number} options.rateHz      sample rate of the sound
   * @param {string} options.token       API token, or ""
   * @param {(event: object) => void} options.onEvent
   * @param {(reason: string) => void} options.onClose   "" where all went well
   */
  constructor({ rateHz, token, onEvent, onClose }) {
    this.rateHz = rateHz;
    this.samples = 0;
    this.sentAt = []; // [stream seconds, wall milliseconds] of the newest sample of each message
    this.isOver = false;
    const query = token ? `?token=${encodeURIComponent(token)}` : "";
    const scheme = location.protocol === "https:" ? "wss" : "ws";
    this.socket = new WebSocket(`${scheme}://${location.host}/v1/stream${query}`, "earshot.v1");
    this.socket.binaryType = "arraybuffer";
    let closedWell = false;
    let reason = "";
    this.opened = new Promise((resolve, reject) => {
      this.socket.onopen = () => {
        this.socket.send(JSON.stringify({
          type: "start", sample_rate: Math.round(rateHz), encoding: "s16le", lattice: true,
        }));
        resolve();
      };
      this.socket.onclose = (event) => {
        this.isOver = true;
        if (!closedWell && !reason) reason = `the connection was closed (${event.code})`;
        reject(new Error(reason));
        onClose(reason);
      };
    });
    this.opened.catch(() => {}); // whoever waits is told by onClose too
    this.socket.onmessage = ({ data }) => {
      const event = JSON.parse(data);
      if (event.type === "closed") closedWell = true;
      if (event.type === "error" && event.fatal) reason = event.message;
      onEvent(event);
    };
  }

  /** @param {Float32Array} samples  in -1..1 */
  send(samples) {
    if (this.socket.readyState !== WebSocket.OPEN || samples.length === 0) return;
    const words = new Int16Array(samples.length);
    for (let i = 0; i < samples.length; i += 1) {
      words[i] = Math.max(-1, Math.min(1, samples[i])) * 32767;
    }
    this.socket.send(words);
    this.samples += samples.length;
    this.sentAt.push([this.samples / this.rateHz, performance.now()]);
    if (this.sentAt.length > 4000) this.sentAt.splice(0, 2000);
  }

  get isBehind() {
    return this.socket.bufferedAmount > PATIENCE_BYTES;
  }

  /** When the sample at this stream time was sent, wall milliseconds; null if forgotten. */
  wallTime(streamSeconds) {
    let low = 0;
    let high = this.sentAt.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.sentAt[middle][0] < streamSeconds - 1e-6) low = middle + 1;
      else high = middle;
    }
    return low < this.sentAt.length ? this.sentAt[low][1] : null;
  }

  end() {
    if (this.socket.readyState === WebSocket.OPEN) this.socket.send('{"type":"end"}');
    else this.socket.close();
  }
}
