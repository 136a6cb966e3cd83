"""The commands of the project: `offsites euphonia NAME`."""

from offsites_jax.projects.euphonia.collect.commands import collect, export, prompts
from offsites_jax.projects.euphonia.commands.analysis import analyze
from offsites_jax.projects.euphonia.commands.corpus import prepare, read_corpus, split, synthesize
from offsites_jax.projects.euphonia.commands.personalize import personalize
from offsites_jax.projects.euphonia.commands.transcribe import stream, transcribe

JOBS = {
    "prompts": prompts,
    "collect": collect,
    "export": export,
    "read_corpus": read_corpus,
    "split": split,
    "prepare": prepare,
    "personalize": personalize,
    "transcribe": transcribe,
    "stream": stream,
    "analyze": analyze,
    "synthesize": synthesize,
}
