"""Tokenizers of word pieces, trained from text with SentencePiece (arXiv 1808.06226)."""

import io
import os
import pathlib
from collections.abc import Iterable
from typing import Any, Literal

from etils import epath

from offsites_jax.data.atomic import write_atomically
from offsites_jax.data.text.vocabulary import BLANK, refuse_unknown
from offsites_jax.errors import DamagedDataError, UserError

_UNKNOWN = 1
_SPACE = "▁"
_THREADS = 16  # pieces depend on how the work was split, so never on the number of cores


class PieceTokenizer:
    """Word pieces; label 0 is the blank of the transducer, 1 stands for what is unknown and is never encoded.

    Args:
      model: a SentencePiece model as bytes, whose padding is label 0.

    Raises:
      DamagedDataError: no such model.

    """

    def __init__(self, model: bytes):
        self._model = model
        self._processor = _library().SentencePieceProcessor()
        try:
            self._processor.LoadFromSerializedProto(model)
        except RuntimeError as error:
            raise DamagedDataError("pieces: no SentencePiece model; train it again") from error
        if self._processor.pad_id() != BLANK or self._processor.unk_id() != _UNKNOWN:
            raise DamagedDataError("pieces: the model has no blank at label 0; train it with train_pieces")
        self._single = {piece for piece in self.labels if len(piece) == 1}

    @property
    def size(self) -> int:
        """Labels, with the blank."""
        return self._processor.get_piece_size()

    @property
    def labels(self) -> tuple[str, ...]:
        """What each label stands for, spaces as ▁; "" for the blank."""
        return ("", *(self._processor.id_to_piece(label) for label in range(1, self.size)))

    def encode(self, text: str) -> list[int]:
        """Labels of a text.

        Raises:
          UserError: characters that there is no label for; the message lists them.

        """
        labels = self._processor.encode(text)
        if _UNKNOWN in labels:
            refuse_unknown(text.replace(" ", _SPACE), self._single)
        return labels

    def decode(self, labels: Iterable[int]) -> str:
        """Text of labels; blanks are passed over."""
        return self._processor.decode([int(label) for label in labels if label != BLANK])

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the model, a protocol buffer that other tools of SentencePiece read."""
        write_atomically(epath.Path(path), self._model)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "PieceTokenizer":
        """What `save` wrote.

        Raises:
          DamagedDataError: another kind of file.

        """
        try:
            return cls(pathlib.Path(path).read_bytes())
        except DamagedDataError as error:
            raise DamagedDataError(f"{path}: {error}") from error


def train_pieces(
    texts: Iterable[str], size: int = 4096, kind: Literal["unigram", "bpe"] = "unigram"
) -> PieceTokenizer:
    """Word pieces of texts, with every character among them; the same for the same texts in the same order.

    Args:
      texts: normalised, one utterance each.
      size: labels, with the blank and the unknown.
      kind: a unigram language model, or byte pair encoding.

    Raises:
      UserError: too little text for so many pieces, or fewer than there are characters.

    """
    written = io.BytesIO()
    try:
        _library().SentencePieceTrainer.train(
            sentence_iterator=iter(texts),
            model_writer=written,
            model_type=kind,
            vocab_size=size,
            character_coverage=1.0,
            normalization_rule_name="identity",
            pad_id=BLANK,
            pad_piece="<blank>",
            unk_id=_UNKNOWN,
            bos_id=-1,
            eos_id=-1,
            num_threads=_THREADS,
            minloglevel=2,
        )
    except RuntimeError as error:
        _, known, reason = str(error).strip().rstrip(".").rpartition("] ")
        why = reason if known else "no text"
        raise UserError(f"pieces: {size} cannot be trained ({why}); change size or texts") from error
    return PieceTokenizer(written.getvalue())


def _library() -> Any:
    try:
        import sentencepiece
    except ImportError as error:
        raise UserError("word pieces need sentencepiece; pip install 'offsites-jax[speech]'") from error
    return sentencepiece
