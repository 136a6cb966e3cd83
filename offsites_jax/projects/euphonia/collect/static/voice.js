// Reading a phrase aloud, with voices of this computer only: others would send the text elsewhere.

export class Voice {
  constructor(language, onAvailable) {
    this.language = language;
    this.synthesis = window.speechSynthesis;
    if (!this.synthesis) return;
    const look = () => { if (this.find()) onAvailable(); };
    this.synthesis.addEventListener?.("voiceschanged", look);
    look();
  }

  find() {
    const local = this.synthesis.getVoices().filter((voice) => voice.localService);
    const same = (length) => local.find((voice) =>
      voice.lang.replace("_", "-").slice(0, length).toLowerCase() === this.language.slice(0, length).toLowerCase());
    return same(this.language.length) ?? same(2);
  }

  say(text) {
    this.stop();
    const utterance = new SpeechSynthesisUtterance(text);
    utterance.voice = this.find();
    utterance.lang = utterance.voice.lang;
    this.synthesis.speak(utterance);
  }

  stop() {
    this.synthesis?.cancel();
  }
}
