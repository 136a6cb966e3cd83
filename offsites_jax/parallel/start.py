"""Everything that must happen before JAX's backend starts.

`start` is called once, first, by whatever owns the process: the command line, a test, a notebook.
It gives the CPU platform its virtual devices, joins the other processes of the run, and turns on
the persistent compilation cache.
"""

import dataclasses
import glob
import importlib.metadata
import importlib.util
import os
import re
import socket
import threading
from collections.abc import Mapping
from typing import Any

import jax
from etils import epath
from jax._src.clusters import ClusterEnv  # JAX looks for the cluster only while it joins
from jax._src.xla_bridge import backends_are_initialized  # there is no public way to ask
from jax.experimental.compilation_cache import compilation_cache

from offsites_jax.errors import UserError
from offsites_jax.parallel.roll_call import Presence, answer_roll_call

CACHE_VARIABLE = "OFFSITES_CACHE"
RESTART = "restart the process (notebook: the kernel) and start offsites_jax before using JAX"

# JAX aborts the process when its own waiting time is over, so it gets a day more than ours: a
# notebook lives on after our error.
_GRACE_SECONDS = 24 * 3600
_ANSWER_SECONDS = 15  # for those who have come to hear that others have not


@dataclasses.dataclass(frozen=True)
class Processes:
    """How this process finds the others of its run.

    On TPU pods, SLURM, GKE and Open MPI nothing needs to be given. Elsewhere all three of
    `coordinator`, `count` and `index` are. `count=1` alone keeps a process by itself anywhere.

    Attributes:
        coordinator: "host:port" of process 0, reachable by all.
        count: Number of processes.
        index: This process, from 0.
        timeout_seconds: How long to wait for the others.
        same: What must be equal in all processes beside the versions of packages, by name.

    """

    coordinator: str = ""
    count: int = 0
    index: int = -1
    timeout_seconds: int = 300
    same: Mapping[str, str] = dataclasses.field(default_factory=dict)


def start(
    cpu_devices: int = 0,
    processes: Processes = Processes(),
    cache: str | os.PathLike[str] | None = None,
) -> None:
    """Prepares JAX; calling it again with the same arguments does nothing.

    Args:
        cpu_devices: Virtual devices of this process when it runs on CPU; 0 keeps JAX's number.
        processes: How to find the other processes.
        cache: Folder for compiled programs (local or gs://), unless the variable OFFSITES_CACHE
            names one (empty: none) or JAX has been given one already.

    Raises:
        UserError: JAX already runs with other settings, the other processes cannot be reached, or
            the cache folder cannot be written.

    """
    _check_flags(processes)
    _quiet_libtpu()
    _use_cache(cache)
    jax.config.update("jax_threefry_partitionable", True)
    cluster = "" if processes.count else find_cluster(os.environ, _platforms(), _sees_tpu_chips())
    joins = (processes.count > 1 or bool(cluster)) and not jax.distributed.is_initialized()
    if backends_are_initialized():
        _check_running(cpu_devices, joins)
        return
    _prepare_cpu(cpu_devices, several_processes=processes.count > 1 or bool(cluster))
    if joins:
        _join(processes, cluster)


def find_cluster(environ: Mapping[str, str], platforms: str, tpu_chips: bool) -> str:
    """Describes the cluster whose variables say that this process is one of several.

    Args:
        environ: Environment variables.
        platforms: The platforms JAX may use, comma-separated; empty for any.
        tpu_chips: Whether this machine has TPU chips.

    Returns:
        Something like "SLURM step of 4 tasks on node[1-4]"; empty for a lone process.

    """
    tasks = int(environ.get("SLURM_STEP_NUM_TASKS", environ.get("SLURM_NTASKS", 1)))
    if tasks > 1 and "SLURM_PROCID" in environ and "SLURM_STEP_NODELIST" in environ:
        return f"SLURM step of {tasks} tasks on {environ['SLURM_STEP_NODELIST']}"
    ranks = int(environ.get("OMPI_COMM_WORLD_SIZE", 1))
    if ranks > 1 and "OMPI_MCA_orte_hnp_uri" in environ:
        return f"Open MPI job of {ranks} ranks"
    if tpu_chips and ("tpu" in platforms or not platforms):
        return _find_pod(environ)
    if "KUBERNETES_SERVICE_HOST" in environ and "JOB_COMPLETION_INDEX" in environ:
        return "Kubernetes indexed job"
    return ""


def _find_pod(environ: Mapping[str, str]) -> str:
    hosts = environ.get("TPU_PROCESS_ADDRESSES", environ.get("TPU_WORKER_HOSTNAMES", ""))
    slices = int(environ.get("MEGASCALE_NUM_SLICES", 1))
    if "," in hosts or slices > 1:
        return f"TPU pod of {slices} slice(s) with hosts {hosts}"
    # Without the variables only the metadata server knows; JAX asks it when it joins.
    asks = not hosts and "TPU_SKIP_MDS_QUERY" not in environ
    return "TPU pod named by the metadata server" if asks else ""


def _quiet_libtpu() -> None:
    """Keeps libtpu, installed for `offsites plan`, from asking the network for chips that are not here."""
    if importlib.util.find_spec("libtpu") is not None and not _sees_tpu_chips():
        os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
        os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-8")


def _sees_tpu_chips() -> bool:
    devices = glob.glob("/dev/accel[0-9]*") + glob.glob("/dev/vfio/[0-9]*")
    return bool(devices) and importlib.util.find_spec("libtpu") is not None


def _platforms() -> str:
    return _setting("jax_platforms") or ""


