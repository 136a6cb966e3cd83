"""Commands that make personal recognisers out of a base: personalize, data_size."""

import dataclasses
from typing import Any

from tyro.conf import OmitArgPrefixes, Positional


@dataclasses.dataclass(frozen=True)
class Training:
    """How each speaker's layers are trained.

    Attributes:
      steps: at most.
      utterances: of each speaker, at a time.
      learning_rate: after 50 steps of warm-up.
      eval_every: steps between looks at the dev part.
      patience: looks without a better loss after which a speaker stops.
      layers: lower encoder layers that each speaker owns.
      at_a_time: speakers that a device computes at once; 0 for all of them.
      mask: whether to mask channels and frames in training, as for disordered speech.

    """

    steps: int = 2000
    utterances: int = 16
    learning_rate: float = 1e-4
    eval_every: int = 100
    patience: int = 5
    layers: int = 5
    at_a_time: int = 0
    mask: bool = True

    def settings(self) -> dict[str, Any]:
        """As `cohort_experiment` takes them."""
        return {
            "steps": self.steps,
            "eval_every": self.eval_every,
            "learning_rate": self.learning_rate,
            "task": {
                "utterances": self.utterances,
                "patience": self.patience,
                "personal_layers": self.layers,
                "at_a_time": self.at_a_time,
                "spec_augment": "disordered" if self.mask else "none",
            },
        }


def personalize(
    corpus: Positional[str],
    base: str,
    workdir: str,
    speakers: tuple[str, ...] = (),
    devices: int = 0,
    training: OmitArgPrefixes[Training] = Training(),
) -> None:
    """Gives every speaker of a corpus lower layers of their own, all in one job, and says what it changed.

    Goes on where it was when started again. Writes speakers/NAME.safetensors, which is small, and
    outcomes.json: word error rates of base and personal recogniser on phrases that were not trained on.

    Args:
      corpus: folder of `offsites euphonia prepare`, made with --like the base's corpus.
      base: run of the base model.
      workdir: folder of this job.
      speakers: some of the corpus; all unless told.
      devices: virtual CPU devices; 0 for what there is.
      training: how.

    """
    from offsites_jax.parallel.start import start

    start(devices)

    import json

    from etils import epath

    from offsites_jax.data.atomic import write_atomically
    from offsites_jax.projects.euphonia.personal import cohort_experiment, outcomes, summary, write_speakers
    from offsites_jax.train.loop import train

    train(cohort_experiment(corpus, base, speakers=speakers, **training.settings()), workdir)
    write_speakers(workdir)
    found = []
    for outcome in outcomes(workdir):
        found.append(outcome)
        print(f"{outcome.speaker}: WER {outcome.base.rate:.3f} before, {outcome.personal.rate:.3f} after")
    content = json.dumps(summary(found), indent=1).encode() + b"\n"
    write_atomically(epath.Path(workdir) / "outcomes.json", content)
    print(f"{workdir}: median WER {summary(found)['median']}")


def data_size(
    corpus: Positional[str],
    base: str,
    workdir: str,
    sizes: tuple[int, ...] = (10, 25, 50, 100, 250),
    speakers: tuple[str, ...] = (),
    target: float = 0.15,
    per_speaker: bool = False,
    devices: int = 0,
    training: OmitArgPrefixes[Training] = Training(),
) -> None:
    """Says how much somebody has to record: personal recognisers after training on more and more of it.

    For each speaker and size one recogniser is trained, on nested parts of the training part and on all of
    it, all in one job, which goes on where it was when started again. The dev part, which stops training,
    stays whole. Writes data_size_speakers.csv, a row for each recogniser, which `offsites euphonia analyze
    --data-size` reads and which is not for sharing; and data_size.csv and data_size.png: median word error
    rate and share of speakers at the target, by size, of six speakers or more.

    Args:
      corpus: folder of `offsites euphonia prepare`, made with --like the base's corpus.
      base: run of the base model.
      workdir: folder of this job.
      sizes: numbers of training utterances; a speaker with fewer counts for "all" alone.
      speakers: some of the corpus; all unless told.
      target: word error rate that is a success, at most.
      per_speaker: also tell of fewer than six speakers, in files to keep private.
      devices: virtual CPU devices; 0 for what there is.
      training: how.

    """
    from offsites_jax.parallel.start import start

    start(devices)

    from etils import epath

    from offsites_jax.data.atomic import write_atomically
    from offsites_jax.projects.euphonia.analysis.anonymity import LEAST
    from offsites_jax.projects.euphonia.analysis.data_size import data_size_table
    from offsites_jax.projects.euphonia.analysis.figures import size_figure
    from offsites_jax.projects.euphonia.learning_curve import point_rows, points, with_sizes
    from offsites_jax.projects.euphonia.personal import cohort_experiment, write_speakers
    from offsites_jax.train.loop import train
    from offsites_jax.train.media import encode_figure, encode_table

    cohort = cohort_experiment(corpus, base, speakers=speakers, **training.settings())
    train(with_sizes(cohort, sizes), workdir)
    write_speakers(workdir)
    found = list(points(workdir))
    rates = {point.member.speaker: point.base.rate for point in found}
    least = 1 if per_speaker else LEAST
    rows = data_size_table([point.result for point in found], rates, target, least)
    files = {"data_size_speakers.csv": encode_table(point_rows(found)).content}
    if figure := size_figure(rows, target):
        files |= {"data_size.csv": encode_table(rows).content, "data_size.png": encode_figure(figure).content}
    else:
        print(f"fewer than {LEAST} speakers: no table or picture of them together, unless --per-speaker")
    for name, content in files.items():
        write_atomically(epath.Path(workdir) / name, content)
        print(epath.Path(workdir) / name)
    for row in rows:
        told = f"median WER {row['median WER']:.3f} of {row['speakers']} speakers"
        print(f"{row['utterances']} utterances: {told}")
