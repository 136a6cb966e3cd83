"""Measures of recordings: bins of six speakers, faults in words, a contact sheet that shows them."""

import io

import numpy as np
import pytest
from PIL import Image

from offsites_jax.projects.euphonia.analysis.quality import (
    Clip,
    contact_sheet,
    faults,
    quality_figure,
    quality_rows,
)
from offsites_jax.projects.euphonia.manifest import Utterance
from offsites_jax.train.media import encode_figure


def _recordings(speakers, values):
    return [
        Utterance(
            f"{s}-{n}", f"E{s}", "a.wav", "hello", quality={"snr_db": value, "peak_dbfs": float("-inf")}
        )
        for s in range(speakers)
        for n, value in enumerate(values(s))
    ]


def test_rows_are_percentiles_over_speakers_medians():
    rows = quality_rows(_recordings(11, lambda s: (float(s), float(s), 99.0)))
    (row,) = rows  # peaks of silence are no numbers
    assert (row["recordings"], row["speakers"]) == (33, 11)
    assert [row[name] for name in ("10 %", "25 %", "median", "75 %", "90 %")] == [1.0, 2.5, 5.0, 7.5, 9.0]
    assert quality_rows(_recordings(5, lambda s: range(20))) == []


def test_bins_of_fewer_than_six_speakers_stay_empty():
    figure = quality_figure(_recordings(8, lambda s: [0.0] * 10 + ([14.0] * 10 if s < 5 else [7.0])))
    (stairs,) = figure.axes[0].patches
    shares, edges, _ = stairs.get_data()
    assert np.flatnonzero(shares).tolist() == [0]
    assert shares[0] == pytest.approx(100 * 80 / 133)
    assert (edges[0], edges[-1]) == (0.0, 14.0)
    assert quality_figure(_recordings(8, lambda s: [3.0])) is None
    assert quality_figure([]) is None


def test_faults_in_words():
    assert faults({"snr_db": 30.0, "clipping_ratio": 0.0, "dropouts": 0, "starts_cut": False}) == []
    bad = {
        "snr_db": 3.0,
        "clipping_ratio": 0.01,
        "dropouts": 2,
        "starts_cut": True,
        "ends_cut": True,
        "empty": True,
    }
    assert faults(bad) == ["start cut", "end cut", "empty", "clipped", "dropouts", "noisy"]
    assert faults({"snr_db": None}) == []


def test_contact_sheet_marks_what_is_wrong():
    tone = np.sin(np.arange(8000) / 10).astype(np.float32)
    good = Clip("good", tone / 2, 16000, {"snr_db": 25.0})
    figure = contact_sheet([good, Clip("bad", tone, 16000, {"snr_db": 25.0, "clipping_ratio": 0.2})] * 3)
    panels = [axes for axes in figure.axes if axes.axison]
    assert [axes.texts[0].get_text() for axes in panels] == ["SNR 25 dB", "clipped"] * 3
    picture = np.asarray(Image.open(io.BytesIO(encode_figure(figure).content)).convert("RGB")).astype(int)
    assert ((picture[..., 0] > 150) & (picture[..., 1] < 80)).sum() > 500  # red frames
    plain = np.asarray(
        Image.open(io.BytesIO(encode_figure(contact_sheet([good])).content)).convert("RGB")
    ).astype(int)
    assert ((plain[..., 0] > 150) & (plain[..., 1] < 80)).sum() == 0
    with pytest.raises(ValueError, match="no recordings"):
        contact_sheet([])
