"""What a library's abort() leaves on the screen."""

import subprocess
import sys

PROGRAM = """
import ctypes, os
from offsites_jax.cli import plan
os.environ.update(plan.ENVIRONMENT)
from offsites_jax.cli.abort import on_abort
from offsites_jax.parallel.compiler import Compiler
from offsites_jax.parallel.topology import parse_topology

Compiler(parse_topology("v5e:2x2", 1))
with on_abort(plan.blame_compiler):
    ctypes.CDLL(None).abort()
"""


def test_when_the_tpu_compiler_aborts_the_last_line_says_what_to_do():
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], stderr=subprocess.PIPE, text=True, timeout=300, check=False
    )
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith("offsites: the TPU compiler failed inside")
    assert "another batch size" in last
