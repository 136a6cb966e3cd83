"""What a speaker answers in their own words: questions, with a picture to talk about or without.

Recordings of answers are the tasks of type `response` of google/euphonia's audiotool. What was said is not
known until somebody who listened has written it down.
"""

import hashlib
import pathlib
import random
from collections.abc import Sequence
from typing import NamedTuple

from offsites_jax.data.text.normalise import normalise
from offsites_jax.errors import UserError
from offsites_jax.projects.euphonia.collect.phrases import Domain, mistake, numbered_lines, refuse
from offsites_jax.projects.euphonia.collect.prompts import Prompt

MAX_BYTES = 5 * 2**20

_KINDS = {b"\x89PNG\r\n\x1a\n": ".png", b"\xff\xd8\xff": ".jpg"}


class Question(NamedTuple):
    """Something to answer.

    Attributes:
      domain: what is spoken about.
      text: as the page shows it.
      picture: a PNG or JPEG file to talk about; empty for none.

    """

    domain: Domain
    text: str
    picture: bytes = b""


def read_questions(paths: Sequence[pathlib.Path]) -> list[Question]:
    """Questions from files of `domain<TAB>question` or `domain<TAB>question<TAB>picture` lines.

    Pictures are named relative to their file. The same question may be asked of several pictures.

    Raises:
      UserError: a missing file, one that is not UTF-8, no questions, or bad lines: the first few by number.

    """
    questions: list[Question] = []
    seen: dict[str, str] = {}
    wrong: list[str] = []
    for line in numbered_lines(paths):
        domain, text, name = (*line.cells, "", "")[:3]
        found = mistake(domain, text, seen if not name else {})
        try:
            picture = read_picture(line.file.parent / name) if name and not found else b""
        except UserError as error:
            found = str(error)
        if found:
            wrong.append(f"{line.place}: {found}")
            continue
        question = Question(domain, text, picture)  # type: ignore[arg-type]  # checked to be a Domain
        if not name:
            seen[normalise(text)] = line.place
        questions.append(question)
    refuse("questions", wrong, "`domain<TAB>question` or `domain<TAB>question<TAB>picture`", not questions)
    return questions


def read_picture(path: pathlib.Path) -> bytes:
    """The bytes of a picture that a browser shows.

    Raises:
      UserError: no such file, larger than 5 MiB, or neither PNG nor JPEG.

    """
    try:
        with path.open("rb") as stream:
            content = stream.read(MAX_BYTES + 1)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check the path") from error
    if len(content) > MAX_BYTES:
        raise UserError(f"{path}: larger than 5 MiB; make it smaller")
    if not _suffix(content):
        raise UserError(f"{path}: is neither PNG nor JPEG; convert it")
    return content


def picture_name(content: bytes) -> str:
    """What a picture is called in a collection: by what is in it, so that the same one is kept once."""
    return f"{hashlib.sha256(content).hexdigest()[:16]}{_suffix(content)}"


def with_questions(prompts: Sequence[Prompt], questions: Sequence[Question], seed: str) -> list[Prompt]:
    """Prompts with the questions evenly between them, in an order that the seed decides.

    The same prompts keep the same distances or larger ones.
    """
    order = list(questions)
    random.Random(hashlib.sha256(f"{seed} questions".encode()).digest()).shuffle(order)  # noqa: S311 - an order
    mixed: list[Prompt] = []
    begin = 0
    for number, question in enumerate(order, start=1):
        end = round(number * len(prompts) / (len(order) + 1))
        mixed += [*prompts[begin:end], _prompt(question)]
        begin = end
    return [*mixed, *prompts[begin:]]


def _prompt(question: Question) -> Prompt:
    name = picture_name(question.picture) if question.picture else ""
    digest = hashlib.sha256(f"{question.text}\0{name}".encode()).hexdigest()[:10]
    return Prompt(f"r{digest}-0", question.domain, question.text, "response", name)


def _suffix(content: bytes) -> str:
    """Of the kind of file that the first bytes tell; "" for any other."""
    return next((suffix for magic, suffix in _KINDS.items() if content.startswith(magic)), "")
