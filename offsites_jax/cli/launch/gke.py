"""`--on gke`: a JobSet for TPU slices of Google Kubernetes Engine.

A slice is one Job with a pod on each of its hosts; slices are replicas of that Job. A pod that was asked to
leave, or whose node is taken away, fails its Job in a way that lets the JobSet start all slices anew without
counting that as a failure. A user's mistake ends the JobSet at once. Needs JobSet 0.10
(kubernetes-sigs/jobset).
"""

import dataclasses
import math
import re
from typing import Any

from offsites_jax.cli.launch.options import option
from offsites_jax.cli.launch.run import (
    HOPELESS,
    RESTARTS,
    Run,
    check_at_least,
    check_mesh,
    check_name,
    check_remote,
    check_slices,
    check_word,
)
from offsites_jax.cli.launch.tools import call
from offsites_jax.errors import EXIT_PREEMPTED, UserError

# Dimensions of a slice's topology.
DIMENSIONS = {
    "tpu-v4-podslice": 3,
    "tpu-v5-lite-podslice": 2,
    "tpu-v5p-slice": 3,
    "tpu-v6e-slice": 2,
    "tpu7x": 3,
}
TWO_DEVICES_PER_CHIP = ("tpu7x",)
CONTAINER = "train"
SLICE = "slice"


@dataclasses.dataclass(frozen=True)
class Settings:
    """Options of `--on gke`."""

    image: str = option("image that holds offsites and the experiment file")
    accelerator: str = option("kind of TPU, such as tpu-v5-lite-podslice")
    topology: str = option("chips of a slice, such as 4x4 or 2x2x4")
    name: str = option("name of the job; made from the experiment file's by default", "")
    slices: int = option("slices", 1)
    chips_per_host: int = option("chips of a host; 4, or all of a smaller slice, by default", 0)
    namespace: str = option("namespace of Kubernetes; that of kubectl by default", "")
    service_account: str = option("service account of Kubernetes that may use the bucket", "")
    queue: str = option("local queue of Kueue", "")
    spot: bool = option("use spot capacity, which is cheap and may be taken away", False)
    user: int = option("user in the container; that of the image by default", -1)
    restarts: int = option(RESTARTS, 10)
    save_seconds: int = option("how long saving may take when asked to leave", 120)


def launch(run: Run, settings: Settings, dry_run: bool) -> None:
    """Creates the JobSet, or prints it.

    Raises:
      UserError: an option is impossible, or kubectl is not installed.

    """
    import yaml

    manifest = yaml.safe_dump(jobset(run, settings), sort_keys=False, width=110)
    if dry_run:
        print(manifest, end="")
        return
    call(
        ["kubectl", "create", "--filename=-"],
        "install kubectl and point it at the cluster (gcloud container clusters get-credentials)",
        standard_input=manifest,
    )


def jobset(run: Run, settings: Settings) -> dict[str, Any]:
    """The JobSet, as plain data."""
    check(run, settings)
    metadata = {
        "name": check_name(settings.name, run),
        "namespace": settings.namespace,
        "labels": {"kueue.x-k8s.io/queue-name": settings.queue} if settings.queue else {},
        # A slice is one node pool, whose chips are wired to each other.
        "annotations": {"alpha.jobset.sigs.k8s.io/exclusive-topology": "cloud.google.com/gke-nodepool"},
    }
    return {
        "apiVersion": "jobset.x-k8s.io/v1alpha2",
        "kind": "JobSet",
        "metadata": {key: value for key, value in metadata.items() if value},
        "spec": {
            "failurePolicy": failure_policy(settings),
            "replicatedJobs": [
                {"name": SLICE, "replicas": settings.slices, "template": {"spec": job(run, settings)}}
            ],
        },
    }


def failure_policy(settings: Settings) -> dict[str, Any]:
    """What to do when a slice fails.

    A Job names the exit code or the condition that failed it in its message alone. First all pods go, then
    all come back, so that none meets a coordinator of the time before.
    """
    return {
        "maxRestarts": settings.restarts,
        "restartStrategy": "BlockingRecreate",
        "rules": [
            {
                "name": "preempted",
                "action": "RestartJobSetAndIgnoreMaxRestarts",
                "onJobFailureReasons": ["PodFailurePolicy"],
                "onJobFailureMessagePatterns": [
                    f"failed with exit code {EXIT_PREEMPTED} ",
                    "has condition DisruptionTarget ",
                ],
            },
            {"name": "hopeless", "action": "FailJobSet", "onJobFailureReasons": ["PodFailurePolicy"]},
        ],
    }


