"""The experiment of a stack: one training's settings, for many classes and seeds."""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from offsites_jax.errors import UserError

Raw = dict[str, Any]

_NOT_STACKED = {
    "init_from": "a stack starts fresh",
    "stages": "a stack has one stage",
}


def stacked(
    alone: Mapping[str, Any], members: Sequence[tuple[str, int]], devices: int = 1, at_a_time: int = 1
) -> Raw:
    """The configuration of trainings side by side.

    Args:
      alone: that of one of them.
      members: category and seed of each.
      devices: that they are to be split over; the members are filled up to as many on each.
      at_a_time: how many of its members a device takes at once; 0 for all.

    Raises:
      UserError: settings that a stack does not have.

    """
    raw: Raw = copy.deepcopy(dict(alone))
    for section, why in _NOT_STACKED.items():
        if raw.get(section):
            raise UserError(f"config.{section}: {why}; train such an experiment without --stacked")
    train, data = raw["train"], raw["data"]
    if train.get("accumulate", 1) != 1:
        raise UserError("config.train.accumulate: a stack takes whole batches; leave it out, or --stacked")
    if (data.get("loading") or {}).get("on_bad_record", "raise") != "raise":
        raise UserError("config.data.loading.on_bad_record: a stack takes no other record; use 'raise'")
    categories, seeds = zip(*members, strict=True)
    stack = {
        "categories": list(categories),
        "seeds": list(seeds),
        "images": train["batch_size"],
        "at_a_time": at_a_time,
    }
    mesh = raw.get("mesh") or {}
    rows = -(-len(members) // devices) * devices
    return raw | {
        "task": {**(raw.get("task") or {}), "stack": stack},
        "data": {**data, "category": categories[0]},
        "optimizer": _of_members(raw.get("optimizer") or {}),
        "train": {**train, "batch_size": rows, "seed": 0, "keep": {"last": 1}, "slice_reduction": "auto"},
        "sharding": {"rules": [[".*", "members"]]},
        "mesh": {key: mesh[key] for key in ("slices", "cpu_devices") if key in mesh},
        "evaluators": {},
        "expected": {},
    }


def _of_members(optimizer: Raw) -> Raw:
    """The section, or that of each group, for members."""
    if "name" in optimizer or not optimizer:
        return {**optimizer, "members": True}
    return {group: {**section, "members": True} for group, section in optimizer.items()}
