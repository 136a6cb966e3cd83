"""The files of a report: what is in them, under which names, and what is refused."""

import functools
import io
import re
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from offsites_jax.errors import UserError
from offsites_jax.projects.one_class.measures.embedding import Embedding
from offsites_jax.projects.one_class.measures.scores import Threshold
from offsites_jax.projects.one_class.report.heat_pictures import (
    PanelColumn,
    contact_sheet,
    file_names,
    heat_range,
    panel_figure,
    write_heat_maps,
)
from offsites_jax.projects.one_class.report.score_report import (
    ScoredImages,
    histogram_figure,
    roc_figure,
    write,
)
from offsites_jax.train.overlay import colour_bar, overlay

COUNT, SIDE = 60, 16


def image(index):
    return np.random.default_rng(index).integers(0, 256, (SIDE, SIDE, 3), np.uint8)


@functools.cache
def heat():
    return np.random.default_rng(0).gamma(2, 10, (COUNT, SIDE, SIDE))


def scored(**changes):
    rng = np.random.default_rng(1)
    labels = np.arange(COUNT) % 3 == 0
    settings = {
        "names": [f"test/part {number:02}.png" for number in range(COUNT)],
        "scores": (rng.normal(0, 1, COUNT) + 2 * labels).astype(np.float32),
        "image": image,
        "labels": labels.astype(int),
        "threshold": Threshold(1.0, 0.99, 50),
        "heat": heat(),
    }
    return ScoredImages(**{**settings, **changes})


def page_of(folder, images, **settings):
    text = write(folder, images, **settings).read_text()
    root = ElementTree.fromstring(text.removeprefix("<!DOCTYPE html>\n"))
    return text, root


def headings(root):
    return [heading.text for heading in root.iter("h2")]


def cells(root, column):
    """All cells below headers of that name."""
    found = []
    for table in root.iter("table"):
        names = ["".join(head.itertext()) for head in table.iter("th")]
        if column in names:
            place = names.index(column)
            found += ["".join(list(row)[place].itertext()) for row in table.find("tbody").iter("tr")]
    return found


def test_the_page_ranks_both_ends_and_shows_every_part(tmp_path):
    images = scored()
    points = Embedding({"normal": np.zeros((3, 2)), "anomaly": np.ones((2, 2))}, 1.0)
    column = PanelColumn(image(0), np.eye(SIDE, dtype=bool), heat()[1], heat()[0])
    text, root = page_of(tmp_path, images, panels=[column], embedding=points, remarks=["2 files skipped"])
    assert headings(root) == ["Summary", "Scores", "Where", "Most anomalous", "Most normal", "Features"]
    order = np.argsort(-images.scores)
    ends = [*order[:24], *order[::-1][:24]]
    assert cells(root, "image") == [images.names[index] for index in ends]
    assert cells(root, "rank") == [str(rank) for rank in (*range(1, 25), *range(60, 36, -1))]
    kinds = ["anomaly" if images.labels[index] else "normal" for index in ends]
    assert cells(root, "label") == kinds
    assert cells(root, "flagged")[1:] == ["yes" if images.scores[index] > 1 else "no" for index in ends]
    assert cells(root, "flagged")[0] == str((images.scores > 1).sum())
    assert len(list(root.iter("img"))) == 6  # histogram, ROC, panel, both ends, t-SNE
    assert "2 files skipped" in text


def test_heat_maps_have_one_range_of_colours_and_their_numbers(tmp_path):
    images = scored()
    write(tmp_path, images)
    low, high = heat_range(heat())
    np.testing.assert_allclose([low, high], np.quantile(heat()[:, ::4, ::4], [0.05, 0.995]))
    for index in (0, 17):
        stored = np.load(tmp_path / "heatmaps" / f"{images.names[index]}.npy", allow_pickle=False)
        assert stored.dtype == np.float32
        np.testing.assert_array_equal(stored, heat()[index].astype(np.float32))
        shown = np.asarray(Image.open(tmp_path / "heatmaps" / f"{images.names[index]}.png"))
        np.testing.assert_array_equal(shown[:, :SIDE], overlay(image(index), heat()[index], low, high))
        np.testing.assert_array_equal(shown[:, SIDE:], colour_bar(SIDE, low, high, "score"))
    files = sorted(file.name for file in tmp_path.rglob("*") if file.is_file())
    assert len(files) == 2 * COUNT + 1  # and nothing unfinished
    assert all(re.fullmatch(r"part \d\d\.png\.(png|npy)|report\.html", name) for name in files)


def test_a_report_without_labels_heat_or_threshold(tmp_path):
    images = scored(labels=None, heat=None, threshold=None)
    _, root = page_of(tmp_path, images)
    assert headings(root) == ["Summary", "Scores", "Most anomalous", "Most normal"]
    assert len(list(root.iter("img"))) == 3
    assert cells(root, "label") == cells(root, "flagged") == cells(root, "auc") == []
    assert not (tmp_path / "heatmaps").exists()


def test_of_few_images_none_is_shown_twice(tmp_path):
    chosen = {"names": ["a", "b", "c"], "scores": np.array([1.0, 3.0, 2.0]), "labels": None, "heat": None}
    _, root = page_of(tmp_path, scored(**chosen))
    assert cells(root, "image") == ["b", "c", "a"]
    assert headings(root)[-1] == "Most anomalous"