def _setting(name: str) -> Any:
    return jax.config.values[name]


def _check_flags(processes: Processes) -> None:
    given = (bool(processes.coordinator), processes.count > 0, processes.index >= 0)
    if processes.count == 1 or not any(given):
        return
    if not all(given):
        raise UserError(
            f"process flags coordinator='{processes.coordinator}', count={processes.count}, "
            f"index={processes.index}: give all three, or none to have the cluster detected"
        )
    if processes.index >= processes.count:
        raise UserError(f"process index {processes.index} must be below the process count {processes.count}")
    if not re.fullmatch(r".+:\d+", processes.coordinator):
        raise UserError(f"coordinator '{processes.coordinator}' must be host:port, such as 10.0.0.1:8476")


def _use_cache(folder: str | os.PathLike[str] | None) -> None:
    named = os.environ.get(CACHE_VARIABLE)
    if named is None and _setting("jax_compilation_cache_dir"):
        return
    chosen = folder if named is None else named
    if not chosen:
        return
    path = epath.Path(chosen).expanduser()
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"cannot make the compilation cache folder {path} ({error.strerror}): "
            f"set {CACHE_VARIABLE} to a folder you can write, or to nothing for no cache"
        ) from error
    jax.config.update("jax_compilation_cache_dir", str(path))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    compilation_cache.reset_cache()  # it may be open at another folder


def _prepare_cpu(cpu_devices: int, several_processes: bool) -> None:
    """Sets the number of virtual devices, and keeps their collectives from starving each other.

    With asynchronous dispatch several steps are in flight at once; on few cores their all-reduces
    can wait for one another's threads until XLA aborts ("threads to join the rendezvous").
    """
    if _platforms() and _platforms().split(",")[0] != "cpu":
        return
    if cpu_devices:
        jax.config.update("jax_num_cpu_devices", cpu_devices)
    if several_processes or _num_cpu_devices() > 1:
        jax.config.update("jax_cpu_enable_async_dispatch", False)


def _num_cpu_devices() -> int:
    if _setting("jax_num_cpu_devices") > 0:
        return _setting("jax_num_cpu_devices")
    flag = r"--xla_force_host_platform_device_count=(\d+)"
    found = re.search(flag, os.environ.get("XLA_FLAGS", ""))
    return int(found[1]) if found else 1


def _check_running(cpu_devices: int, joins: bool) -> None:
    """JAX runs already: accept it if it runs the way we would have started it."""
    platform = jax.default_backend()
    # A running TPU backend knows its hosts; on a single one there was nobody to join.
    if joins and not (platform == "tpu" and jax.process_count() == 1):
        raise UserError(f"JAX was used before this process joined the others: {RESTART}")
    if platform != "cpu":
        return
    running = jax.local_device_count()
    if cpu_devices not in (0, running):
        raise UserError(
            f"JAX already runs on {running} CPU device(s), mesh.cpu_devices asks for {cpu_devices}: {RESTART}"
        )
    if jax.device_count() > 1 and _setting("jax_cpu_enable_async_dispatch"):
        raise UserError(
            f"JAX already runs on {running} CPU devices with asynchronous dispatch, which can "
            f"lock up their collectives: {RESTART}"
        )


def _join(processes: Processes, cluster: str) -> None:
    """Waits for the other processes, at most `timeout_seconds`.

    JAX ends the whole process, with a C++ stack trace, when it cannot reach the others; waiting in
    a thread of our own leaves us the time to say what is wrong in one line.
    """
    failures: list[Exception] = []

    def initialize() -> None:
        try:
            found = _named(processes) if processes.count else _detected(processes.timeout_seconds)
            me = Presence(found["process_id"], found["num_processes"], socket.gethostname(), _same(processes))
            answer_roll_call(found["coordinator_address"], me, processes.timeout_seconds)
            patience = processes.timeout_seconds + _GRACE_SECONDS
            jax.distributed.initialize(
                initialization_timeout=patience, cluster_detection_method="deactivate", **found
            )
        except Exception as error:
            failures.append(error)

    thread = threading.Thread(target=initialize, daemon=True)
    thread.start()
    thread.join(processes.timeout_seconds + _ANSWER_SECONDS)
    where = cluster or f"coordinator {processes.coordinator}"
    if thread.is_alive():
        raise UserError(
            f"could not join the processes at the {where} within {processes.timeout_seconds} s: "
            "see the logs of the others"
        )
    for failure in failures:
        if isinstance(failure, UserError):
            raise failure
        reason = str(failure).splitlines()[0][:200]
        raise UserError(
            f"cannot join the processes at the {where} ({reason}): "
            "give coordinator, count and index, or count=1 to run alone"
        ) from failure


def _named(processes: Processes) -> dict[str, Any]:
    """What the flags say, as JAX calls it."""
    return {
        "coordinator_address": processes.coordinator,
        "num_processes": processes.count,
        "process_id": processes.index,
    }


def _detected(timeout_seconds: int) -> dict[str, Any]:
    """What JAX finds out about the cluster."""
    given = os.environ.get("JAX_COORDINATOR_ADDRESS")
    names = ("coordinator_address", "num_processes", "process_id", "local_device_ids")
    found = ClusterEnv.auto_detect_unset_distributed_params(given, None, None, None, None, timeout_seconds)
    return dict(zip(names, found, strict=True))


def _same(processes: Processes) -> dict[str, str]:
    """What all processes must have in common."""
    versions = {name: importlib.metadata.version(name) for name in ("jax", "flax", "offsites_jax")}
    return {**versions, **processes.same}
