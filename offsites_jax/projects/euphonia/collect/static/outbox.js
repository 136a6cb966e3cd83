// Recordings that the server has not confirmed yet. They lie in the browser's own store (IndexedDB), survive a
// reload or a power cut, and leave it only when the server named their SHA-256.

import * as api from "/static/api.js";

const PAUSES = [1, 2, 4, 8, 15, 30]; // seconds between tries
const SILENT = "The server does not answer. What you record is kept on this computer.";
const LATER = new Set([401, 403, 404, 408, 409, 429]); // answers after which trying again makes sense

function database() {
  return new Promise((resolve, reject) => {
    const request = indexedDB.open("recordings", 1);
    request.onupgradeneeded = () => request.result.createObjectStore("unsent", { keyPath: "id" });
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}

async function transact(mode, action) {
  const opened = await database();
  try {
    return await new Promise((resolve, reject) => {
      const transaction = opened.transaction("unsent", mode, { durability: "strict" });
      const request = action(transaction.objectStore("unsent"));
      transaction.oncomplete = () => resolve(request.result);
      transaction.onabort = transaction.onerror = () => reject(transaction.error);
    });
  } finally {
    opened.close();
  }
}

// Changes an item that is still there, in one step; resolves to what it was before.
function change(id, values) {
  return transact("readwrite", (store) => {
    const request = store.get(id);
    request.onsuccess = () => { if (request.result) store.put({ ...request.result, ...values }); };
    return request;
  });
}

async function sha256(bytes) {
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
  return [...digest].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

function localDate(date) {
  const two = (number) => String(number).padStart(2, "0");
  const day = [date.getFullYear(), two(date.getMonth() + 1), two(date.getDate())].join("-");
  return `${day}T${[date.getHours(), date.getMinutes(), date.getSeconds()].map(two).join(":")}`;
}

export class Outbox {
  // onSent(item, recording), onRefused(item, message), onChange(unsent, trouble) are told what happens.
  constructor(speaker, { onSent, onRefused, onChange }) {
    this.speaker = speaker;
    this.onSent = onSent;
    this.onRefused = onRefused;
    this.onChange = onChange;
    this.running = false;
    this.asked = false;
    this.wake = null;
    addEventListener("online", () => this.wake?.());
  }

  async items() {
    const all = await transact("readonly", (store) => store.getAll());
    return all.filter((item) => item.speaker === this.speaker).sort((a, b) => a.made - b.made);
  }

  // Resolves once the recording is in the store; sending goes on by itself.
  async add(promptId, bytes, device) {
    const now = new Date();
    const item = {
      id: crypto.randomUUID(),
      speaker: this.speaker,
      made: now.getTime(),
      announced: false,
      remove: false,
      bytes,
      ticket: {
        prompt_id: promptId,
        size: bytes.byteLength,
        sha256: await sha256(bytes),
        local_date: localDate(now),
        utc_offset: -now.getTimezoneOffset(),
        device,
      },
    };
    item.ticket.id = item.id;
    await transact("readwrite", (store) => store.put(item));
    this.run();
    return item;
  }

  // What the server never heard of is forgotten; what it may have is removed there as soon as it answers.
  async discard(item) {
    await change(item.id, { remove: true });
    this.run();
  }

  async clear() {
    for (const item of await this.items()) await this.forget(item);
    this.onChange(0, "");
  }

  forget(item) {
    return transact("readwrite", (store) => store.delete(item.id));
  }

  async run() {
    this.wake?.();
    this.asked = true;
    if (this.running) return;
    this.running = true;
    for (let failures = 0; ; ) {
      this.asked = false;
      const waiting = await this.items();
      if (waiting.length === 0 && this.asked) continue; // one came in between
      if (waiting.length === 0) break;
      const item = waiting.find((one) => one.remove && !one.announced) ?? waiting[0];
      try {
        await this.deliver(item);
        failures = 0;
      } catch (error) {
        if (error instanceof api.ServerError && error.status < 500 && !LATER.has(error.status)) {
          await this.forget(item);
          if (error.status !== 410) this.onRefused(item, error.message);
          continue;
        }
        this.onChange(waiting.length, error instanceof api.ServerError ? error.message : SILENT);
        await this.pause(PAUSES[Math.min(failures++, PAUSES.length - 1)]);
      }
    }
    this.running = false;
    this.onChange(0, "");
  }

  pause(seconds) {
    return new Promise((resolve) => {
      const timer = setTimeout(resolve, 1000 * seconds);
      this.wake = () => { clearTimeout(timer); resolve(); };
    }).finally(() => { this.wake = null; });
  }

  async deliver(item) {
    const before = await change(item.id, { announced: true });
    if (!before) return; // another window of the browser was faster
    if (before.remove && !before.announced) {
      await this.forget(item);
      return;
    }
    let { offset, recording } = await api.announce(item.ticket);
    if (!recording) ({ recording } = await api.send(item.id, offset, item.bytes.slice(offset)));
    if (recording?.sha256 !== item.ticket.sha256) throw new Error("The server did not confirm the recording.");
    const now = await transact("readonly", (store) => store.get(item.id));
    if (now?.remove) await api.deleteRecording(recording.name);
    await this.forget(item);
    if (!now?.remove) this.onSent(item, recording);
  }
}
