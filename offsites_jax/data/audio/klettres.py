"""KLettres' sounds: letters and syllables in twenty languages, a second each, by volunteers.

Debian's package `klettres-data`, installed or unpacked with `dpkg -x`; GPL-2 or later. Most recordings are at
44.1 kHz, half of them stereo, some labelled 128 kHz.
"""

import os
import pathlib
from xml.parsers import expat

from offsites_jax.data.audio.read import seconds_of
from offsites_jax.data.audio.utterance import Collection, Utterance
from offsites_jax.errors import DamagedDataError, UserError

_SOUNDS = "usr/share/klettres"


def klettres_languages(root: str | os.PathLike[str]) -> tuple[str, ...]:
    """Languages that there are sounds of, in byte order.

    Raises:
      UserError: the package is not there.

    """
    folder = pathlib.Path(root) / _SOUNDS
    found = sorted(file.parent.name for file in folder.glob("*/sounds.xml"))
    if not found:
        raise UserError(f"{folder}: no sounds; unpack klettres-data")
    return tuple(found)


def read_klettres(root: str | os.PathLike[str], language: str) -> Collection:
    """Every letter and syllable of a language. Keys are file names such as "it/alpha/a.ogg".

    Args:
      root: folder that the package was unpacked in; "/" where it is installed.
      language: one of `klettres_languages`.

    Raises:
      UserError: no such language.
      DamagedDataError: a list of sounds that cannot be read, or that names files outside its folder.

    """
    folder = pathlib.Path(root) / _SOUNDS
    listing = folder / language / "sounds.xml"
    if language not in klettres_languages(root):
        raise UserError(f"{listing}: no such file; see klettres_languages")
    texts = _sounds(listing)
    utterances, left_out = [], []
    for key in sorted(texts, key=str.encode):
        path = folder / key
        if ".." in path.parts or pathlib.PurePath(key).is_absolute():
            raise DamagedDataError(f"{listing}: {key!r} is outside the folder; unpack klettres-data again")
        if not path.exists():
            left_out.append((key, "no recording"))
        elif not texts[key]:
            left_out.append((key, "no text"))
        else:
            speaker = f"klettres_{language}"
            utterances.append(Utterance(key, str(path), texts[key], language, speaker, seconds_of(path)))
    return Collection(tuple(utterances), tuple(left_out))


def _sounds(listing: pathlib.Path) -> dict[str, str]:
    """Text of each file. Entities are not expanded: there is no need for any."""
    found: dict[str, str] = {}

    def start(tag: str, attributes: dict[str, str]) -> None:
        if tag == "sound" and attributes.get("file"):
            found[attributes["file"]] = attributes.get("name", "").strip()

    def refuse(name: str, *_: object) -> None:
        raise DamagedDataError(f"{listing}: defines the entity {name!r}; unpack klettres-data again")

    parser = expat.ParserCreate()
    parser.StartElementHandler = start
    parser.EntityDeclHandler = refuse
    try:
        parser.Parse(listing.read_bytes(), True)
    except expat.ExpatError as error:
        raise DamagedDataError(f"{listing}: is no XML ({error}); unpack klettres-data again") from error
    return found
