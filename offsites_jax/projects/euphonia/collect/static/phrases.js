// Where the speaker is in the list, and what is known of each phrase.

export class Phrases {
  constructor({ speaker, prompts, recordings, skipped }) {
    this.prompts = prompts;
    this.skipped = new Set(skipped);
    this.newest = new Map(); // of the recordings, by prompt
    this.pending = new Map(); // items that the server has not confirmed, by prompt
    this.refused = new Map(); // messages, by prompt
    this.all = recordings;
    for (const recording of recordings) this.newest.set(recording.prompt_id, recording);
    this.memory = `place:${speaker}`;
    const remembered = prompts.findIndex((prompt) => prompt.prompt_id === localStorage.getItem(this.memory));
    this.position = remembered >= 0 ? remembered : Math.max(0, this.openAfter(-1));
  }

  get current() {
    return this.prompts[this.position];
  }

  get recorded() {
    return this.prompts.filter(({ prompt_id: id }) => this.newest.has(id) || this.pending.has(id)).length;
  }

  entry(id = this.current.prompt_id) {
    return {
      recording: this.newest.get(id),
      pending: this.pending.get(id),
      refused: this.refused.get(id),
      hasRecording: this.newest.has(id) || this.pending.has(id),
    };
  }

  // The next phrase without recording that was not skipped, from the start after the end; -1 when all are done.
  openAfter(position) {
    const isOpen = ({ prompt_id: id }) => !this.entry(id).hasRecording && !this.skipped.has(id);
    const later = this.prompts.findIndex((prompt, place) => place > position && isOpen(prompt));
    return later >= 0 ? later : this.prompts.findIndex(isOpen);
  }

  goTo(position) {
    this.position = Math.max(0, Math.min(this.prompts.length - 1, position));
    localStorage.setItem(this.memory, this.current.prompt_id);
  }

  wait(item) {
    this.refused.delete(item.ticket.prompt_id);
    this.pending.set(item.ticket.prompt_id, item);
  }

  settle(item, recording) {
    this.release(item);
    this.all.push(recording);
    this.newest.set(recording.prompt_id, recording);
  }

  refuse(item, message) {
    this.release(item);
    this.refused.set(item.ticket.prompt_id, message);
  }

  release(item) {
    const id = item.ticket.prompt_id;
    if (this.pending.get(id)?.id === item.id) this.pending.delete(id);
  }

  // An earlier recording of the same phrase, if there is one, stands again.
  remove(recording) {
    this.all = this.all.filter((one) => one.name !== recording.name);
    const earlier = this.all.filter((one) => one.prompt_id === recording.prompt_id);
    if (earlier.length) this.newest.set(recording.prompt_id, earlier.at(-1));
    else this.newest.delete(recording.prompt_id);
  }
}
