"""Commands that make corpora: read_corpus, split, prepare, synthesize."""

from typing import Literal

from tyro.conf import Positional

CorpusName = Literal[
    "librispeech", "torgo", "uaspeech", "speech_accessibility", "common_voice", "asterisk", "audiotool",
    "euphonia_app", "own",
]  # fmt: skip


def read_corpus(
    kind: Positional[CorpusName],
    root: Positional[str],
    output: str,
    language: str = "",
    encoding: Literal["", "g722", "wav"] = "",
    speaker: str = "",
) -> None:
    """Reads a corpus as it was published, and writes its manifest, its speakers, and what was left out.

    Args:
      kind: which.
      root: its folder.
      output: folder to write to.
      language: of common_voice and asterisk, en unless told.
      encoding: of asterisk: g722 at 16 kHz unless told, or wav at 8 kHz.
      speaker: of euphonia_app, whose files do not say who speaks.

    """
    from offsites_jax.projects.euphonia.corpora.readers import import_corpus

    options = {"language": language, "encoding": encoding, "speaker": speaker}
    told = {name: value for name, value in options.items() if value}
    corpus, files = import_corpus(kind, root, output, **told)
    print(f"{len(corpus.utterances)} utterances, {len(corpus.dropped)} left out")
    for name, file in files.items():
        print(f"{name}: {file}")


def split(
    manifest: Positional[str],
    output: str,
    seed: int = 0,
    allow_small: bool = False,
    cross_speaker_disjoint: bool = False,
    memorize: int = 0,
) -> None:
    """Draws train, dev and test parts within each speaker; a phrase is in one part only.

    Args:
      manifest: JSON lines or CSV, one utterance each.
      output: split.json to write.
      seed: of the draw.
      allow_small: also split speakers with fewer than 300 utterances.
      cross_speaker_disjoint: no phrase of anyone's test is in anyone's training.
      memorize: instead, train on the first so many utterances of 1 to 4 seconds, and test on the next, to see
        whether training works; the rest is in no part.

    """
    from offsites_jax.projects.euphonia.corpora.memorize import memory_split
    from offsites_jax.projects.euphonia.manifest import read_manifest
    from offsites_jax.projects.euphonia.splits import make_split, write_split

    utterances = read_manifest(manifest, check_audio=False)
    drawn = (
        memory_split(utterances, memorize)
        if memorize
        else make_split(
            utterances, seed=seed, allow_small=allow_small, cross_speaker_disjoint=cross_speaker_disjoint
        )
    )
    write_split(output, drawn)
    print(f"{output}: {len(drawn.speakers)} speakers; {len(drawn.small)} have too few utterances")


def prepare(
    manifest: Positional[str],
    output: str,
    root: str = "",
    split: str = "",
    like: str = "",
    pieces: int = 0,
    kind: Literal["unigram", "bpe"] = "unigram",
    characters: bool = False,
    sample_rate: int = 16_000,
    mels: int = 128,
    max_seconds: float = 30.0,
    allow_small: bool = False,
    seed: int = 0,
) -> None:
    """Decodes and resamples recordings once, and writes what training reads: waveforms, texts, tokenizer.

    What cannot be used is left out and listed in index.json.

    Args:
      manifest: JSON lines or CSV, one utterance each.
      output: folder to write.
      root: folder that recordings are relative to; the manifest's own unless told.
      split: split.json of `offsites euphonia split`; drawn anew unless told.
      like: a corpus whose tokenizer and feature statistics to take over, such as that of the base model.
      pieces: train a tokenizer of so many word pieces.
      kind: of word pieces.
      characters: train one of the characters that occur; 75 of English unless told otherwise.
      sample_rate: to resample to, in Hz.
      mels: channels of the features.
      max_seconds: longer utterances are left out.
      allow_small: also split speakers with fewer than 300 utterances.
      seed: of the split.

    """
    from etils import epath

    from offsites_jax.data.audio import LogMelConfig
    from offsites_jax.errors import UserError
    from offsites_jax.projects.euphonia import prepared
    from offsites_jax.projects.euphonia.manifest import read_manifest
    from offsites_jax.projects.euphonia.splits import make_split, read_split

    if bool(like) + bool(pieces) + characters > 1:
        raise UserError("--like, --pieces and --characters each name a tokenizer; give one")
    base = epath.Path(root) if root else epath.Path(manifest).parent
    utterances = read_manifest(manifest, base)
    drawn = read_split(split) if split else make_split(utterances, seed=seed, allow_small=allow_small)
    parts = {
        name: part
        for own in drawn.speakers.values()
        for part, names in own._asdict().items()
        for name in names
    }
    fresh = LogMelConfig(sample_rate=sample_rate, mels=mels)
    found = prepared.prepare(
        utterances,
        base,
        output,
        splits=parts,
        tokenizer=prepared.tokenizer_for(like=like, pieces=pieces, kind=kind, characters=characters),
        features=prepared.read_features(like) if like else fresh,
        max_seconds=max_seconds,
        notify=print,
    )
    print(prepared.describe(found))


def synthesize(
    output: Positional[str],
    typical: int = 1200,
    severities: tuple[float, ...] = (1.0,),
    personal: int = 300,
    pieces: int = 64,
    seed: int = 0,
) -> None:
    """Speaks a corpus of commands by machine and prepares it: `base` and `personal` in the folder.

    Made-up speech for trying the commands; it says nothing about people.

    Args:
      output: folder to write.
      typical: utterances of many clear voices, to train a base on.
      severities: one hard-to-understand speaker each, from 0 to 1.
      personal: utterances of each of them to train on.
      pieces: word pieces of the tokenizer, the blank counted.
      seed: of texts, voices and what disorders them. The synthesiser has a flutter of its own: the same seed
        gives the same phrases in the same voices, but not quite the same sound.

    """
    import dataclasses

    from etils import epath

    from offsites_jax.data.audio import LogMelConfig
    from offsites_jax.projects.euphonia import prepared, synthetic
    from offsites_jax.projects.euphonia.manifest import write_manifest

    folder = epath.Path(output)
    recordings = folder / "recordings"
    recordings.mkdir(parents=True, exist_ok=True)
    utterances, parts = synthetic.synthesize(
        recordings, typical=typical, severities=severities, personal=personal, seed=seed, notify=print
    )
    placed = (dataclasses.replace(one, audio=str(recordings / one.audio)) for one in utterances)
    write_manifest(folder / "manifest.jsonl", placed)
    groups = {
        "base": [utterance for utterance in utterances if utterance.speaker == "typical"],
        "personal": [utterance for utterance in utterances if utterance.speaker != "typical"],
    }
    # So few texts hold too few pieces for a unigram model.
    features, tokenizer = LogMelConfig(mels=64), prepared.tokenizer_for(pieces=pieces, kind="bpe")
    for name, chosen in groups.items():
        found = prepared.prepare(
            chosen, recordings, folder / name, splits=parts, tokenizer=tokenizer, features=features
        )
        features, tokenizer = found.features, found.tokenizer
        print(prepared.describe(found))
