"""Which utterances of each speaker train and which test: a phrase is never on both sides.

All recordings of a phrase move together, whatever its capitals and punctuation, since a phrase that was
trained on would flatter the test. Green et al. (2021) split like this within each speaker.
"""

import dataclasses
import hashlib
import importlib.metadata
import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from etils import epath

from offsites_jax.data.atomic import write_atomically
from offsites_jax.data.delimited import read_text
from offsites_jax.data.text.normalise import LATEST, normalise
from offsites_jax.errors import UserError
from offsites_jax.projects.euphonia.manifest import Utterance

LEAST_UTTERANCES = 300  # of a speaker, to count for the cohort
PARTS = ("train", "dev", "test")

_STRATIFIED = 10  # phrases from which on a domain is in the test
_NAMED = 3  # utterances that an error lists


class Parts(NamedTuple):
    """Names of the utterances of one speaker."""

    train: tuple[str, ...]
    dev: tuple[str, ...]
    test: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Split:
    """A split of a manifest.

    Attributes:
      speakers: their utterances.
      seed: it was drawn with.
      small: speakers with too few utterances for the cohort, and how many they have. They have no parts,
        unless they were asked for.
      shares_phrases: true only for published splits that test on phrases of the training part.
      code_version: of this package.
      text_version: of the rules that made phrases equal.

    """

    speakers: Mapping[str, Parts]
    seed: int
    small: Mapping[str, int] = dataclasses.field(default_factory=dict)
    shares_phrases: bool = False
    code_version: str = importlib.metadata.version("offsites_jax")
    text_version: int = LATEST


def phrase_key(text: str, version: int = LATEST) -> str:
    """What two recordings of the same phrase share."""
    return normalise(text, version=version)


def make_split(
    utterances: Iterable[Utterance],
    *,
    seed: int = 0,
    test_share: float = 0.1,
    dev_share: float = 0.1,
    least_utterances: int = LEAST_UTTERANCES,
    allow_small: bool = False,
    cross_speaker_disjoint: bool = False,
) -> Split:
    """A split by phrase within each speaker.

    Phrases are ordered by a digest of seed, speaker and phrase, and fill the test until it holds `test_share`
    of the utterances, then the development part until it holds `dev_share` of the rest. Each domain with ten
    phrases or more has at least one in the test. A speaker's part does not depend on the other speakers,
    unless they are kept disjoint.

    Args:
      utterances: of all speakers.
      seed: of the order.
      test_share: least share of a speaker's utterances.
      dev_share: least share of the utterances that are not in the test.
      least_utterances: of a speaker, for the cohort.
      allow_small: also split the utterances of speakers with fewer.
      cross_speaker_disjoint: no phrase of anyone's test is in anyone's training or development part.

    Raises:
      UserError: shares that leave nothing, or a speaker with too few phrases for three parts.

    """
    if not (0 < test_share < 1 and 0 <= dev_share < 1):
        raise UserError(f"test_share {test_share:g} and dev_share {dev_share:g} have to lie between 0 and 1")
    phrases: dict[str, dict[str, list[Utterance]]] = {}
    for utterance in utterances:
        own = phrases.setdefault(utterance.speaker, {})
        own.setdefault(phrase_key(utterance.text), []).append(utterance)
    counts = {speaker: sum(map(len, own.values())) for speaker, own in phrases.items()}
    small = {speaker: count for speaker, count in sorted(counts.items()) if count < least_utterances}
    taken = {speaker: own for speaker, own in sorted(phrases.items()) if allow_small or speaker not in small}
    if cross_speaker_disjoint:
        tests = _common_test(taken, seed, test_share)
    else:
        tests = {name: _test_phrases(own, _order(seed, name), test_share) for name, own in taken.items()}
    speakers = {
        name: _parts(name, own, tests[name], _order(seed, name), dev_share) for name, own in taken.items()
    }
    return Split(speakers, seed, small)


def given_split(utterances: Iterable[Utterance], part_of: Callable[[Utterance], str | None]) -> Split:
    """A published split, which may test on phrases of the training part; that is noted in it.

    Args:
      utterances: of all speakers.
      part_of: train, dev or test, or None for an utterance that is in no part.

    """
    chosen: dict[str, dict[str, list[str]]] = {}
    keys: dict[str, dict[str, set[str]]] = {}
    for utterance in utterances:
        part = part_of(utterance)
        if part is None:
            continue
        chosen.setdefault(utterance.speaker, {name: [] for name in PARTS})[part].append(utterance.utt_id)
        keys.setdefault(utterance.speaker, {name: set() for name in PARTS})[part].add(
            phrase_key(utterance.text)
        )
    speakers = {
        speaker: Parts(*(tuple(sorted(own[name])) for name in PARTS))
        for speaker, own in sorted(chosen.items())
    }
    shared = any(own["test"] & (own["train"] | own["dev"]) for own in keys.values())
    return Split(speakers, 0, shares_phrases=shared)


