"""All corpora by name, and reading one into a manifest."""

import inspect
import os
from collections.abc import Callable, Mapping
from typing import Any

from etils import epath

from offsites_jax.errors import UserError
from offsites_jax.projects.euphonia.corpora.asterisk import read_asterisk
from offsites_jax.projects.euphonia.corpora.audiotool import read_audiotool
from offsites_jax.projects.euphonia.corpora.common_voice import read_common_voice
from offsites_jax.projects.euphonia.corpora.corpus import Corpus, measured, write_corpus
from offsites_jax.projects.euphonia.corpora.euphonia_app import read_euphonia_app
from offsites_jax.projects.euphonia.corpora.librispeech import read_librispeech
from offsites_jax.projects.euphonia.corpora.own import read_own
from offsites_jax.projects.euphonia.corpora.speech_accessibility import read_speech_accessibility
from offsites_jax.projects.euphonia.corpora.torgo import read_torgo
from offsites_jax.projects.euphonia.corpora.uaspeech import read_uaspeech

READERS: Mapping[str, Callable[..., Corpus]] = {
    "librispeech": read_librispeech,
    "torgo": read_torgo,
    "uaspeech": read_uaspeech,
    "speech_accessibility": read_speech_accessibility,
    "common_voice": read_common_voice,
    "asterisk": read_asterisk,
    "audiotool": read_audiotool,
    "euphonia_app": read_euphonia_app,
    "own": read_own,
}


def import_corpus(
    kind: str, root: str | os.PathLike[str], output: str | os.PathLike[str], **options: Any
) -> tuple[Corpus, dict[str, epath.Path]]:
    """Reads a corpus, opens every recording, and writes manifest, speakers and what was left out.

    Args:
      kind: one of `READERS`.
      root: folder of the corpus.
      output: folder of the files.
      options: further arguments of the reader.

    Returns:
      The corpus, and the files by name.

    Raises:
      UserError: no such corpus, an option that its reader does not have or that it needs, or nothing that
        can be used in it.

    """
    if kind not in READERS:
        raise UserError(f"no corpus {kind!r}; take one of {', '.join(READERS)}")
    try:
        inspect.signature(READERS[kind]).bind(root, **options)
    except TypeError as error:
        raise UserError(f"corpus {kind}: {error}; see `offsites euphonia read_corpus --help`") from None
    corpus = measured(READERS[kind](root, **options))
    return corpus, write_corpus(corpus, output)