def test_one_kind_alone_has_no_roc_curve(tmp_path):
    text, root = page_of(tmp_path, scored(labels=np.ones(COUNT, int), heat=None), source="test.csv")
    assert "test.csv holds only anomalous images" in text
    assert len(list(root.iter("img"))) == 3
    assert cells(root, "auc") == ["undefined"]


def test_names_of_files_are_text_and_nothing_else(tmp_path):
    names = ["<script>alert(1)</script>", "../../$x^2$_&.png", "/etc/passwd", "C:\\parts\\a.png"]
    images = scored(names=names, scores=np.arange(4.0), labels=None, heat=heat()[:4])
    text, root = page_of(tmp_path / "report", images)
    assert "<script" not in text
    assert cells(root, "image") == names[::-1]
    files = {str(file.relative_to(tmp_path)) for file in tmp_path.rglob("*.npy")}
    folder = "report/heatmaps"
    assert files == {
        f"{folder}/<script>alert(1)</script>.npy",
        f"{folder}/$x^2$_&.png.npy",
        f"{folder}/etc/passwd.npy",
        f"{folder}/C_/parts/a.png.npy",
    }


def test_images_that_would_share_a_heat_map_are_refused():
    assert file_names(["a.png", "a.jpg", "b/./a.png"]) == ["a.png", "a.jpg", "b/a.png"]
    with pytest.raises(UserError, match=r"'../a.png' and 'a.png' would share the heat map a.png.png"):
        file_names(["a.png", "../a.png"])


def test_a_folder_that_cannot_be_written_to_is_named(tmp_path):
    (tmp_path / "heatmaps").write_text("in the way")
    with pytest.raises(UserError, match=r"heatmaps.*cannot be written"):
        write_heat_maps(tmp_path, ["a"], image, heat()[:1])


def test_scores_and_images_must_fit():
    with pytest.raises(UserError, match="59 scores for 60 images"):
        scored(scores=np.zeros(59))
    with pytest.raises(UserError, match="no images were scored"):
        scored(names=[], scores=[], labels=None, heat=None)


def test_a_score_that_is_not_finite_is_named(tmp_path):
    scores = np.zeros(COUNT)
    scores[7] = np.nan
    with pytest.raises(UserError, match=r"test/part 07\.png: its score is not finite"):
        write(tmp_path, scored(scores=scores))


def test_the_roc_curve_passes_through_the_threshold():
    images = scored()
    axes = roc_figure(images, 90.0).axes[0]
    alarms, recall = axes.lines[0].get_data()
    dot = [float(value[0]) for value in axes.lines[2].get_data()]
    flagged, labels = images.scores > 1, images.labels == 1
    assert dot == pytest.approx([100 * flagged[~labels].mean(), 100 * flagged[labels].mean()])
    assert any(np.allclose(dot, point) for point in zip(alarms, recall, strict=True))


def test_the_histogram_counts_every_image_once():
    labels = np.arange(COUNT) % 3 - 1
    axes = histogram_figure(scored(labels=labels)).axes[0]
    heights = [sum(bar.get_height() for bar in group) for group in axes.containers]
    assert heights == [20, 20, 20]
    texts = [text.get_text() for text in axes.get_legend().get_texts()]
    assert sorted(texts) == ["anomaly (20)", "normal (20)", "not labelled (20)", "threshold 1"]
    assert axes.lines[0].get_xdata()[0] == 1.0


@pytest.mark.parametrize(("shape", "across"), [((10, 10), 8), ((10, 20), 4)])
def test_a_contact_sheet_holds_every_picture_in_rows(shape, across):
    colours = [(20 * number, 255 - 20 * number, 99) for number in range(11)]
    pictures = [np.full((*shape, 3), colour, np.uint8) for colour in colours]
    sheet = contact_sheet(pictures, [f"{number}" for number in range(11)])
    areas = {int((sheet == colour).all(-1).sum()) for colour in colours}
    width = 1200 // across - 8
    assert areas == {width * (width * shape[0] // shape[1])}
    first_row = [colour for colour in colours if (sheet[30] == colour).all(-1).any()]
    assert first_row == colours[:across]


def test_a_panel_has_a_row_for_everything_that_some_image_has():
    mask = np.zeros((SIDE, SIDE), bool)
    mask[4:9, 4:9] = True
    full = PanelColumn(image(0), mask, heat()[1], heat()[0])
    figure = panel_figure([full, PanelColumn(image(1))], (0.0, 40.0))
    grid = [axes for axes in figure.axes if axes.get_label() != "<colorbar>"]
    assert [axes.get_ylabel() for axes in grid[::2]] == ["input", "ground truth", "GradCAM", "patch heat map"]
    np.testing.assert_array_equal(grid[6].images[0].get_array(), overlay(image(0), heat()[0], 0, 40))
    assert not grid[7].images  # the second image has no heat map
    np.testing.assert_array_equal(grid[3].images[0].get_array(), image(1))
    shown = np.asarray(grid[2].images[0].get_array())
    assert (shown[4, 4:9] == (255, 0, 0)).all()
    np.testing.assert_array_equal(shown[6, 6], image(0)[6, 6])
    alone = panel_figure([PanelColumn(image(1))])
    assert len(alone.axes) == 1
    stream = io.BytesIO()
    figure.savefig(stream, format="png")
    assert stream.tell() > 1000
