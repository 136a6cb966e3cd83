"""What a user gets wrong, and the image."""

import pathlib
import re
import shlex
import socket

import pytest

from offsites_jax.cli.launch.local import free_port
from offsites_jax.errors import UserError

ROOT = pathlib.Path(__file__).parents[3]

GKE = ("--image=r.dev/p/offsites:1", "--accelerator=tpu-v5-lite-podslice", "--topology=2x4")
TPU_VM = ("--zone=us-west4-a",)
XPK = ("--image=r.dev/p/offsites:1", "--cluster=pods", "--tpu-type=v5litepod-16")


def test_local_prints_one_line_for_each_process(printed, tmp_path, experiment, odd):
    port = free_port()
    options = ("--processes=4", "--devices=2", f"--port={port}")
    lines = printed("local", *options, workdir=tmp_path / odd).splitlines()
    for index, line in enumerate(lines):
        assert shlex.split(line) == [
            *("env", "JAX_PLATFORMS=cpu", "offsites", "train", experiment, f"--workdir={tmp_path / odd}"),
            *("--config.mesh.cpu_devices=2", f"--coordinator=localhost:{port}"),
            *("--process-count=4", f"--process-index={index}"),
        ]
    assert len(lines) == 4


def test_a_port_that_is_taken_is_noticed(launch):
    with socket.create_server(("", 0)) as server, pytest.raises(UserError, match="cannot listen on"):
        launch("local", "--processes=2", "--devices=4", f"--port={server.getsockname()[1]}")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("lokal",), "did you mean local"),
        (("local", "--processes=0"), "--processes: 0 is too few"),
        (("local", "--devices=0"), "--devices: 0 is too few"),
        (("local", "--processes=2", "--devices=3"), "config.mesh|mesh"),
        (("local", "--processes=4", "--devices=4"), "uses 8 of the 16 devices"),
        (("local", "--port=99999", "--devices=8"), "cannot listen on 99999"),
        (("local", "--devices=8", "--config.mesh.cpu_devices=8"), "say --devices"),
        (("local", "--partition=x"), "--partition: means nothing to --on local"),
        (("local", "--env=1A=x"), "is no KEY=VALUE"),
        (("local", "--env=A"), "is no KEY=VALUE"),
        (("local", "--config.train.stepz=3"), "did you mean"),
        (("slurm", "--nodes=0"), "--nodes: 0 is too few"),
        (("slurm", "--partition=a b"), "--partition: 'a b' must be one word"),
        (("slurm", "--time=1\n#SBATCH --nodes=9"), "--time: .* must be one word"),
        (("slurm", "--gpus-per-node=4"), "needs 8 devices but there are 4"),
        (("slurm", "--sbatch=qos"), "is no option"),
        (("slurm", "--name=Not A Name"), "--name: 'Not A Name' cannot be part of a host name"),
        (("slurm", "--venv=a", "--container=b"), "give one of them"),
        (("gke", *GKE[1:]), "--image: needed by --on gke"),
        (("gke", *GKE[:2], "--topology=4"), "is no topology"),
        (("gke", *GKE[:2], "--topology=2x2x2"), "has 3 sizes, tpu-v5-lite-podslice needs 2"),
        (("gke", *GKE, "--chips-per-host=3"), "does not divide the 8 chips"),
        (("gke", *GKE, "--slices=2"), "say --config.mesh.slices=2 too"),
        (("gke", *GKE, "--name=-x"), "cannot be part of a host name"),
        (("gke", *GKE, "--name=x_y"), "cannot be part of a host name"),
        (("gke", *GKE, f"--name={'x' * 41}"), "cannot be part of a host name"),
        (("gke", *GKE, "--zone=z"), "--zone: means nothing to --on gke"),
        (("tpu-vm",), "--zone: needed by --on tpu-vm"),
        (("tpu-vm", "--zone=$(x)"), "--zone: .* must be one word"),
        (("tpu-vm", *TPU_VM, "--create"), "needs --tpu-type and --version"),
        (("xpk", *XPK[1:]), "--image: needed by --on xpk"),
        (("xpk", *XPK, "--env=A=1\n2"), "line breaks"),
    ],
)
def test_a_mistake_is_one_line(launch, arguments, message):
    target, *options = arguments
    with pytest.raises(UserError, match=message) as caught:
        launch(target, *options, "--dry-run")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("target", "options"), [("gke", GKE), ("tpu-vm", TPU_VM), ("xpk", XPK)])
def test_a_pod_needs_a_bucket_and_a_path_that_its_hosts_have(launch, experiment, target, options, tmp_path):
    with pytest.raises(UserError, match="give a bucket"):
        launch(target, *options, "--dry-run", workdir=tmp_path)
    with pytest.raises(UserError, match="a path of this machine"):
        launch(target, *options, "--dry-run", experiment=str(ROOT / experiment))


def test_nodes_need_a_folder_that_they_share(launch):
    with pytest.raises(UserError, match="another folder on each of the 2 nodes"):
        launch("slurm", "--nodes=2", "--dry-run", workdir="/tmp/run")


@pytest.mark.parametrize("target", ["local", "slurm", "gke", "tpu-vm", "xpk"])
def test_a_missing_experiment_is_noticed_first(launch, target):
    options = {"gke": GKE, "tpu-vm": TPU_VM, "xpk": XPK}.get(target, ())
    with pytest.raises(UserError, match=r"no_such\.py"):
        launch(target, *options, experiment="experiments/no_such.py")


@pytest.mark.parametrize(
    ("target", "options", "tool"),
    [("slurm", (), "sbatch"), ("gke", GKE, "kubectl"), ("tpu-vm", TPU_VM, "gcloud"), ("xpk", XPK, "xpk")],
)
def test_a_missing_tool_is_named(launch, place, target, options, tool, monkeypatch):
    monkeypatch.setenv("PATH", str(place))
    with pytest.raises(UserError, match=f"{tool}: not installed here"):
        launch(target, *options)


def test_the_image_holds_what_it_copies_and_does_not_run_as_root():
    lines = (ROOT / "tools" / "docker" / "Dockerfile").read_text().splitlines()
    words = [line.split() for line in lines if line and not line.startswith("#")]
    assert words[0][0] == "FROM"
    assert re.fullmatch(r"python:3\.11\.\d+-slim-\w+", words[0][1])
    copied = [source for word in words if word[0] == "COPY" for source in word[1:-1]]
    assert copied
    assert all((ROOT / source).exists() for source in copied)
    assert not any(source.startswith(".") for source in copied)
    (user,) = [word[1] for word in words if word[0] == "USER"]
    assert user.isdigit()
    assert int(user) > 0
    assert words[-1] == ["ENTRYPOINT", '["offsites"]']
