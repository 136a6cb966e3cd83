"""Command that shows what was made of one recording."""

import pathlib

from tyro.conf import Positional

_MOST_SECONDS = 120.0  # of a lattice of frames and labels


def explain(
    audio: Positional[str],
    text: str,
    workdir: str,
    output: str,
    speaker: str = "",
    beam: int = 0,
    tokenizer: str = "",
    step: str = "latest",
) -> None:
    """Draws what was said in a recording beside what was heard: words with times, sound, alignment.

    The files hold what a person said: report.html, report.json and utterance.png.

    Args:
      audio: the recording, of at most two minutes.
      text: what was said.
      workdir: folder of the run.
      output: folder of the files.
      speaker: whose personal layers to use; the base unless given.
      beam: hypotheses that are kept, such as 8; 0 takes the best label at each place.
      tokenizer: folder that holds it; that of the run or of its corpus unless given.
      step: of the checkpoint: latest, best or a number.

    """
    from offsites_jax.projects.euphonia.commands.listening import open_listener, read_samples

    listener = open_listener(workdir, speaker, tokenizer, step, rows=16, beam=beam)

    from offsites_jax.projects.euphonia.analysis import utterance_page

    samples = read_samples(audio, listener.features.sample_rate, _MOST_SECONDS)
    found = utterance_page.explain(listener, samples, text)
    page = utterance_page.write_explained(
        output,
        found,
        listener,
        samples,
        name=pathlib.Path(audio).stem,
        recogniser=f"the recogniser of {speaker}" if speaker else "the base",
    )
    print(f"{page}: word error rate {found.errors.rate:.1%}")
