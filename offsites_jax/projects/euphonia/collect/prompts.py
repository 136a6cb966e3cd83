"""The list of prompts that one speaker reads: many phrases once, some of them several times.

As in MacDonald et al. 2021, "Disordered Speech Data Collection: Lessons Learned at 1 Million Utterances from
Project Euphonia": 1,100 phrases, 100 of which come again four times, make 1,500 recordings.
"""

import collections
import dataclasses
import hashlib
import random
from collections.abc import Sequence
from typing import NamedTuple

from offsites_jax.errors import UserError
from offsites_jax.projects.euphonia.collect.phrases import DOMAINS, Phrase


@dataclasses.dataclass(frozen=True)
class PromptPlan:
    """How many prompts, and how far apart.

    Attributes:
      unique: phrases.
      repeated: how many of them come again.
      repeats: how often these come again.
      gap: at least so many other prompts lie between two of the same phrase.

    """

    unique: int = 1100
    repeated: int = 100
    repeats: int = 4
    gap: int = 50

    def __post_init__(self) -> None:
        if self.unique < 1 or min(self.repeated, self.repeats, self.gap) < 0:
            raise UserError(f"prompts: {self} has a negative number, or no phrases; give one phrase or more")
        if self.repeated > self.unique:
            raise UserError(
                f"prompts: {self.repeated} repeated phrases of {self.unique}; lower repeated to {self.unique}"
            )

    @property
    def total(self) -> int:
        """Length of the list."""
        return self.unique + self.repeated * self.repeats


class Prompt(NamedTuple):
    """One item of the list.

    Attributes:
      prompt_id: the phrase's own id and the number of the repeat: `p1f0c9a2b7d-0`. Of a phrase it is the same
        in every list.
      domain: of the phrase.
      text: to be read out, or answered.
      kind: `prompt` for what is read out, `response` for what is answered.
      picture: name of the one to talk about; "" for none.

    """

    prompt_id: str
    domain: str
    text: str
    kind: str = "prompt"
    picture: str = ""


def build_prompts(phrases: Sequence[Phrase], seed: str, plan: PromptPlan | None = None) -> list[Prompt]:
    """The list for a seed, such as the speaker's id; the same for the same phrases and seed, everywhere.

    Phrases are drawn evenly over the domains. The repeats are spread over the whole list: each repeated
    phrase comes once in each of its equal parts.

    Raises:
      UserError: fewer phrases than planned, or too few to keep the repeats apart.

    """
    plan = plan or PromptPlan()
    if len(phrases) < plan.unique:
        raise UserError(
            f"prompts: {plan.unique} phrases wanted, {len(phrases)} given; "
            f"set unique to {len(phrases)} or fewer, or give more"
        )
    draw = random.Random(hashlib.sha256(seed.encode()).digest())  # noqa: S311 - an order, not a secret
    chosen = _draw_evenly(phrases, plan.unique, draw)
    again = _draw_evenly(chosen, plan.repeated, draw)
    once = [phrase for phrase in chosen if phrase not in set(again)]
    draw.shuffle(once)
    parts = plan.repeats + 1
    order: list[Phrase] = []
    for part in range(parts):
        items = once[part::parts] + again
        draw.shuffle(items)
        order += _keep_apart(items, order[-plan.gap :] if plan.gap else [], plan.gap)
    return _number(order)


def _draw_evenly(phrases: Sequence[Phrase], count: int, draw: random.Random) -> list[Phrase]:
    """As many of each domain as there are, up to an equal share."""
    pools = [[phrase for phrase in phrases if phrase.domain == domain] for domain in DOMAINS]
    for pool in pools:
        draw.shuffle(pool)
    chosen: list[Phrase] = []
    while len(chosen) < count:
        chosen += [pool.pop() for pool in pools if pool]
    return chosen[:count]


def _keep_apart(items: Sequence[Phrase], before: Sequence[Phrase], gap: int) -> list[Phrase]:
    """Items in their order, those that were just said moved back as far as they have to."""
    recent = collections.deque(before, maxlen=gap)
    waiting, order = list(items), []
    while waiting:
        blocked = set(recent)
        place = next((k for k, phrase in enumerate(waiting) if phrase not in blocked), None)
        if place is None:
            raise UserError(
                f"prompts: too few phrases to keep repeats {gap} apart; lower gap or repeated, or give more"
            )
        phrase = waiting.pop(place)
        order.append(phrase)
        recent.append(phrase)
    return order


def _number(order: Sequence[Phrase]) -> list[Prompt]:
    times: collections.Counter[str] = collections.Counter()
    prompts = []
    for phrase in order:
        digest = hashlib.sha256(phrase.key.encode()).hexdigest()[:10]
        prompts.append(Prompt(f"p{digest}-{times[digest]}", phrase.domain, phrase.text))
        times[digest] += 1
    return prompts
