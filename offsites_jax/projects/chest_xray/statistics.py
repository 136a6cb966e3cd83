"""Statistics of a reader study: areas, intervals, operating points, readers, subgroups, work lists.

All functions take arrays with an entry for each case: `labels` say whether it is abnormal, `scores` how sure
a model is of that. They are pure, and random ones take a seed.
"""

from offsites_jax.projects.chest_xray.accuracy.bootstrap import (
    Bootstrap,
    bootstrap_predictive_values,
    bootstrap_rates,
    cluster_bootstrap,
)
from offsites_jax.projects.chest_xray.accuracy.calibration import Calibrator, Reliability, fit, reliability
from offsites_jax.projects.chest_xray.accuracy.comparison import Comparison, compare_models
from offsites_jax.projects.chest_xray.accuracy.disease import Disease, disease_figures, disease_sets
from offsites_jax.projects.chest_xray.accuracy.intervals import Interval, Proportion, clopper_pearson, wilson
from offsites_jax.projects.chest_xray.accuracy.operating import (
    Confusion,
    OperatingPoint,
    confusion,
    flag,
    operating_point,
    predictive_intervals,
    predictive_values,
    sensitivity_at,
)
from offsites_jax.projects.chest_xray.accuracy.reader_study import (
    Reader,
    cohen_kappa,
    compare_readers,
    fleiss_kappa,
    majority,
)
from offsites_jax.projects.chest_xray.accuracy.roc import (
    Auc,
    Curve,
    Difference,
    auc,
    delong,
    delong_difference,
    roc_curve,
)
from offsites_jax.projects.chest_xray.accuracy.subgroups import Group, age_bands, by_group
from offsites_jax.projects.chest_xray.worklist.arrivals import Traffic, Turnaround, simulate_arrivals
from offsites_jax.projects.chest_xray.worklist.turnaround import (
    Expected,
    LowRisk,
    Worklist,
    expected_positions,
    low_risk,
    worklist,
)

__all__ = [
    "Auc",
    "Bootstrap",
    "Calibrator",
    "Comparison",
    "Confusion",
    "Curve",
    "Difference",
    "Disease",
    "Expected",
    "Group",
    "Interval",
    "LowRisk",
    "OperatingPoint",
    "Proportion",
    "Reader",
    "Reliability",
    "Traffic",
    "Turnaround",
    "Worklist",
    "age_bands",
    "auc",
    "bootstrap_predictive_values",
    "bootstrap_rates",
    "by_group",
    "clopper_pearson",
    "cluster_bootstrap",
    "cohen_kappa",
    "compare_models",
    "compare_readers",
    "confusion",
    "delong",
    "delong_difference",
    "disease_figures",
    "disease_sets",
    "expected_positions",
    "fit",
    "flag",
    "fleiss_kappa",
    "low_risk",
    "majority",
    "operating_point",
    "predictive_intervals",
    "predictive_values",
    "reliability",
    "roc_curve",
    "sensitivity_at",
    "simulate_arrivals",
    "wilson",
    "worklist",
]
