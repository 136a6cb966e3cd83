// The page: consent first, then one phrase or question after the other. Everything works with the keyboard alone.

import * as api from "/static/api.js";
import { Outbox } from "/static/outbox.js";
import { Phrases } from "/static/phrases.js";
import { Recorder } from "/static/recorder.js";
import * as pictures from "/static/pictures.js";
import * as screen from "/static/screen.js";
import { Voice } from "/static/voice.js";

const { parts } = screen;
const TREMOR = 400; // milliseconds in which a second press of the key is taken for the same one

const player = new Audio();
let session, phrases, recorder, outbox, voice;
let phase = "idle";
let lastPress = 0;
let wantedPicture = "";

// Showing

function setPhase(next) {
  phase = next;
  render();
}

function render() {
  const entry = phrases.entry();
  const last = phrases.prompts.length - 1;
  screen.showPhrase(phrases.current, phrases.position, phrases.prompts.length, entry);
  screen.showProgress(phrases.recorded, phrases.prompts.length);
  screen.showPhase(phase, {
    hasRecording: entry.hasRecording,
    isPlaying: !player.paused,
    isFirst: phrases.position === 0,
    isLast: phrases.position === last,
  });
  showPicture();
}

// It may arrive when another phrase is shown already.
async function showPicture() {
  const { picture } = phrases.current;
  if (picture === wantedPicture) return;
  wantedPicture = picture;
  screen.showPicture("");
  if (!picture) return;
  try {
    const address = await pictures.address(picture);
    if (picture === wantedPicture) screen.showPicture(address);
  } catch {
    if (picture !== wantedPicture) return;
    wantedPicture = ""; // the next change of the page tries again
    screen.say("The picture cannot be shown at the moment.");
  }
}

function focusRecord() {
  parts.record.focus({ preventScroll: true });
}

// Recording

async function toggle() {
  const now = performance.now();
  if (now - lastPress < TREMOR) return;
  lastPress = now;
  if (phase === "recording") await stopRecording();
  else if (phase === "idle") await startRecording();
}

async function startRecording() {
  stopSounds();
  focusRecord();
  try {
    if (!recorder.isOpen) {
      setPhase("opening");
      await openMicrophone(localStorage.getItem("microphone"));
    }
    setPhase("lead");
    screen.say("");
    await recorder.start();
    setPhase("recording");
    screen.announce("Speak now");
  } catch (error) {
    fail(error);
  }
}

async function stopRecording() {
  const promptId = phrases.current.prompt_id;
  try {
    setPhase("trail");
    const bytes = await recorder.stop();
    setPhase("saving");
    phrases.wait(await outbox.add(promptId, bytes, recorder.describe()));
    screen.announce("Recorded");
  } catch (error) {
    fail(error);
    return;
  }
  setPhase("idle");
  focusRecord();
}

function fail(error) {
  recorder.close();
  screen.clearLevel();
  const reasons = {
    NotAllowedError: "The browser does not allow this page to use the microphone. Please allow it next to the address.",
    NotFoundError: "No microphone was found. Please connect one.",
    NotReadableError: "The microphone is used by another program. Please close that program.",
    QuotaExceededError: "The disk of this computer is full. Please free some space.",
  };
  setPhase("idle");
  screen.say(reasons[error.name] ?? `${error.message} Please try again.`);
  focusRecord();
}

async function onLost() {
  if (phase === "recording") await stopRecording();
  fail(new Error("The microphone was disconnected."));
}

async function openMicrophone(deviceId) {
  let chosen;
  try {
    chosen = await recorder.open(deviceId);
  } catch (error) {
    if (error.name !== "OverconstrainedError" && error.name !== "NotFoundError") throw error;
    chosen = await recorder.open(null); // the remembered one is not there today
  }
  const devices = await navigator.mediaDevices.enumerateDevices();
  screen.showMicrophones(devices.filter((device) => device.kind === "audioinput"), chosen);
}

