"""Command that makes personal recognisers out of a base."""

from tyro.conf import Positional


def personalize(
    corpus: Positional[str],
    base: str,
    workdir: str,
    speakers: tuple[str, ...] = (),
    steps: int = 2000,
    utterances: int = 16,
    learning_rate: float = 1e-4,
    eval_every: int = 100,
    patience: int = 5,
    layers: int = 5,
    at_a_time: int = 0,
    devices: int = 0,
    mask: bool = True,
) -> None:
    """Gives every speaker of a corpus lower layers of their own, all in one job, and says what it changed.

    Goes on where it was when started again. Writes speakers/NAME.safetensors, which is small, and
    outcomes.json: word error rates of base and personal recogniser on phrases that were not trained on.

    Args:
      corpus: folder of `offsites euphonia prepare`, made with --like the base's corpus.
      base: run of the base model.
      workdir: folder of this job.
      speakers: some of the corpus; all unless told.
      steps: at most.
      utterances: of each speaker, at a time.
      learning_rate: after 50 steps of warm-up.
      eval_every: steps between looks at the dev part.
      patience: looks without a better loss after which a speaker stops.
      layers: lower encoder layers that each speaker owns.
      at_a_time: speakers that a device computes at once; 0 for all of them.
      devices: virtual CPU devices; 0 for what there is.
      mask: whether to mask channels and frames in training, as for disordered speech.

    """
    from offsites_jax.parallel.start import start

    start(devices)

    import json

    from etils import epath

    from offsites_jax.data.atomic import write_atomically
    from offsites_jax.projects.euphonia.personal import cohort_experiment, outcomes, summary, write_speakers
    from offsites_jax.train.loop import train

    experiment = cohort_experiment(
        corpus,
        base,
        speakers=speakers,
        steps=steps,
        eval_every=eval_every,
        learning_rate=learning_rate,
        task={
            "utterances": utterances,
            "patience": patience,
            "personal_layers": layers,
            "at_a_time": at_a_time,
            "spec_augment": "disordered" if mask else "none",
        },
    )
    train(experiment, workdir)
    write_speakers(workdir)
    found = []
    for outcome in outcomes(workdir):
        found.append(outcome)
        print(f"{outcome.speaker}: WER {outcome.base.rate:.3f} before, {outcome.personal.rate:.3f} after")
    content = json.dumps(summary(found), indent=1).encode() + b"\n"
    write_atomically(epath.Path(workdir) / "outcomes.json", content)
    print(f"{workdir}: median WER {summary(found)['median']}")
