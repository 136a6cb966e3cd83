"""The commands of the project: `offsites chest_xray NAME`."""

from offsites_jax.projects.chest_xray.commands import (
    archives,
    detectors,
    evaluation,
    reports,
    splits,
    transfer,
)

JOBS = {
    "label": reports.label,
    "synthesize": archives.synthesize,
    "manifest": archives.manifest,
    "convert": archives.convert,
    "records": archives.records,
    "split": splits.split,
    "cross": splits.cross,
    "audit": splits.audit,
    "train": detectors.train,
    "thresholds": detectors.thresholds,
    "predict": detectors.predict,
    "bundle": detectors.bundle,
    "explain": detectors.explain,
    "evaluate": evaluation.evaluate,
    "prioritize": evaluation.prioritize,
    "transfer": transfer.transfer,
}
