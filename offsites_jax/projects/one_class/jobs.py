"""The commands of the project: `offsites one_class NAME`."""

from offsites_jax.projects.one_class.commands.photos import export, fit, score, synthesize
from offsites_jax.projects.one_class.commands.protocol import protocol
from offsites_jax.projects.one_class.commands.representations import (
    embedding,
    explain,
    fit_scorer,
    localize,
    rescore,
    uniformity,
)

JOBS = {
    "fit": fit,
    "score": score,
    "explain": explain,
    "fit_scorer": fit_scorer,
    "rescore": rescore,
    "localize": localize,
    "uniformity": uniformity,
    "embedding": embedding,
    "protocol": protocol,
    "synthesize": synthesize,
    "export": export,
}
