"""Two real processes of four devices each agree on who loads what."""

import json
import os
import pathlib
import subprocess
import sys
import time

import numpy as np
import portpicker
import pytest

WORKER = pathlib.Path(__file__).with_name("two_processes_worker.py")
SECONDS = 120
TOTAL = float(np.arange(16 * 3).sum())


def run_both(port):
    """Runs both workers to their end; returns their exit codes and outputs."""
    environment = {k: v for k, v in os.environ.items() if k not in ("XLA_FLAGS", "OFFSITES_CACHE")}
    children = [
        subprocess.Popen(
            [sys.executable, str(WORKER), str(index), str(port)],
            env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for index in range(2)
    ]  # fmt: skip
    deadline = time.monotonic() + SECONDS
    try:
        outputs = [child.communicate(timeout=deadline - time.monotonic()) for child in children]
    finally:
        for child in children:
            child.kill()
    return [child.returncode for child in children], outputs


@pytest.fixture(scope="module")
def reports():
    """For each process, its report by mesh."""
    codes, outputs = run_both(portpicker.pick_unused_port())
    assert codes == [0, 0], "\n".join(error[-3000:] for _, error in outputs)
    lines = [[line for line in out.splitlines() if line.startswith("{")] for out, _ in outputs]
    return [{(r := json.loads(line))["mesh"]: r for line in process} for process in lines]


@pytest.mark.parametrize(
    ("mesh", "shards", "second_rows"),
    [
        ("data 8", [[0, 2], [1, 2]], list(range(8, 16))),
        ("data 4 tensor 2", [[0, 2], [1, 2]], list(range(8, 16))),
        ("fsdp 2 tensor 4", [[0, 2], [1, 2]], list(range(8, 16))),
        ("tensor 8", [[0, 1], [0, 1]], list(range(16))),
        ("slices 2", [[0, 2], [1, 2]], list(range(8, 16))),
        ("data 8 interleaved", [[0, 2], [1, 2]], [2, 3, 6, 7, 10, 11, 14, 15]),
    ],
)
def test_the_batch_is_whole_on_every_mesh(reports, mesh, shards, second_rows):
    assert [process[mesh]["shard"] for process in reports] == shards
    assert reports[1][mesh]["rows"] == second_rows
    assert [process[mesh]["total"] for process in reports] == [TOTAL, TOTAL]
    assert all(process[mesh]["exact"] for process in reports)
