// The microphone, as it is: without echo cancelling, noise removal or automatic gain, which change how speech
// sounds and hide how noisy a place is.

import { encodeWav } from "/static/wav.js";

const isSafari = /Safari/.test(navigator.userAgent) && !/Chrom|Android/.test(navigator.userAgent);

// Sound before and after the speech, in milliseconds: noise is measured on it, and no first sound is cut off.
// Safari takes longer until samples arrive.
export const LEAD = isSafari ? 750 : 250;
export const TRAIL = LEAD;

const PATIENCE = 5000; // milliseconds without enough sound until something must be wrong

export class Recorder {
  // onLevel(peak) is called some twenty times a second, onLost() when the microphone is unplugged, and onFull()
  // when a recording is about to become larger than the server takes.
  constructor({ maxBytes, onLevel, onLost, onFull }) {
    this.maxSamples = maxBytes / 2;
    this.onLevel = onLevel;
    this.onLost = onLost;
    this.onFull = onFull;
    this.blocks = null;
    this.stream = null;
    this.kind = "";
  }

  get isOpen() {
    return this.stream !== null;
  }

  // Loads all that is needed, so that recording works even when the server is away.
  async prepare() {
    this.context = new AudioContext();
    this.tap = await this.createTap();
    this.tap.connect(this.context.destination); // silent; without it some browsers do not run the node
  }

  // Asks for the microphone; returns its id.
  async open(deviceId) {
    this.close();
    const audio = { echoCancellation: false, noiseSuppression: false, autoGainControl: false, channelCount: 1 };
    if (deviceId) audio.deviceId = { exact: deviceId };
    const stream = await navigator.mediaDevices.getUserMedia({ audio });
    const [track] = stream.getAudioTracks();
    this.isLost = false;
    track.addEventListener("ended", () => { this.isLost = true; this.onLost(); });
    this.stream = stream;
    this.source = this.context.createMediaStreamSource(stream);
    this.source.connect(this.tap);
    await this.context.resume();
    return track.getSettings().deviceId;
  }

  async createTap() {
    if (this.context.audioWorklet) {
      this.kind = "AudioWorklet";
      await this.context.audioWorklet.addModule("/static/worklet.js");
      const node = new AudioWorkletNode(this.context, "tap", { channelCount: 1, channelCountMode: "explicit" });
      node.port.onmessage = (event) => this.take(event.data);
      return node;
    }
    this.kind = "ScriptProcessor";
    const node = this.context.createScriptProcessor(2048, 1, 1);
    node.onaudioprocess = (event) => this.take(event.inputBuffer.getChannelData(0).slice());
    return node;
  }

  take(block) {
    this.onLevel(block.reduce((peak, sample) => Math.max(peak, Math.abs(sample)), 0));
    if (this.blocks === null) return;
    this.blocks.push(block);
    this.count += block.length;
    this.arrived?.();
    const margin = ((2 * TRAIL) / 1000) * this.context.sampleRate;
    if (this.count > this.maxSamples - margin) this.onFull();
  }

  // Starts to keep what is heard, once sound really arrives, and waits for the lead.
  async start() {
    await this.context.resume();
    this.blocks = [];
    this.count = 0;
    await this.gather(LEAD);
  }

  // Waits for the trail, and gives the WAV file; what was spoken is kept even if the microphone is gone.
  async stop() {
    if (!this.isLost) await this.gather(TRAIL).catch(() => {});
    const blocks = this.blocks;
    this.blocks = null;
    return encodeWav(blocks, this.context.sampleRate);
  }

  // Waits until so many more milliseconds of sound are there; a clock would not know of a machine that is slow.
  async gather(milliseconds) {
    const wanted = this.count + (milliseconds / 1000) * this.context.sampleRate;
    const patience = milliseconds + PATIENCE;
    await new Promise((resolve, reject) => {
      const timer = setTimeout(() => reject(new Error("No sound comes from the microphone.")), patience);
      this.arrived = () => {
        if (this.count < wanted) return;
        clearTimeout(timer);
        resolve();
      };
    }).finally(() => { this.arrived = null; });
  }

  cancel() {
    this.blocks = null;
  }

  close() {
    this.cancel();
    this.source?.disconnect();
    this.stream?.getTracks().forEach((track) => track.stop());
    this.stream = null;
    this.context?.suspend();
  }

  describe() {
    return {
      userAgent: navigator.userAgent,
      sampleRate: this.context.sampleRate,
      baseLatency: this.context.baseLatency ?? 0,
      recorder: this.kind,
    };
  }
}
