"""The JobSet: valid, complete, and restarted for the right reasons."""

import re

import jsonschema
import kubernetes_validate
import pytest
import yaml

from offsites_jax.errors import UserError

GKE = ("--image=r.dev/p/offsites:1", "--accelerator=tpu-v5-lite-podslice", "--topology=2x4")

KUBERNETES = "1.31"

# What a JobSet is made of (kubernetes-sigs/jobset, api/jobset/v1alpha2), as far as it is used here. The Job
# in it is checked against the schemas of Kubernetes itself.
JOBSET = {
    "type": "object",
    "additionalProperties": False,
    "required": ["apiVersion", "kind", "metadata", "spec"],
    "properties": {
        "apiVersion": {"const": "jobset.x-k8s.io/v1alpha2"},
        "kind": {"const": "JobSet"},
        "metadata": {
            "type": "object",
            "required": ["name"],
            "properties": {
                "name": {"pattern": "^[a-z]([-a-z0-9]*[a-z0-9])?$", "maxLength": 63},
                "annotations": {"type": "object", "additionalProperties": {"type": "string"}},
                "labels": {"type": "object", "additionalProperties": {"type": "string", "maxLength": 63}},
            },
        },
        "spec": {
            "type": "object",
            "additionalProperties": False,
            "required": ["failurePolicy", "replicatedJobs"],
            "properties": {
                "failurePolicy": {
                    "type": "object",
                    "additionalProperties": False,
                    "properties": {
                        "maxRestarts": {"type": "integer", "minimum": 0},
                        "restartStrategy": {"enum": ["Recreate", "BlockingRecreate"]},
                        "rules": {
                            "type": "array",
                            "items": {
                                "type": "object",
                                "additionalProperties": False,
                                "required": ["name", "action"],
                                "properties": {
                                    "name": {"pattern": "^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$"},
                                    "action": {
                                        "enum": [
                                            "FailJobSet",
                                            "RestartJobSet",
                                            "RestartJobSetAndIgnoreMaxRestarts",
                                        ]
                                    },
                                    "onJobFailureReasons": {
                                        "type": "array",
                                        "uniqueItems": True,
                                        "items": {"enum": ["PodFailurePolicy", "BackoffLimitExceeded"]},
                                    },
                                    "onJobFailureMessagePatterns": {
                                        "type": "array",
                                        "uniqueItems": True,
                                        "items": {"type": "string", "format": "regex"},
                                    },
                                },
                            },
                        },
                    },
                },
                "replicatedJobs": {
                    "type": "array",
                    "minItems": 1,
                    "items": {
                        "type": "object",
                        "additionalProperties": False,
                        "required": ["name", "template"],
                        "properties": {
                            "name": {"pattern": "^[a-z]([-a-z0-9]*[a-z0-9])?$"},
                            "replicas": {"type": "integer", "minimum": 1},
                            "template": {"type": "object", "required": ["spec"]},
                        },
                    },
                },
            },
        },
    },
}


def checked_jobset(text):
    """A printed JobSet, valid as such, with its Job valid as Kubernetes' own."""
    manifest = yaml.safe_load(text)
    jsonschema.Draft202012Validator(JOBSET).validate(manifest)
    (replicated,) = manifest["spec"]["replicatedJobs"]
    job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "x"}, **replicated["template"]}
    kubernetes_validate.validate(job, KUBERNETES, strict=True)
    longest = f"{manifest['metadata']['name']}-{replicated['name']}-{replicated['replicas'] - 1}"
    assert len(f"{longest}-{job['spec']['completions'] - 1}-abcde") <= 63
    return manifest


def test_the_schemas_notice_a_misspelt_key(printed):
    text = printed("gke", *GKE)
    with pytest.raises(kubernetes_validate.ValidationError, match="paralelism"):
        checked_jobset(text.replace("parallelism", "paralelism"))
    with pytest.raises(jsonschema.ValidationError, match="maxRestart"):
        checked_jobset(text.replace("maxRestarts", "maxRestart"))


def job_of(manifest):
    return manifest["spec"]["replicatedJobs"][0]["template"]["spec"]


@pytest.mark.parametrize(
    ("accelerator", "topology", "options", "hosts", "chips", "devices"),
    [
        ("tpu-v5-lite-podslice", "4x4", (), 4, 4, 16),
        ("tpu-v5-lite-podslice", "2x4", ("--chips-per-host=8",), 1, 8, 8),
        ("tpu-v6e-slice", "1x1", (), 1, 1, 1),
        ("tpu-v6e-slice", "16x16", (), 64, 4, 256),
        ("tpu-v5p-slice", "2x2x4", (), 4, 4, 16),
        ("tpu7x", "2x2x2", (), 2, 4, 16),
    ],
)
def test_a_slice_has_a_pod_on_each_host(
    launch, printed, accelerator, topology, options, hosts, chips, devices
):
    where = ("--image=i:1", f"--accelerator={accelerator}", f"--topology={topology}", *options)
    job = job_of(checked_jobset(printed("gke", *where, "--config.mesh.data=-1", "--config.mesh.fsdp=1")))
    (container,) = job["template"]["spec"]["containers"]
    assert job["parallelism"] == job["completions"] == hosts
    assert container["resources"]["limits"] == {"google.com/tpu": chips}
    assert job["template"]["spec"]["nodeSelector"] == {
        "cloud.google.com/gke-tpu-accelerator": accelerator,
        "cloud.google.com/gke-tpu-topology": topology,
    }
    mesh = ("--config.mesh.fsdp=1", f"--config.mesh.data={devices}")
    assert job_of(checked_jobset(printed("gke", *where, *mesh)))
    with pytest.raises(UserError, match="mesh"):
        launch("gke", *where, "--dry-run", "--config.mesh.fsdp=1", f"--config.mesh.data={devices * 2}")


