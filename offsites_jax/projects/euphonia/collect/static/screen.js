// What is seen and heard of the page; it knows nothing of microphones and servers.

const calm = matchMedia("(prefers-reduced-motion: reduce)");

const TITLES = {
  good: "Good recording",
  usable: "This recording can be used",
  again: "Please record this one again if you can",
  refused: "This recording could not be stored",
  sending: "Kept on this computer, on its way to the server",
};
const PHASES = { opening: "One moment", lead: "Wait", recording: "Speak now", trail: "Wait", saving: "Saving" };
const QUIET = 0.02; // of full scale, and loud:
const LOUD = 0.95;

export const parts = Object.fromEntries(
  [...document.querySelectorAll("[id]")].map((element) => [element.id, element]),
);

export function showView(name) {
  for (const view of document.querySelectorAll(".view")) view.hidden = view.id !== `view-${name}`;
}

export function showMessage(title, text) {
  showView("message");
  parts["message-title"].textContent = title;
  parts["message-text"].textContent = text;
  parts["message-title"].focus();
}

export function showConsent(form) {
  showView("consent");
  parts["consent-title"].textContent = form.title;
  parts["consent-version"].textContent = `Form ${form.id}, version ${form.version}`;
  const paragraphs = form.text.split(/\n\s*\n/).map((text) => {
    const paragraph = document.createElement("p");
    paragraph.textContent = text;
    return paragraph;
  });
  parts["consent-text"].replaceChildren(...paragraphs);
  parts["consent-title"].focus();
}

export function showProgress(recorded, total) {
  const count = (number) => number.toLocaleString("en");
  parts["progress-text"].textContent = `${count(recorded)} of ${count(total)} recorded`;
  parts.progress.max = total;
  parts.progress.value = recorded;
}

// entry: what is known of the phrase: { recording, pending, refused, skipped }.
export function showPhrase(prompt, position, total, entry) {
  const isQuestion = prompt.kind === "response";
  const kind = isQuestion ? "Question" : "Phrase";
  parts.place.textContent = `${kind} ${(position + 1).toLocaleString("en")} of ${total.toLocaleString("en")}`;
  parts.task.hidden = !isQuestion;
  if (parts.prompt.textContent !== prompt.text) parts.prompt.textContent = prompt.text;
  fillVerdict(entry);
}

// "" for none.
export function showPicture(address) {
  parts.picture.hidden = !address;
  if (address) parts.picture.src = address;
  else parts.picture.removeAttribute("src");
}

function fillVerdict({ recording, pending, refused }) {
  const rating = pending ? "sending" : refused ? "refused" : recording?.rating;
  parts.verdict.dataset.rating = rating ?? "";
  if (!rating) return;
  parts["verdict-title"].textContent = TITLES[rating];
  const remarks = pending ? [] : refused ? [refused, "Please record it again."] : recording.remarks.slice(0, 2);
  const lines = remarks.map((text) => {
    const line = document.createElement("li");
    line.textContent = text;
    return line;
  });
  parts["verdict-remarks"].replaceChildren(...lines);
}

export function verdictText({ rating, remarks }) {
  return [TITLES[rating], ...remarks].join(". ");
}

// phase: idle, opening, lead, recording, trail, saving.
export function showPhase(phase, { hasRecording, isPlaying, isFirst, isLast }) {
  const idle = phase === "idle";
  const speaking = phase === "lead" || phase === "recording";
  parts.card.dataset.phase = phase === "recording" ? "recording" : "other";
  parts.record.dataset.phase = speaking ? "recording" : "other";
  // The level and the verdict share one place, so that no button moves when one replaces the other.
  parts.verdict.hidden = !idle || !parts.verdict.dataset.rating;
  parts.level.hidden = !parts.verdict.hidden;
  parts.phase.textContent = PHASES[phase] ?? "";
  parts["record-label"].textContent = speaking ? "Stop" : hasRecording ? "Record again" : "Record";
  parts.listen.textContent = isPlaying ? "Stop listening" : "Listen";
  parts.previous.disabled = !idle || isFirst;
  parts.next.disabled = !idle || isLast;
  parts.listen.disabled = parts.delete.disabled = !idle || !hasRecording;
  parts.skip.disabled = parts.say.disabled = parts.microphone.disabled = !idle;
}

let lastMeter = 0;
let held = 0; // loudest peak lately, so that the words do not change with every syllable

// Peak of the last moment, 0 to 1; shown on a scale of 60 dB.
export function showLevel(peak) {
  const now = performance.now();
  held = Math.max(peak, 0.96 * held);
  if (calm.matches && now - lastMeter < 500) return;
  lastMeter = now;
  const share = peak > 0 ? Math.min(1, Math.max(0, 1 + (20 * Math.log10(peak)) / 60)) : 0;
  parts["meter-level"].style.transform = `scaleX(${share.toFixed(3)})`;
  parts["meter-level"].dataset.loud = String(held > LOUD);
  const words = held > LOUD ? "too loud" : held < QUIET ? "quiet" : "good level";
  if (parts["meter-text"].textContent !== words) parts["meter-text"].textContent = words;
}

export function clearLevel() {
  parts["meter-level"].style.transform = "scaleX(0)";
  parts["meter-text"].textContent = "";
}

// For the eye and the screen reader:
export function say(text) {
  parts.status.textContent = text;
  parts.announcement.textContent = "";
}

// For the screen reader alone, where the eye sees the same elsewhere:
export function announce(text) {
  parts.status.textContent = "";
  parts.announcement.textContent = text;
}

export function showUnsent(count, trouble) {
  const waiting = count === 1 ? "1 recording is" : `${count} recordings are`;
  parts.unsent.textContent = count ? `${waiting} kept on this computer until the server has them. ${trouble}` : "";
}

export function showMicrophones(devices, chosen) {
  const options = devices.map((device, number) => {
    const label = device.label || `Microphone ${number + 1}`;
    return new Option(label, device.deviceId, false, device.deviceId === chosen);
  });
  parts.microphone.replaceChildren(...options);
}

// Resolves to whether "yes" was chosen; Escape means no.
export function ask(question, yes) {
  parts["ask-text"].textContent = question;
  parts["ask-yes"].textContent = yes;
  parts.ask.returnValue = "no";
  parts.ask.showModal();
  return new Promise((resolve) => {
    parts.ask.addEventListener("close", () => resolve(parts.ask.returnValue === "yes"), { once: true });
  });
}
