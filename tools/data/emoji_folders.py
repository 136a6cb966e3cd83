"""Drawings of emoji as a folder of images: real pictures in colour, with transparency, in minutes.

    for style in google twitter facebook apple; do npm pack emoji-datasource-$style@16.0.0; done
    python tools/data/emoji_folders.py --output data/emoji emoji-datasource-*-16.0.0.tgz

Each of the four styles draws the same characters in its own manner, 64 x 64 pixels. The class is the category
that Unicode gives a character ("Animals & Nature", "Food & Drink", ... nine of them). One style, `--test`, is
held back: its drawings were never seen, though others of the same characters were.

The packages are by iamcal/emoji-data; each style has its own licence, named in the package.
"""

import argparse
import json
import pathlib
import re
import shutil
import sys
import tarfile
import tempfile
from collections import Counter

LARGEST = 4 << 20  # bytes of a member that is read; the table of characters has 1.6 million
STYLE = re.compile(r"emoji-datasource-([a-z]+)-")
NOT_A_CATEGORY = "Component"  # skin tones by themselves


def main() -> None:
    """Extracts the drawings."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("packages", nargs="+", type=pathlib.Path, help="the .tgz files that npm pack wrote")
    parser.add_argument("--output", required=True, type=pathlib.Path, help="new folder")
    parser.add_argument("--test", default="apple", help="style that is held back")
    options = parser.parse_args()
    try:
        counts = extract(options.packages, options.output, options.test)
    except (OSError, ValueError, KeyError, tarfile.TarError) as error:
        sys.exit(f"emoji_folders: {error}")
    print(f"{options.output}: " + ", ".join(f"{counts[split]} for {split}" for split in sorted(counts)))


def extract(packages: list[pathlib.Path], output: pathlib.Path, test: str) -> Counter[str]:
    """Writes `output`/{train,test}/<category>/<style>_<code>.png, all or nothing; returns counts by split.

    Raises:
      ValueError: a package is not one of these, the style to hold back is not among them, or the folder is
        there already.
    """
    styles = {package: style_of(package) for package in packages}
    if test not in styles.values() or len(set(styles.values())) < 2:
        raise ValueError(f"--test {test}: give its package and another; here are {sorted(styles.values())}")
    if output.exists():
        raise ValueError(f"{output}: is there already; remove it or choose another")
    output.parent.mkdir(parents=True, exist_ok=True)
    made = pathlib.Path(tempfile.mkdtemp(dir=output.parent, prefix=f".{output.name}-"))
    try:
        counts: Counter[str] = Counter()
        for package, style in styles.items():
            split = "test" if style == test else "train"
            counts[split] += extract_style(package, style, made / split)
        made.chmod(0o755)
        made.rename(output)
    finally:
        shutil.rmtree(made, ignore_errors=True)
    return counts


def style_of(package: pathlib.Path) -> str:
    """The style a package is of, by its name."""
    found = STYLE.match(package.name)
    if not found:
        raise ValueError(f"{package}: is not named emoji-datasource-STYLE-VERSION.tgz")
    return found[1]


def extract_style(package: pathlib.Path, style: str, folder: pathlib.Path) -> int:
    """Writes the drawings of one package by category; returns how many."""
    with tarfile.open(package, "r:gz") as archive:
        characters = json.loads(member(archive, "package/emoji.json"))
        drawn = [c for c in characters if c[f"has_img_{style}"] and c["category"] != NOT_A_CATEGORY]
        for character in drawn:
            content = member(archive, f"package/img/{style}/64/{character['image']}")
            category = re.sub(r"[^a-z]+", "_", character["category"].lower())
            # The name is made here, of the code alone: nothing in the package chooses where a file goes.
            code = re.sub(r"[^0-9a-f-]", "", character["unified"].lower())
            file = folder / category / f"{style}_{code}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
    return len(drawn)


def member(archive: tarfile.TarFile, name: str) -> bytes:
    """The content of one regular file of an archive."""
    info = archive.getmember(name)
    opened = archive.extractfile(info) if info.isreg() and info.size <= LARGEST else None
    if opened is None:
        raise ValueError(f"{archive.name}: {name} is not a file of at most {LARGEST} bytes")
    return opened.read()


if __name__ == "__main__":
    main()
