"""Scores of what was recognised, against a count of one's own."""

import json

import numpy as np
import pytest
from etils import epath

from offsites_jax.projects.euphonia.evaluate import EvaluatorConfig, MemberLosses, WordErrors
from offsites_jax.train.writers import Artifacts

SIZE = 4


class Nobody:
    """Looks at no artifact; with nobody to show them to, none are written."""

    def show(self, *artifact):
        pass


def distance(reference, hypothesis):
    """Fewest substitutions, deletions and insertions (Wagner and Fischer 1974)."""
    costs = np.arange(len(hypothesis) + 1)
    for row, wanted in enumerate(reference, start=1):
        before, costs = costs, np.full(len(hypothesis) + 1, row)
        for column, found in enumerate(hypothesis, start=1):
            replaced = before[column - 1] + (wanted != found)
            costs[column] = min(replaced, before[column] + 1, costs[column - 1] + 1)
    return int(costs[-1])


def misheard(place, text):
    """Something wrong in each of several ways, and sometimes nothing."""
    words = text.split()
    return [text, " ".join(words[1:]), f"{text} stop stop", "go on", ""][place % 5]


@pytest.fixture
def heard(corpus):
    """Entries of the test part in another order, and what is recognised of each."""
    places = [place for place, entry in enumerate(corpus.entries) if entry.split == "test"][::-1]
    return [(index, misheard(place, corpus.entries[index].text)) for place, index in enumerate(places)]


def batches(heard):
    """Of four rows; rows that pad the last one repeat its first."""
    for first in range(0, len(heard), SIZE):
        index = [index for index, _ in heard[first : first + SIZE]]
        real = len(index)
        padded = np.array(index + index[:1] * (SIZE - real), np.int32)
        yield {"index": padded, "mask": (np.arange(SIZE) < real).astype(np.float32)}


@pytest.fixture
def predict(corpus, heard):
    """Labels of those texts, each row filled up with labels that do not count; the loss is the place."""
    said = dict(heard)

    def outputs(batch):
        rows = [corpus.tokenizer.encode(said[index]) for index in batch["index"].tolist()]
        labels = np.full((SIZE, 24), 1, np.int32)
        for row, own in zip(labels, rows, strict=True):
            row[: len(own)] = own
        counts = np.array([len(own) for own in rows], np.int32)
        nll = np.where(batch["mask"] > 0, batch["index"], 1e6).astype(np.float32)
        return {"hypothesis": labels, "hypothesis_count": counts, "nll": nll}

    return outputs


def test_rates_are_errors_over_what_was_said(corpus, heard, predict, tmp_path):
    artifacts = Artifacts(epath.Path(tmp_path), (Nobody(),), "test", 0)
    found = WordErrors(corpus, EvaluatorConfig()).run(predict, batches(heard), artifacts)
    truth = [(corpus.entries[index], text) for index, text in heard]

    def rate(unit, pairs):
        errors = sum(distance(unit(entry.text), unit(text)) for entry, text in pairs)
        return errors / sum(len(unit(entry.text)) for entry, _ in pairs)

    speakers = {entry.speaker for entry, _ in truth}
    own = [rate(str.split, [pair for pair in truth if pair[0].speaker == name]) for name in speakers]
    assert found["wer"] == pytest.approx(rate(str.split, truth))
    assert found["cer"] == pytest.approx(rate(list, truth))
    assert found["median_wer"] == pytest.approx(np.median(own))
    assert found["nll"] == pytest.approx(np.mean([index for index, _ in heard]))
    assert found["utterances"] == len(heard) == 6
    assert 0 < found["wer"] != found["median_wer"]
    assert not list(tmp_path.iterdir()), "what people said is not written unless asked for"


def test_what_was_recognised_is_written_on_request(corpus, heard, predict, tmp_path):
    artifacts = Artifacts(epath.Path(tmp_path), (Nobody(),), "test", 0)
    WordErrors(corpus, EvaluatorConfig(hypotheses=True)).run(predict, batches(heard), artifacts)
    (file,) = tmp_path.rglob("hypotheses*")
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    expected = [(corpus.entries[index], text) for index, text in heard]
    assert [(row["utt_id"], row["hypothesis"]) for row in rows] == [(e.utt_id, t) for e, t in expected]
    assert [(row["speaker"], row["reference"]) for row in rows] == [(e.speaker, e.text) for e, _ in expected]


def test_a_members_loss_is_the_mean_over_its_own_utterances(tmp_path):
    """Two members and one that pads, over three steps; the second has nothing left in the last."""
    losses = iter(np.array([[6.0, 8.0, 0.0], [4.0, 1.0, 0.0], [2.0, 0.0, 0.0]], np.float32))
    counts = iter(np.array([[3.0, 3.0, 0.0], [3.0, 1.0, 0.0], [2.0, 0.0, 0.0]], np.float32))
    steps = iter([{"mask": np.ones(3, np.float32)}] * 3)
    found = MemberLosses(("ann", "ben"), 3).run(
        lambda batch: {"nll": next(losses), "utterances": next(counts)},
        steps,
        Artifacts(epath.Path(tmp_path), (), "dev", 0),
    )
    assert found == {"nll/ann": 12 / 8, "nll/ben": 9 / 4, "nll": (12 / 8 + 9 / 4) / 2}