async function chooseMicrophone() {
  localStorage.setItem("microphone", parts.microphone.value);
  setPhase("opening");
  try {
    await openMicrophone(parts.microphone.value);
    screen.say("Microphone changed");
  } catch (error) {
    fail(error);
    return;
  }
  setPhase("idle");
}

// What the server says

function onSent(item, recording) {
  if (!phrases) return;
  phrases.settle(item, recording);
  const isShown = phrases.current.prompt_id === recording.prompt_id;
  if (isShown) screen.announce(screen.verdictText(recording));
  render();
  if (phrases.openAfter(phrases.position) < 0) screen.say("All phrases are recorded. Thank you very much!");
  else if (isShown && parts.advance.checked && recording.rating === "good" && phase === "idle") nextOpen();
}

function onRefused(item, message) {
  if (!phrases) return;
  phrases.refuse(item, message);
  if (phrases.current.prompt_id === item.ticket.prompt_id) screen.announce(`${message} Please record it again.`);
  render();
}

function onChange(unsent, trouble) {
  screen.showUnsent(unsent, trouble);
  if (trouble && phase === "idle") screen.say(trouble);
}

// Moving

function goTo(position) {
  stopSounds();
  phrases.goTo(position);
  screen.say("");
  render();
  focusRecord();
  scrollTo(0, 0);
}

function nextOpen() {
  const position = phrases.openAfter(phrases.position);
  if (position >= 0) goTo(position);
}

async function skip() {
  const { prompt_id: promptId } = phrases.current;
  phrases.skipped.add(promptId);
  const position = phrases.openAfter(phrases.position);
  goTo(position >= 0 ? position : phrases.position + 1);
  await api.skip(promptId).catch(() => screen.say("The server does not answer; this was not noted as skipped."));
}

// Sounds

async function listen() {
  if (!player.paused) {
    stopSounds();
    return;
  }
  stopSounds();
  const { recording, pending } = phrases.entry();
  try {
    const blob = pending ? new Blob([pending.bytes], { type: "audio/wav" }) : await api.sound(recording.name);
    player.src = URL.createObjectURL(blob);
    await player.play();
  } catch (error) {
    screen.say(`The recording cannot be played. ${error.message}`);
  }
}

function stopSounds() {
  voice?.stop();
  player.pause();
  if (player.src) URL.revokeObjectURL(player.src);
}

// Deleting

async function deleteCurrent() {
  stopSounds();
  const { recording, pending } = phrases.entry();
  if (!(await screen.ask("Delete your recording of this phrase?", "Yes, delete it"))) return;
  try {
    if (pending) {
      await outbox.discard(pending);
      phrases.release(pending);
    } else {
      await api.deleteRecording(recording.name);
      phrases.remove(recording);
    }
    screen.say("Deleted");
  } catch (error) {
    screen.say(`It could not be deleted. ${error.message}`);
  }
  render();
  focusRecord();
}

async function revoke() {
  if (!(await screen.ask("Take back your agreement? You can agree again later.", "Yes, take it back"))) return;
  await leave(api.revoke, (answer) => screen.showConsent(answer.consent));
}

async function deleteAll() {
  const question = "Delete all your recordings and everything about them? This cannot be undone.";
  if (!(await screen.ask(question, "Yes, delete everything"))) return;
  await leave(api.deleteEverything, () => {
    parts.data.hidden = true;
    localStorage.removeItem(`place:${session.speaker}`);
    screen.showMessage("Everything is deleted", "All your recordings and everything about them were removed.");
  });
}

// The server first: if it cannot be reached, nothing is lost and nothing is promised.
async function leave(request, then) {
  stopSounds();
  recorder?.close();
  phase = "idle";
  try {
    const answer = await request();
    await outbox?.clear();
    phrases = null;
    then(answer);
  } catch (error) {
    screen.showMessage("That did not work", `${error.message} Please load the page again and try once more.`);
  }
}

// Keys: Space on the page or on Record starts and stops; on another button it presses that button, as everywhere.

