"""Packages of drawings, made here in the published layout, as folders of images."""

import io
import json
import pathlib
import subprocess
import sys
import tarfile

import numpy as np
import pytest
from PIL import Image

from offsites_jax.projects.image_classification.data import DataConfig
from offsites_jax.projects.image_classification.sources import class_names, create_source

TOOL = pathlib.Path(__file__).parents[2] / "tools/data/emoji_folders.py"
CHARACTERS = (  # code, category, and the styles that draw it
    ("1F600", "Smileys & Emotion", {"google", "apple"}),
    ("1F34E", "Food & Drink", {"google", "apple"}),
    ("1F34F", "Food & Drink", {"google"}),
    ("1F3FB", "Component", {"google", "apple"}),
)


def package(folder, style, broken=""):
    table, drawings = [], {}
    for index, (code, category, styles) in enumerate(CHARACTERS):
        image = f"{code.lower()}.png"
        table.append({"unified": code, "image": image, "category": category})
        table[-1] |= {f"has_img_{name}": name in styles for name in ("google", "apple")}
        pixels, content = np.full((64, 64, 4), 40 * index, np.uint8), io.BytesIO()
        Image.fromarray(pixels).save(content, "PNG")
        drawings[f"package/img/{style}/64/{image}"] = content.getvalue()
    drawings["package/emoji.json"] = json.dumps(table).encode()
    file = folder / f"emoji-datasource-{style}-16.0.0.tgz"
    with tarfile.open(file, "w:gz") as archive:
        for name, content in drawings.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            if name.endswith(broken or "?"):
                info.type, info.linkname, info.size = tarfile.SYMTYPE, "/etc/passwd", 0
            archive.addfile(info, io.BytesIO(content))
    return file


def run(*arguments):
    return subprocess.run(
        [sys.executable, TOOL, *map(str, arguments)], capture_output=True, text=True, check=False
    )


def test_the_style_held_back_is_the_test_split(tmp_path):
    packages = [package(tmp_path, style) for style in ("google", "apple")]
    done = run(*packages, "--output", tmp_path / "emoji")
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{tmp_path}/emoji: 2 for test, 3 for train\n"
    config = DataConfig(source="folder", path=str(tmp_path / "emoji"), image_size=32)
    assert class_names(config, "train") == ("food_drink", "smileys_emotion")
    train, test = (create_source(config, split) for split in ("train", "test"))
    assert (len(train), len(test)) == (3, 2)
    assert [int(test[index]["label"]) for index in range(2)] == [0, 1]


@pytest.mark.parametrize(
    ("broken", "options", "said"),
    [
        ("1f34e.png", [], "package/img/google/64/1f34e.png is not a file"),
        ("", ["--test", "twitter"], "--test twitter: give its package and another"),
    ],
)
def test_what_cannot_be_used_leaves_nothing(tmp_path, broken, options, said):
    packages = [package(tmp_path, style, broken) for style in ("google", "apple")]
    done = run(*packages, "--output", tmp_path / "out/emoji", *options)
    assert done.returncode == 1
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not list((tmp_path / "out").glob("*"))
