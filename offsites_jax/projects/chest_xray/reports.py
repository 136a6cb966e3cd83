"""The public face of the report labeler.

    >>> label("FINDINGS: Mild cardiomegaly. No effusion.").decision
    'abnormal'

Research use only.
"""

from offsites_jax.projects.chest_xray.report_text.labeler import (
    MAX_BYTES,
    OUTPUT_COLUMNS,
    Decision,
    Evidence,
    Label,
    Mark,
    Policy,
    label,
    output_row,
)

__all__ = [
    "MAX_BYTES",
    "OUTPUT_COLUMNS",
    "Decision",
    "Evidence",
    "Label",
    "Mark",
    "Policy",
    "label",
    "output_row",
]
