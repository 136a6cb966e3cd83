"""Figures of a cohort: error rates, groups, effects, anonymity, people, data size.

All functions are pure: mappings go by speaker, rates are 0.15 for 15 %, and nothing is read or written.
"""

from offsites_jax.projects.euphonia.analysis.anonymity import (
    LEAST,
    OTHER,
    group_neighbours,
    hide_small_cells,
    merge_levels,
    merge_small_groups,
    shown,
    shown_share,
)
from offsites_jax.projects.euphonia.analysis.cohort import (
    Improvement,
    Summary,
    group_table,
    relative_improvement,
    summarize,
)
from offsites_jax.projects.euphonia.analysis.data_size import SIZES, TARGET, SizeResult, data_size_table
from offsites_jax.projects.euphonia.analysis.groups import (
    Effect,
    Groups,
    band,
    cohens_d,
    effects,
    holm,
    mann_whitney_p,
    welch_p,
    wer_groups,
)
from offsites_jax.projects.euphonia.analysis.humans import (
    Comparison,
    HumanComparison,
    Transcript,
    compare_humans,
    majority,
)
from offsites_jax.projects.euphonia.analysis.rates import (
    Pair,
    Scored,
    by_speaker,
    character_error_rate,
    rates,
    score_utterances,
    speaker_rates,
    word_error_rate,
)

__all__ = [
    "LEAST",
    "OTHER",
    "SIZES",
    "TARGET",
    "Comparison",
    "Effect",
    "Groups",
    "HumanComparison",
    "Improvement",
    "Pair",
    "Scored",
    "SizeResult",
    "Summary",
    "Transcript",
    "band",
    "by_speaker",
    "character_error_rate",
    "cohens_d",
    "compare_humans",
    "data_size_table",
    "effects",
    "group_neighbours",
    "group_table",
    "hide_small_cells",
    "holm",
    "majority",
    "mann_whitney_p",
    "merge_levels",
    "merge_small_groups",
    "rates",
    "relative_improvement",
    "score_utterances",
    "shown",
    "shown_share",
    "speaker_rates",
    "summarize",
    "welch_p",
    "wer_groups",
    "word_error_rate",
]
