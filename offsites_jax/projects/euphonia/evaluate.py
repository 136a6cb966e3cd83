"""Word and character error rates of what was recognised, and of each speaker; losses of members."""

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from offsites_jax.data.text.normalise import normalise
from offsites_jax.data.text.score import score
from offsites_jax.projects.euphonia.cohort import cohort_names
from offsites_jax.projects.euphonia.prepared import Prepared
from offsites_jax.projects.euphonia.utterances import open_prepared
from offsites_jax.train.config import Experiment
from offsites_jax.train.contract import Batch
from offsites_jax.train.evaluation import Evaluator, EvaluatorSettings, Predict, host_rows
from offsites_jax.train.writers import Artifacts


@dataclasses.dataclass(frozen=True)
class EvaluatorConfig(EvaluatorSettings):
    """One entry of `evaluators`.

    Attributes:
      hypotheses: whether to write what was recognised to the artifacts. It is speech of people: off unless
        asked for.

    """

    hypotheses: bool = False


@dataclasses.dataclass(frozen=True)
class WordErrors(Evaluator):
    """Scores of the texts that greedy decoding finds."""

    prepared: Prepared
    config: EvaluatorConfig

    def run(self, predict: Predict, batches: Iterator[Batch], artifacts: Artifacts) -> Mapping[str, float]:
        """Rates over all utterances together, their median over speakers, and the loss."""
        found, losses = [], []
        for rows in host_rows(predict, batches, keep=("index",)):
            losses.append(rows["nll"])
            for index, labels, count in zip(
                rows["index"], rows["hypothesis"], rows["hypothesis_count"], strict=True
            ):
                found.append((int(index), self.prepared.tokenizer.decode(labels[:count].tolist())))
        entries = [self.prepared.entries[index] for index, _ in found]
        texts = [entry.text for entry in entries], [normalise(text) for _, text in found]
        speakers = [entry.speaker for entry in entries]
        words, characters = (score(*texts, speakers, unit) for unit in ("word", "character"))
        if self.config.hypotheses:
            artifacts.text("hypotheses", _lines(entries, texts[1]))
        return {
            "wer": words.total.rate,
            "cer": characters.total.rate,
            "median_wer": float(np.median([own.rate for own in words.speakers.values()])),
            "nll": float(np.concatenate(losses).mean()),
            "utterances": float(words.total.utterances),
        }


@dataclasses.dataclass(frozen=True)
class MemberLosses(Evaluator):
    """Mean loss of each member of a cohort on its own utterances."""

    speakers: tuple[str, ...]
    members: int

    def run(self, predict: Predict, batches: Iterator[Batch], artifacts: Artifacts) -> Mapping[str, float]:
        """`nll/SPEAKER` for each, and their mean over speakers."""
        rows = list(host_rows(predict, batches))
        losses, counts = (
            np.concatenate([row[name] for row in rows]).reshape(-1, self.members).sum(0, dtype=np.float64)
            for name in ("nll", "utterances")
        )
        own = {name: losses[place] / counts[place] for place, name in enumerate(self.speakers)}
        finite = [value for value in own.values() if np.isfinite(value)]
        means = {f"nll/{name}": float(value) for name, value in own.items()}
        return {"nll": float(np.mean(finite)) if finite else float("nan"), **means}


def create_evaluator(experiment: Experiment, settings: EvaluatorConfig) -> Evaluator:
    """Word errors of one model, or the losses of a cohort's members."""
    if experiment.task.members:
        return MemberLosses(cohort_names(experiment), experiment.task.members)
    return WordErrors(open_prepared(experiment.data, experiment.model.vocabulary), settings)


def _lines(entries: Sequence, texts: Sequence[str]) -> str:
    rows = (
        {"utt_id": entry.utt_id, "speaker": entry.speaker, "reference": entry.text, "hypothesis": text}
        for entry, text in zip(entries, texts, strict=True)
    )
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
