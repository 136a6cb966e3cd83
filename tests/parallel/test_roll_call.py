"""The roll call: all there and agreed, or a line that names who is missing or differs."""

import dataclasses
import socket
import threading

import portpicker
import pytest

from offsites_jax.errors import UserError
from offsites_jax.parallel.roll_call import Presence, answer_roll_call

SAME = {"jax": "0.10.2", "experiment": "1a2b"}


def presence(index, count=3, host="", **same):
    return Presence(index, count, host or f"host-{'abc'[index]}", {**SAME, **same})


def call(*presences, seconds=30.0, before=lambda address: None):
    """What each process hears: its error, or an empty string."""
    address = f"localhost:{portpicker.pick_unused_port()}"
    heard = [None] * len(presences)

    def answer(place):
        try:
            answer_roll_call(address, presences[place], seconds)
            heard[place] = ""
        except UserError as error:
            heard[place] = str(error)

    threads = [threading.Thread(target=answer, args=(place,)) for place in range(len(presences))]
    threads[0].start()
    before(address)
    for thread in threads[1:]:
        thread.start()
    for thread in threads:
        thread.join()
    return heard, address


def test_all_go_on_when_all_are_there_and_the_port_is_free_again():
    heard, address = call(presence(0), presence(2), presence(1))
    assert heard == ["", "", ""]
    socket.create_server(("", int(address.rsplit(":", 1)[1]))).close()


def test_who_is_missing_is_told_to_all_who_came():
    heard, address = call(presence(0), presence(2), seconds=1.0)
    line = f"process 1 of 3 did not come to coordinator {address} within 1 s (here: 0 on host-a, 2 on host-c)"
    assert all(text.startswith(line) for text in heard)


def test_two_with_one_index_are_both_named():
    heard, _ = call(presence(0), presence(1), presence(1, host="host-x"))
    assert heard[1] == heard[2] == heard[0]
    assert "two processes call themselves process 1 of 3" in heard[0]
    assert "on host-b and host-x" in heard[0]


@pytest.mark.parametrize(
    ("stranger", "said"),
    [
        (presence(1, experiment="f2"), "process 1 on host-b has experiment f2, process 0 on host-a has 1a2b"),
        (presence(1, jax="0.9"), "process 1 on host-b has jax 0.9, process 0 on host-a has 0.10.2"),
        (presence(1, count=4), "process 1 on host-b was started as one of 4, process 0 on host-a as one"),
    ],
)  # fmt: skip
def test_a_process_of_another_run_is_named_with_what_differs(stranger, said):
    heard, _ = call(presence(0), stranger)
    assert heard[0] == heard[1]
    assert heard[0].startswith(said)


@pytest.mark.parametrize("noise", [b"GET / HTTP/1.1\r\n\r\n", b"[1, 2]\n", b'{"index": 1}\n', b"\xff\n", b""])
def test_strangers_at_the_port_are_ignored(noise):
    def knock(address):
        host, port = address.rsplit(":", 1)
        while True:
            try:
                with socket.create_connection((host, int(port)), timeout=5) as link:
                    link.sendall(noise)
                return
            except ConnectionRefusedError:
                continue

    pair = [dataclasses.replace(presence(index), count=2) for index in range(2)]
    heard, _ = call(*pair, before=knock)
    assert heard == ["", ""]


def test_another_program_at_the_coordinator_is_noticed():
    with socket.create_server(("localhost", 0)) as server:
        port = server.getsockname()[1]

        def reply():
            link, _ = server.accept()
            with link:
                link.recv(4096)
                link.sendall(b"220 mail ready\r\n")

        threading.Thread(target=reply, daemon=True).start()
        with pytest.raises(UserError, match="another program listens there"):
            answer_roll_call(f"localhost:{port}", presence(1), 30.0)