function onKey(event) {
  if (!phrases || parts["view-recorder"].hidden || parts.ask.open) return;
  if (event.ctrlKey || event.altKey || event.metaKey || event.shiftKey) return;
  const inField = event.target.matches("select, input");
  const onOther = event.target.matches("button, summary, select, input") && event.target !== parts.record;
  if (event.key === " " && (phase !== "idle" || !onOther)) {
    event.preventDefault();
    if (!event.repeat) toggle();
  } else if (event.key === "Enter" && event.repeat) {
    event.preventDefault(); // a key that is held presses once
  } else if (event.key === "ArrowRight" && !inField) {
    event.preventDefault();
    if (!parts.next.disabled && !event.repeat) goTo(phrases.position + 1);
  } else if (event.key === "ArrowLeft" && !inField) {
    event.preventDefault();
    if (!parts.previous.disabled && !event.repeat) goTo(phrases.position - 1);
  }
}

// A button is pressed when its key is let go: without this, Space would record and then press Record again.
function onKeyUp(event) {
  if (event.key === " " && event.target === parts.record) event.preventDefault();
}

// Beginning

async function begin(answer) {
  session = answer;
  parts.data.hidden = false;
  parts.speaker.textContent = session.speaker;
  if (!session.consent.granted) {
    screen.showConsent(session.consent);
    return;
  }
  phrases = new Phrases(session);
  parts.prompt.lang = session.language;
  outbox ??= new Outbox(session.speaker, { onSent, onRefused, onChange });
  if (!recorder) {
    recorder = new Recorder({
      maxBytes: session.max_bytes,
      onLevel: screen.showLevel,
      onLost,
      onFull: () => { if (phase === "recording") stopRecording(); },
    });
    await recorder.prepare();
  }
  voice ??= new Voice(session.language, () => { parts.say.hidden = false; });
  const unsent = await outbox.items();
  for (const item of unsent.filter((one) => !one.remove)) phrases.wait(item);
  screen.showView("recorder");
  render();
  focusRecord();
  outbox.run();
  navigator.storage?.persist?.(); // asks the browser not to clear what is unsent when space gets short
}

async function agree() {
  parts.agree.disabled = true;
  try {
    await begin(await api.agree(session.consent));
    setPhase("opening");
    await openMicrophone(localStorage.getItem("microphone"));
    setPhase("idle");
    screen.say("Ready. Press Space to record.");
  } catch (error) {
    if (error instanceof api.ServerError) screen.showMessage("That did not work", error.message);
    else fail(error);
  } finally {
    parts.agree.disabled = false;
  }
}

async function open() {
  if (!window.isSecureContext || !navigator.mediaDevices) {
    screen.showMessage("This page cannot record here", "Please open it by https, or on the computer it runs on.");
    return;
  }
  try {
    await begin(await api.session());
  } catch (error) {
    const isSilent = error instanceof TypeError; // of fetch
    const text = isSilent ? "The server does not answer. Please start it." : error.message;
    screen.showMessage("Not connected", `${text} What you recorded is kept on this computer.`);
  }
}

const clicks = {
  agree, listen, skip, revoke,
  record: toggle,
  previous: () => goTo(phrases.position - 1),
  next: () => goTo(phrases.position + 1),
  delete: deleteCurrent,
  say: () => voice.say(phrases.current.text),
  "delete-all": deleteAll,
};
for (const [id, action] of Object.entries(clicks)) parts[id].addEventListener("click", action);
for (const event of ["play", "pause", "ended"]) player.addEventListener(event, () => { if (phrases) render(); });
parts.microphone.addEventListener("change", chooseMicrophone);
parts.advance.checked = localStorage.getItem("advance") === "yes";
parts.advance.addEventListener("change", () => localStorage.setItem("advance", parts.advance.checked ? "yes" : "no"));
addEventListener("keydown", onKey);
addEventListener("keyup", onKeyUp);
addEventListener("beforeunload", (event) => { if (phase !== "idle" && phase !== "opening") event.preventDefault(); });
open();
