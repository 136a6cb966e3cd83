"""The commands of the project: `offsites euphonia NAME`."""

from offsites_jax.projects.euphonia.collect.commands import collect, export, prompts
from offsites_jax.projects.euphonia.commands.analysis import analyze
from offsites_jax.projects.euphonia.commands.corpus import prepare, read_corpus, split, synthesize
from offsites_jax.projects.euphonia.commands.explain import explain
from offsites_jax.projects.euphonia.commands.merge import merge
from offsites_jax.projects.euphonia.commands.personalize import data_size, personalize
from offsites_jax.projects.euphonia.commands.transcribe import stream, transcribe

JOBS = {
    "prompts": prompts,
    "collect": collect,
    "export": export,
    "read_corpus": read_corpus,
    "split": split,
    "prepare": prepare,
    "personalize": personalize,
    "data_size": data_size,
    "merge": merge,
    "transcribe": transcribe,
    "stream": stream,
    "explain": explain,
    "analyze": analyze,
    "synthesize": synthesize,
}