def job(run: Run, settings: Settings) -> dict[str, Any]:
    """The Job of one slice: a pod on each host."""
    hosts = hosts_per_slice(settings)
    return {
        "parallelism": hosts,
        "completions": hosts,
        "completionMode": "Indexed",
        "backoffLimit": 0,  # hosts start together or not at all
        "podFailurePolicy": {
            "rules": [
                fail_on_exit_codes(EXIT_PREEMPTED),
                {"action": "FailJob", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
                fail_on_exit_codes(*HOPELESS),
            ]
        },
        "template": {"spec": pod(run, settings)},
    }


def fail_on_exit_codes(*codes: int) -> dict[str, Any]:
    """A rule that fails the Job for these exit codes, by a reason the JobSet can tell from a crash."""
    return {
        "action": "FailJob",
        "onExitCodes": {"containerName": CONTAINER, "operator": "In", "values": list(codes)},
    }


def pod(run: Run, settings: Settings) -> dict[str, Any]:
    """What runs on one host."""
    selector = {
        "cloud.google.com/gke-tpu-accelerator": settings.accelerator,
        "cloud.google.com/gke-tpu-topology": settings.topology,
    }
    if settings.spot:
        selector["cloud.google.com/gke-spot"] = "true"
    spec = {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": settings.save_seconds,
        "serviceAccountName": settings.service_account,
        "nodeSelector": selector,
        "containers": [container(run, settings)],
    }
    if settings.slices > 1:  # slices talk over the network of the hosts, without a detour
        spec |= {"hostNetwork": True, "dnsPolicy": "ClusterFirstWithHostNet"}
    return {key: value for key, value in spec.items() if value}


def container(run: Run, settings: Settings) -> dict[str, Any]:
    """The one container of a pod. GKE tells JAX in variables which host of which slice it is."""
    run = run.on_tpu()
    security: dict[str, Any] = {"allowPrivilegeEscalation": False}
    if settings.user >= 0:
        security["runAsUser"] = settings.user
    return {
        "name": CONTAINER,
        "image": settings.image,
        "command": ["offsites"],
        "args": [literal(word) for word in run.words()],
        "env": [{"name": key, "value": literal(value)} for key, value in run.environment.items()],
        "resources": {"limits": {"google.com/tpu": chips_per_host(settings)}},
        "securityContext": security,
    }


def literal(word: str) -> str:
    """A word that Kubernetes, which expands $(NAME) and reads $$ as $, passes on as it is."""
    return word.replace("$", "$$")


def chips_per_slice(settings: Settings) -> int:
    """Chips of the topology.

    Raises:
      UserError: it is none.

    """
    sizes = settings.topology.split("x")
    if not re.fullmatch(r"[1-9]\d*(x[1-9]\d*){1,2}", settings.topology):
        raise UserError(f"--topology: {settings.topology!r} is no topology; say 4x4 or 2x2x4")
    wanted = DIMENSIONS.get(settings.accelerator, len(sizes))
    if len(sizes) != wanted:
        raise UserError(
            f"--topology: {settings.topology} has {len(sizes)} sizes, {settings.accelerator} needs {wanted}"
        )
    return math.prod(map(int, sizes))


def chips_per_host(settings: Settings) -> int:
    """Chips of a host."""
    return settings.chips_per_host or min(4, chips_per_slice(settings))


def hosts_per_slice(settings: Settings) -> int:
    """Hosts of a slice.

    Raises:
      UserError: its chips do not divide over hosts.

    """
    chips, each = chips_per_slice(settings), chips_per_host(settings)
    if chips % each:
        raise UserError(f"--chips-per-host: {each} does not divide the {chips} chips of {settings.topology}")
    return chips // each


def check(run: Run, settings: Settings) -> None:
    """Raises UserError for settings that cannot work."""
    check_remote(run, "gke")
    check_slices(run, settings.slices)
    check_at_least("restarts", settings.restarts, 0)
    check_at_least("save-seconds", settings.save_seconds, 1)
    check_at_least("chips-per-host", settings.chips_per_host, 0)
    devices_per_chip = 2 if settings.accelerator in TWO_DEVICES_PER_CHIP else 1
    check_mesh(run, settings.slices * chips_per_slice(settings) * devices_per_chip)
    for name in ("image", "accelerator", "namespace", "service_account", "queue"):
        if getattr(settings, name):
            check_word(name.replace("_", "-"), getattr(settings, name))
