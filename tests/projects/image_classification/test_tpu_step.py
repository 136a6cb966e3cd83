"""The train step as a TPU gets it: what is computed in which type, and what crosses the pod."""

import json
import math
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest
from jax.extend import core

from offsites_jax.cli import plan
from offsites_jax.parallel.flops import count_flops
from offsites_jax.parallel.mesh import create_mesh
from offsites_jax.train.config import resolve
from offsites_jax.train.program import create_program
from offsites_jax.train.report import step_flops

NETWORKS = {
    "efficientnet": {
        "name": "efficientnet_v2_b0",
        "overrides": {
            "blocks": ["r1_k3_s1_e1_i32_o32_c1", "r1_k3_s2_e4_i32_o32_c1", "r2_k3_s2_e4_i32_o64_se0.25"],
            "head_width": 128,
            "norm": {"statistics": "device"},
        },
    },
    "coatnet": {
        "name": "coatnet_0",
        "overrides": {
            "stages": ["c1_d32", "c1_d64", "t2_d128", "t1_d256"],
            "stem_widths": [32, 32],
            "norm": {"statistics": "device"},
        },
    },
}
COMPILES = """
import json, os, sys
from offsites_jax.cli import plan
os.environ.update(plan.ENVIRONMENT)
import jax
from offsites_jax.parallel.collectives import find_collectives
from offsites_jax.parallel.compiler import Compiler
from offsites_jax.parallel.hlo import parse_program
from offsites_jax.parallel.topology import parse_topology
from offsites_jax.train.config import resolve
from offsites_jax.train.program import create_program

experiment = resolve(json.loads(sys.argv[1]))
mesh = Compiler(parse_topology("v5e:2x2")).mesh(experiment.mesh)
text = create_program(experiment, mesh, platform="tpu").compile().as_text()
found = find_collectives(parse_program(text), [0] * 4)
print(json.dumps([(one.kind, one.bytes, one.times) for one in found]))
"""


def experiment_of(network, **train):
    return {
        "project": "image_classification",
        "model": {**NETWORKS[network], "num_classes": 16},
        "data": {"source": "digits", "image_size": 64, "augment": "none"},
        "optimizer": {"name": "adamw", "learning_rate": 1e-3},
        "train": {"steps": 2, "batch_size": 64, **train},
        "mesh": {"data": -1},
    }


@pytest.fixture(scope="module")
def programs():
    experiments = {name: resolve(experiment_of(name)) for name in NETWORKS}
    mesh = create_mesh(experiments["coatnet"].mesh)
    return {name: create_program(one, mesh, platform="tpu") for name, one in experiments.items()}


def equations(jaxpr):
    for equation in jaxpr.eqns:
        yield equation
        for inner in core.jaxprs_in_params(equation.params):
            yield from equations(inner)


@pytest.mark.parametrize("network", NETWORKS)
def test_convolutions_take_bfloat16_and_the_state_stays_float32(programs, network):
    program = programs[network]
    with jax.set_mesh(program.mesh):
        jaxpr = jax.make_jaxpr(program.step)(program.abstract, program.batch)
    types = [
        {variable.aval.dtype for variable in equation.invars}
        for equation in equations(jaxpr.jaxpr)
        if equation.primitive.name == "conv_general_dilated"
    ]
    assert len(types) > 30
    assert all(found == {jnp.dtype(jnp.bfloat16)} for found in types)
    assert {leaf.dtype for leaf in jax.tree.leaves(program.abstract.params)} == {jnp.dtype(jnp.float32)}


@pytest.mark.parametrize("network", NETWORKS)
def test_a_step_is_three_times_a_prediction(programs, network):
    """Nothing is computed again, and gradients take what they take: two products for one."""
    program = programs[network]
    with jax.set_mesh(program.mesh):
        images = program.task.input_spec(program.mesh.size)
        one = count_flops(program.task.predict, program.abstract.variables(), images) / program.mesh.size
    assert step_flops(program) == pytest.approx(3 * one * 64, rel=0.05)


def test_replicas_of_a_network_only_sum_gradients(programs):
    done = subprocess.run(
        [sys.executable, "-c", COMPILES, json.dumps(experiment_of("coatnet"))],
        capture_output=True, text=True, timeout=500, check=False, env={**os.environ, **plan.ENVIRONMENT},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert {kind for kind, *_ in found} == {"all-reduce"}
    assert sum(times for *_, times in found) <= 4
    leaves = jax.tree.leaves(programs["coatnet"].abstract.params)
    params = 4 * sum(math.prod(leaf.shape) for leaf in leaves)
    summed = sum(size * times for _, size, times in found)
    assert 0.45 * params < summed < 1.1 * params, "gradients, and statistics of norms beside them"
