// Runs beside the sound: hands blocks of about 40 ms to the page as they are recorded.

const BLOCK_S = 0.04;

class Capture extends AudioWorkletProcessor {
  constructor() {
    super();
    this.block = new Float32Array(Math.round(BLOCK_S * sampleRate));
    this.filled = 0;
    this.isOver = false;
    this.isSaid = false;
    this.port.onmessage = () => { this.isOver = true; };
  }

  process([channels]) {
    if (this.isSaid) return false; // it may be called again before it is taken away
    const length = channels.length ? channels[0].length : 0;
    for (let i = 0; i < length; i += 1) {
      let sum = 0;
      for (const channel of channels) sum += channel[i];
      this.block[this.filled] = sum / channels.length;
      this.filled += 1;
      if (this.filled === this.block.length) {
        this.port.postMessage(this.block.slice(0));
        this.filled = 0;
      }
    }
    if (this.isOver) {
      // The last words may end in a block that is not full.
      this.port.postMessage(this.block.slice(0, this.filled));
      this.port.postMessage(null);
      this.isSaid = true;
    }
    return !this.isSaid;
  }
}

registerProcessor("capture", Capture);
