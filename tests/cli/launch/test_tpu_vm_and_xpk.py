"""The command lines for gcloud and xpk, read back by the shells that will read them."""

import shlex
import subprocess

import pytest

from offsites_jax.errors import OffsitesError

TPU_VM = ("--zone=us-west4-a",)
XPK = ("--image=r.dev/p/offsites:1", "--cluster=pods", "--tpu-type=v5litepod-16")


def option_of(words, name):
    (value,) = [word.removeprefix(f"--{name}=") for word in words if word.startswith(f"--{name}=")]
    return value


def test_a_host_of_a_tpu_runs_the_words_as_they_were(printed, fake, calls, tmp_path, experiment, odder):
    line = printed(
        "tpu-vm", *TPU_VM, "--name=my-tpu", "--project=p", f"--env=ODD={odder}", workdir=f"gs://b/{odder}"
    )
    words = shlex.split(line)
    assert words[:6] == ["gcloud", "compute", "tpus", "tpu-vm", "ssh", "my-tpu"]
    assert words[6:9] == ["--zone=us-west4-a", "--project=p", "--worker=all"]
    assert len(words) == 10
    fake(offsites=[0])
    programs = tmp_path / "home" / "offsites_jax" / ".venv" / "bin"
    programs.mkdir(parents=True)
    (programs / "offsites").symlink_to(tmp_path / "fakes" / "offsites")
    remote = option_of(words, "command")
    subprocess.run(["bash", "-c", remote], cwd=tmp_path / "home", check=True, stdin=subprocess.DEVNULL)
    (call,) = calls("offsites")
    assert call["argv"] == ["train", experiment, f"--workdir=gs://b/{odder}"]
    assert call["environ"]["ODD"] == odder
    assert call["environ"]["JAX_PLATFORMS"] == "tpu,cpu"
    assert not list(tmp_path.rglob("oops"))


def test_a_host_of_a_tpu_runs_the_image(printed, fake, calls, experiment, odder):
    words = shlex.split(
        printed("tpu-vm", *TPU_VM, "--image=i:1", f"--env=ODD={odder}", workdir=f"gs://b/{odder}")
    )
    fake(sudo=[0])
    subprocess.run(["bash", "-c", option_of(words, "command")], check=True, stdin=subprocess.DEVNULL)
    (call,) = calls("sudo")
    image = call["argv"].index("i:1")
    assert call["argv"][:2] == ["docker", "run"]
    assert f"--env=ODD={odder}" in call["argv"][:image]
    assert "--entrypoint=offsites" in call["argv"][:image]
    assert call["argv"][image + 1 :] == ["train", experiment, f"--workdir=gs://b/{odder}"]


def test_gcloud_makes_the_tpu_first_and_starts_again_after_a_crash(launch, fake, calls, capsys):
    fake(gcloud=[0, 1, 75, 0])
    made = ("--create", "--tpu-type=v5litepod-16", "--version=v2-alpha-tpuv5-lite", "--spot")
    assert launch("tpu-vm", *TPU_VM, *made, "--restarts=2") == 0
    create, *trains = [call["argv"] for call in calls("gcloud")]
    assert create == [
        *("compute", "tpus", "tpu-vm", "create", "curve-experiment", "--zone=us-west4-a"),
        *("--accelerator-type=v5litepod-16", "--version=v2-alpha-tpuv5-lite", "--spot"),
    ]
    assert [words[3] for words in trains] == ["ssh"] * 3
    assert trains[0] == trains[1] == trains[2]
    assert "restarts left: 0" in capsys.readouterr().err


@pytest.mark.parametrize(("codes", "tries", "code"), [([2], 1, 2), ([75], 2, 75)])
def test_gcloud_does_not_start_again_for_ever(launch, fake, calls, codes, tries, code):
    fake(gcloud=codes)
    with pytest.raises(OffsitesError) as caught:
        launch("tpu-vm", *TPU_VM, "--restarts=1")
    assert caught.value.exit_code == code
    assert len(calls("gcloud")) == tries


def test_a_pod_of_xpk_runs_the_words_as_they_were(printed, expand, fake, calls, tmp_path, experiment, odd):
    options = ("--slices=2", "--config.mesh.slices=2", "--zone=us-west4-a", "--priority=high")
    words = shlex.split(printed("xpk", *XPK, *options, f"--env=ODD={odd}", workdir=f"gs://b/{odd}"))
    assert words[:3] == ["xpk", "workload", "create"]
    given = dict(word.removeprefix("--").split("=", 1) for word in words[3:])
    command = given.pop("command")
    assert given == {
        "workload": "curve-experiment",
        "cluster": "pods",
        "tpu-type": "v5litepod-16",
        "num-slices": "2",
        "docker-image": "r.dev/p/offsites:1",
        "max-restarts": "100",
        "restart-on-exit-codes": "75",
        "termination-grace-period-seconds": "120",
        "zone": "us-west4-a",
        "priority": "high",
    }
    fake(offsites=[0])
    # xpk puts the command between parentheses of a bash script that stands in a manifest.
    script = expand(f"({command}) & wait $!", {"HOME": "/root"})
    subprocess.run(["bash", "-c", script], cwd=tmp_path, check=True, stdin=subprocess.DEVNULL)
    (call,) = calls("offsites")
    assert call["argv"] == ["train", experiment, f"--workdir=gs://b/{odd}", "--config.mesh.slices=2"]
    assert call["environ"]["ODD"] == odd
    assert not (tmp_path / "oops").exists()