def test_gke_gets_every_option_and_odd_words_as_they_were(printed, expand, experiment, odder):
    text = printed(
        *("gke", *GKE, "--name=my-run", "--slices=3", "--namespace=ml", "--service-account=trainer"),
        *("--queue=tpus", "--spot", "--user=1000", "--restarts=7", "--save-seconds=60"),
        *("--config.mesh.slices=3", f"--env=ODD={odder}", "--config.train.steps=40"),
        workdir=f"gs://bucket/{odder}",
    )
    manifest = checked_jobset(text)
    assert manifest["metadata"]["name"] == "my-run"
    assert manifest["metadata"]["namespace"] == "ml"
    assert manifest["metadata"]["labels"] == {"kueue.x-k8s.io/queue-name": "tpus"}
    assert manifest["spec"]["failurePolicy"]["maxRestarts"] == 7
    assert manifest["spec"]["replicatedJobs"][0]["replicas"] == 3
    pod = job_of(manifest)["template"]["spec"]
    assert pod["serviceAccountName"] == "trainer"
    assert pod["nodeSelector"]["cloud.google.com/gke-spot"] == "true"
    assert pod["terminationGracePeriodSeconds"] == 60
    assert pod["hostNetwork"]
    (container,) = pod["containers"]
    assert container["image"] == "r.dev/p/offsites:1"
    assert container["securityContext"] == {"allowPrivilegeEscalation": False, "runAsUser": 1000}
    variables = {"HOME": "/root", "whoami": "me"}
    words = [expand(word, variables) for word in [*container["command"], *container["args"]]]
    overrides = ("--config.mesh.slices=3", "--config.train.steps=40")
    assert words == ["offsites", "train", experiment, f"--workdir=gs://bucket/{odder}", *overrides]
    environment = {entry["name"]: expand(entry["value"], variables) for entry in container["env"]}
    assert environment == {"JAX_PLATFORMS": "tpu,cpu", "ODD": odder}


@pytest.mark.parametrize(
    ("failure", "action"),
    [
        ({"exit": 75}, "RestartJobSetAndIgnoreMaxRestarts"),
        ({"condition": "DisruptionTarget"}, "RestartJobSetAndIgnoreMaxRestarts"),
        ({"exit": 2}, "FailJobSet"),
        ({"exit": 3}, "FailJobSet"),
        ({"exit": 4}, "FailJobSet"),
        ({"exit": 1}, "RestartJobSet"),
        ({"exit": 134}, "RestartJobSet"),
        ({"exit": 175}, "RestartJobSet"),
    ],
)
def test_preemptions_do_not_count_and_mistakes_end_a_jobset(printed, failure, action):
    """Follows the rules as Kubernetes and JobSet do: the Job's reason and message decide."""
    manifest = checked_jobset(printed("gke", *GKE))
    job = job_of(manifest)
    assert job["backoffLimit"] == 0
    reason, message = "BackoffLimitExceeded", "Job has reached the specified backoff limit"
    for index, rule in enumerate(job["podFailurePolicy"]["rules"]):
        assert rule["action"] == "FailJob"
        codes = rule.get("onExitCodes", {}).get("values", ())
        conditions = [pattern["type"] for pattern in rule.get("onPodConditions", ())]
        if failure.get("exit") in codes:
            what = f"Container train for pod default/x failed with exit code {failure['exit']}"
        elif failure.get("condition") in conditions:
            what = f"Pod default/x has condition {failure['condition']}"
        else:
            continue
        reason, message = "PodFailurePolicy", f"{what} matching FailJob rule at index {index}"
        break
    chosen = "RestartJobSet"  # what JobSet does where no rule fits
    for rule in manifest["spec"]["failurePolicy"]["rules"]:
        patterns = rule.get("onJobFailureMessagePatterns", [""])
        if reason in rule["onJobFailureReasons"] and any(re.search(p, message) for p in patterns):
            chosen = rule["action"]
            break
    assert chosen == action


def test_kubectl_is_given_the_manifest_it_would_print(launch, printed, fake, calls):
    fake(kubectl=[0])
    assert launch("gke", *GKE) == 0
    (call,) = calls("kubectl")
    assert call["argv"] == ["create", "--filename=-"]
    assert call["stdin"] == printed("gke", *GKE)
