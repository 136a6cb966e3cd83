"""`--on local`: several processes of virtual CPU devices on this machine, as on a pod."""

import asyncio
import dataclasses
import os
import shlex
import signal
import socket
import sys

from offsites_jax.cli.launch.group import Ending, run_together
from offsites_jax.cli.launch.options import option
from offsites_jax.cli.launch.run import RESTARTS, Run, check_at_least, check_mesh
from offsites_jax.cli.launch.tools import ProcessFailedError, exit_code
from offsites_jax.errors import OffsitesError, Preempted, UserError

AGAIN = "Run the same command to go on from the last checkpoint"


@dataclasses.dataclass(frozen=True)
class Settings:
    """Options of `--on local`."""

    processes: int = option("processes, which a pod would call hosts", 1)
    devices: int = option("virtual CPU devices of each process", 1)
    port: int = option("port on localhost at which they meet; 0 finds a free one", 0)
    restarts: int = option(RESTARTS, 0)
    save_seconds: int = option("how long saving may take when asked to leave", 300)


def launch(run: Run, settings: Settings, dry_run: bool) -> None:
    """Runs the processes to their end.

    Raises:
      ProcessFailedError: one of them failed.
      Preempted: asked to leave; the state is saved.
      UserError: an option is impossible.

    """
    check(run, settings)
    run = dataclasses.replace(run, environment={"JAX_PLATFORMS": "cpu", **run.environment})
    if dry_run:
        for arguments in process_arguments(run, settings, settings.port or free_port()):
            print(shlex.join([*run.assignments(), "offsites", *arguments]))
        return
    child = [sys.executable, "-m", "offsites_jax.cli.launch.child", str(settings.save_seconds)]
    environment = {**os.environ, **run.environment, "PYTHONUNBUFFERED": "1"}
    for restarts_left in reversed(range(settings.restarts + 1)):
        port = settings.port or free_port()
        commands = [[*child, *arguments] for arguments in process_arguments(run, settings, port)]
        ending = asyncio.run(run_together(commands, environment, settings.save_seconds))
        if ending.finished:
            return
        if ending.asked or ending.hopeless or not restarts_left:
            raise error_of(ending, settings.processes)
        what = story(ending, settings.processes)
        print(f"offsites: {what}. Starting again, restarts left: {restarts_left - 1}", file=sys.stderr)


def check(run: Run, settings: Settings) -> None:
    """Raises UserError for settings that no process could start with."""
    check_at_least("processes", settings.processes, 1)
    check_at_least("devices", settings.devices, 1)
    check_at_least("restarts", settings.restarts, 0)
    check_at_least("save-seconds", settings.save_seconds, 1)
    if "mesh.cpu_devices" in run.overrides:
        raise UserError("--config.mesh.cpu_devices: say --devices, which counts those of one process")
    check_mesh(run, settings.processes * settings.devices)
    if settings.port:
        check_port(settings.port)


def process_arguments(run: Run, settings: Settings, port: int) -> list[list[str]]:
    """What each process gets as arguments of `offsites`."""
    words = [*run.words(), f"--config.mesh.cpu_devices={settings.devices}"]
    if settings.processes == 1:
        return [[*words, "--process-count=1"]]
    meeting = [f"--coordinator=localhost:{port}", f"--process-count={settings.processes}"]
    return [[*words, *meeting, f"--process-index={index}"] for index in range(settings.processes)]


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.create_server(("", 0)) as server:
        return server.getsockname()[1]


def check_port(port: int) -> None:
    """Raises UserError for a port that cannot be listened on."""
    try:
        socket.create_server(("", port)).close()
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(
            f"--port: cannot listen on {port} ({reason}); leave --port out to find a free one"
        ) from None


def error_of(ending: Ending, processes: int) -> OffsitesError:
    """The error that says how a group ended and what to do, and carries its exit code."""
    what = story(ending, processes)
    if ending.culprit is None:
        return Preempted(f"{what}. {AGAIN}")
    index, code = ending.culprit
    advice = f"Its lines above, marked [{index}], say why" if ending.hopeless else AGAIN
    return ProcessFailedError(f"{what}. {advice}", exit_code(code))


def story(ending: Ending, processes: int) -> str:
    """How a group ended that did not finish."""
    if ending.culprit is None:
        return f"the {processes} processes were asked to leave and did"
    index, code = ending.culprit
    how = f"ended with exit code {code}" if code >= 0 else f"was killed by {signal.Signals(-code).name}"
    return f"process {index} of {processes} {how}; the others were stopped"
