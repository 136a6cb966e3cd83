"""Start-up: virtual devices, the compilation cache, and finding the other processes."""

import os
import re
import socket
import subprocess
import sys

import jax
import portpicker
import pytest

from offsites_jax.errors import UserError
from offsites_jax.parallel.start import Processes, find_cluster, start

SLURM = {"SLURM_PROCID": "2", "SLURM_STEP_NODELIST": "node[1-4]", "SLURM_NTASKS": "4"}
POD = {"TPU_WORKER_HOSTNAMES": "host-0,host-1", "TPU_WORKER_ID": "0"}

FRESH_PROCESS = """
import pathlib, sys
import jax
from jax._src.xla_bridge import backends_are_initialized
from offsites_jax.parallel.start import start

start(cpu_devices=8, cache=sys.argv[1])
assert not backends_are_initialized()
assert jax.device_count() == 8
assert jax.config.values["jax_cpu_enable_async_dispatch"] is False
jax.jit(lambda x: x * 3)(jax.numpy.ones(5)).block_until_ready()
assert any(pathlib.Path(sys.argv[1]).glob("*-cache")), "nothing was cached"
start(cpu_devices=8, cache=sys.argv[1])
print("done")
"""

USED_NOTEBOOK = """
import sys
import jax
from offsites_jax.errors import UserError
from offsites_jax.parallel.start import Processes, start

jax.config.update("jax_num_cpu_devices", 2)
jax.numpy.ones(2).block_until_ready()
for arguments in ({"cpu_devices": 8}, {}, {"processes": Processes("localhost:1", 2, 0)}):
    try:
        start(**arguments)
    except UserError as error:
        print(error)
"""

OTHER_CACHE = """
import os, pathlib, sys
import jax
from offsites_jax.parallel.start import start

start(cache=sys.argv[1])
jax.jit(lambda x: x * 2)(jax.numpy.ones(5)).block_until_ready()
os.environ["OFFSITES_CACHE"] = sys.argv[2]
start(cache=sys.argv[1])
jax.jit(lambda x: x * 3)(jax.numpy.ones(5)).block_until_ready()
print(*[len(list(pathlib.Path(folder).glob("*-cache"))) > 0 for folder in sys.argv[1:]])
"""

LONELY = """
import sys
from offsites_jax.errors import UserError
from offsites_jax.parallel.start import Processes, start

try:
    start(processes=Processes(sys.argv[1], 2, int(sys.argv[2]), timeout_seconds=1))
except UserError as error:
    print(error)
    sys.exit(error.exit_code)
"""


def run(program, *arguments):
    environment = {k: v for k, v in os.environ.items() if k not in ("XLA_FLAGS", "OFFSITES_CACHE")}
    return subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)],
        env=environment, capture_output=True, text=True, timeout=120,
    )  # fmt: skip


def test_fresh_process_gets_its_devices_and_cache(tmp_path):
    result = run(FRESH_PROCESS, tmp_path / "cache")
    assert result.stdout.strip() == "done", result.stderr


def test_the_variable_moves_the_cache_even_of_a_used_process(tmp_path):
    result = run(OTHER_CACHE, tmp_path / "workdir", tmp_path / "shared")
    assert result.stdout.split() == ["True", "True"], result.stderr


def test_used_notebook_is_told_to_restart():
    result = run(USED_NOTEBOOK)
    count, dispatch, joining = result.stdout.splitlines()
    assert "runs on 2 CPU device(s), mesh.cpu_devices asks for 8" in count, result.stderr
    assert "asynchronous dispatch" in dispatch
    assert "before this process joined the others" in joining
    assert all("restart the process" in line for line in (count, dispatch, joining))


def test_absent_coordinator_ends_in_one_line():
    address = f"localhost:{portpicker.pick_unused_port()}"
    result = run(LONELY, address, 1)
    assert result.returncode == 2, result.stderr
    assert result.stdout.startswith(f"process 1 of 2 found nothing at coordinator {address}")
    assert len(result.stdout.splitlines()) == 1


def test_a_process_that_never_comes_is_named():
    address = f"localhost:{portpicker.pick_unused_port()}"
    result = run(LONELY, address, 0)
    assert result.returncode == 2, result.stderr
    assert result.stdout.startswith(f"process 1 of 2 did not come to coordinator {address} within 1 s")
    assert f"here: 0 on {socket.gethostname()}" in result.stdout
    assert len(result.stdout.splitlines()) == 1


def test_taken_port_is_named():
    with socket.create_server(("", 0)) as taken:
        port = taken.getsockname()[1]
        result = run(LONELY, f"localhost:{port}", 0)
    assert result.returncode == 2, result.stderr
    assert f"cannot listen on port {port}" in result.stdout


def test_starting_again_with_the_same_settings_is_fine(tmp_path):
    jax.devices()  # the backend runs from here on
    before = jax.config.jax_compilation_cache_dir
    start(cpu_devices=8, cache=tmp_path)
    assert jax.config.jax_compilation_cache_dir == before  # JAX had been given a folder
    with pytest.raises(UserError, match="restart"):
        start(cpu_devices=4)


def test_cache_folder_must_be_possible(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("OFFSITES_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(UserError, match=r"cannot make the compilation cache folder .*file/cache"):
        start()


@pytest.mark.parametrize(
    ("processes", "message"),
    [
        (Processes(coordinator="a:1", count=2), "give all three"),
        (Processes(index=0), "give all three"),
        (Processes("a:1", 2, 2), "index 2 must be below the process count 2"),
        (Processes("a", 2, 1), "must be host:port"),
    ],
)
def test_incomplete_flags_are_refused(processes, message):
    with pytest.raises(UserError, match=message):
        start(processes=processes)


@pytest.mark.parametrize(
    ("environ", "platforms", "chips", "expected"),
    [
        ({}, "", False, ""),
        (SLURM, "", False, r"SLURM step of 4 tasks on node\[1-4\]"),
        (SLURM | {"SLURM_STEP_NUM_TASKS": "1"}, "", False, ""),
        ({"SLURM_NTASKS": "4"}, "", False, ""),  # a batch script, outside srun
        ({"OMPI_COMM_WORLD_SIZE": "2", "OMPI_MCA_orte_hnp_uri": "1.0;tcp://"}, "", False, "2 rank"),
        (POD, "", True, "TPU pod .* host-0,host-1"),
        (POD, "cpu", True, ""),  # debugging on the CPU of a pod's host
        (POD, "", False, ""),  # a planning machine that borrows the variables
        ({"TPU_WORKER_HOSTNAMES": "localhost"}, "tpu,cpu", True, ""),
        (
            {"TPU_WORKER_HOSTNAMES": "localhost", "MEGASCALE_NUM_SLICES": "2"},
            "tpu", True, "2 slice",
        ),
        ({}, "", True, "metadata server"),
        ({"TPU_SKIP_MDS_QUERY": "1"}, "", True, ""),
        (
            {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "JOB_COMPLETION_INDEX": "0"},
            "", False, "Kubernetes",
        ),
        ({"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, "", False, ""),
    ],
)  # fmt: skip
def test_clusters_are_found_by_their_variables(environ, platforms, chips, expected):
    found = find_cluster(environ, platforms, chips)
    assert re.search(expected, found) if expected else found == ""
