"""Command that takes one recogniser out of a run."""

from tyro.conf import Positional


def merge(
    workdir: Positional[str],
    output: str,
    speaker: str = "",
    stream_seconds: float = 0.0,
    tokenizer: str = "",
    step: str = "latest",
) -> None:
    """Makes one speaker's recogniser a run of its own, which transcribe, stream, eval and export take.

    With --stream-seconds, `offsites export` of it gives one step of a live stream instead of the recogniser
    of whole recordings: sound and state in, labels and state out. A stream begins with a state of zeros.

    Args:
      workdir: run of a cohort, of one speaker, or of a base.
      output: folder to make.
      speaker: of a cohort; the base that they share unless told.
      stream_seconds: of sound that one step of a stream takes; text comes so much later.
      tokenizer: folder that holds it; the corpus of the run unless given.
      step: of the checkpoint: latest, best or a number.

    """
    from offsites_jax.parallel.start import start

    start()

    from offsites_jax.projects.euphonia.merged import write_merged
    from offsites_jax.train.steps import step_of

    merged = write_merged(
        workdir,
        output,
        speaker=speaker,
        step=step_of(step),
        stream_seconds=stream_seconds,
        tokenizer=tokenizer,
    )
    rows = merged.experiment.task.stream_rows
    features = merged.experiment.data.features
    what = f"{rows * features.stride * features.step} samples of a stream at a time" if rows else "recordings"
    print(f"{output}: step {merged.step}, takes {what}; ship it by `offsites export {output}`")