def check_split(split: Split, utterances: Iterable[Utterance], allow_shared_phrases: bool = False) -> None:
    """Refuses a split that would flatter the test.

    Args:
      split: of these utterances.
      utterances: all that it names.
      allow_shared_phrases: accept a published split that says it tests on phrases of the training part.

    Raises:
      UserError: an utterance that is unknown, of another speaker, or in two parts; a test phrase of a
        speaker that is also in their training or development part.

    """
    known = {utterance.utt_id: utterance for utterance in utterances}
    for speaker, parts in split.speakers.items():
        names = [name for part in parts for name in part]
        _refuse(speaker, "not in the manifest", [name for name in names if name not in known])
        _refuse(speaker, "of another speaker", [name for name in names if known[name].speaker != speaker])
        _refuse(speaker, "in two parts", [name for name, count in Counter(names).items() if count > 1])
        if split.shares_phrases and allow_shared_phrases:
            continue
        learnt = {phrase_key(known[name].text, split.text_version) for name in (*parts.train, *parts.dev)}
        leaked = [name for name in parts.test if phrase_key(known[name].text, split.text_version) in learnt]
        _refuse(speaker, "in the test with a phrase of train or dev", leaked)


def nested_subsets(names: Sequence[str], sizes: Iterable[int], seed: int = 0) -> dict[int, tuple[str, ...]]:
    """Subsets of one training part for a study of data size: each holds all smaller ones.

    Args:
      names: of the utterances.
      sizes: wanted; those beyond the number of utterances are left out, and all of them are always added.
      seed: of the order.

    Returns:
      Utterances by size.

    """
    ordered = sorted(names, key=lambda name: _digest(seed, name))
    wanted = sorted({size for size in sizes if 0 < size < len(names)} | {len(names)})
    return {size: tuple(ordered[:size]) for size in wanted}


def write_split(path: str | os.PathLike[str], split: Split) -> None:
    """Writes `split.json` at once."""
    value = dataclasses.asdict(split)
    value["speakers"] = {speaker: parts._asdict() for speaker, parts in split.speakers.items()}
    write_atomically(epath.Path(path), f"{json.dumps(value, indent=1, ensure_ascii=False)}\n".encode())


def read_split(path: str | os.PathLike[str]) -> Split:
    """The split of a `split.json`.

    Raises:
      UserError: no such file, or not a split.

    """
    text = read_text(path)
    try:
        found = json.loads(text)
        found["speakers"] = {speaker: _read_parts(parts) for speaker, parts in found["speakers"].items()}
        return Split(**found)
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise UserError(f"{path}: not a split.json ({error}); make it again") from None


def _read_parts(parts: Mapping[str, Any]) -> Parts:
    if set(parts) != set(PARTS) or not all(isinstance(name, str) for part in parts.values() for name in part):
        raise ValueError("a speaker has to have train, dev and test")
    return Parts(*(tuple(parts[name]) for name in PARTS))


def _order(seed: int, speaker: str) -> Callable[[str], bytes]:
    return lambda key: _digest(seed, speaker, key)


def _digest(*words: object) -> bytes:
    return hashlib.sha256("\0".join(map(str, words)).encode()).digest()


def _test_phrases(
    phrases: Mapping[str, Sequence[Utterance]], order: Callable[[str], bytes], share: float
) -> set[str]:
    """Phrases for the test: first one of each large domain, then as many as are needed."""
    keys = sorted(phrases, key=order)
    domain = {key: phrases[key][0].domain for key in keys}
    sizes = Counter(domain.values())
    first_of = {domain[key]: key for key in reversed(keys)}
    chosen = {key for name, key in first_of.items() if sizes[name] >= _STRATIFIED}
    return _filled(phrases, keys, share, chosen)


def _filled(
    phrases: Mapping[str, Sequence[Utterance]], keys: Sequence[str], share: float, chosen: set[str]
) -> set[str]:
    """`chosen`, and further keys in order until they hold that share of the utterances of all keys."""
    wanted = share * sum(len(phrases[key]) for key in keys)
    held = sum(len(phrases[key]) for key in chosen)
    filled = set(chosen)
    for key in keys:
        if held >= wanted - 1e-9:  # 0.1 * 30 is a little more than 3
            break
        if key not in filled:
            filled.add(key)
            held += len(phrases[key])
    return filled


def _common_test(
    phrases: Mapping[str, Mapping[str, Sequence[Utterance]]], seed: int, share: float
) -> dict[str, set[str]]:
    """Test phrases of all speakers, in an order common to them: what tests for one does not train another."""
    tests = [_test_phrases(own, lambda key: _digest(seed, key), share) for own in phrases.values()]
    common = set().union(*tests)
    return {speaker: common & own.keys() for speaker, own in phrases.items()}


def _parts(
    speaker: str,
    phrases: Mapping[str, Sequence[Utterance]],
    test: set[str],
    order: Callable[[str], bytes],
    dev_share: float,
) -> Parts:
    rest = sorted(phrases.keys() - test, key=order)
    dev = _filled(phrases, rest, dev_share, set())
    train = set(rest) - dev
    if not train:
        raise UserError(
            f"speaker {speaker}: {len(phrases)} different phrases are too few for train, dev and test; "
            "record more, or leave the speaker out"
        )
    named = ([utterance.utt_id for key in part for utterance in phrases[key]] for part in (train, dev, test))
    return Parts(*(tuple(sorted(names)) for names in named))


def _refuse(speaker: str, what: str, names: Sequence[str]) -> None:
    if names:
        listed = ", ".join(names[:_NAMED]) + (" ..." if len(names) > _NAMED else "")
        raise UserError(
            f"split of {speaker}: {len(names)} utterances are {what}: {listed}; make the split again"
        )
