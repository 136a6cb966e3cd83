"""One of two processes: places the same batch on several meshes and prints what it got as JSON."""

import json
import sys

import jax
import numpy as np

from offsites_jax.parallel.mesh import (
    MeshSettings,
    create_mesh,
    data_shard,
    local_rows,
    put_batch,
    replicated,
)
from offsites_jax.parallel.start import Processes, start

BATCH = np.arange(16 * 3, dtype=np.float32).reshape(16, 3)

MESHES = {
    "data 8": MeshSettings(data=8),
    "data 4 tensor 2": MeshSettings(data=4, tensor=2),
    "fsdp 2 tensor 4": MeshSettings(data=1, fsdp=2, tensor=4),
    "tensor 8": MeshSettings(data=1, tensor=8),
    "slices 2": MeshSettings(slices=2, fsdp=2),
    "data 8 interleaved": MeshSettings(data=8),
}


def place(settings, devices):
    mesh = create_mesh(settings, devices)
    batch = put_batch({"x": BATCH[local_rows(mesh, len(BATCH))]}, mesh, len(BATCH))
    whole = jax.jit(lambda x: x, out_shardings=replicated(mesh))(batch["x"])
    total = jax.jit(lambda x: x.sum(), out_shardings=replicated(mesh))(batch["x"])
    return {
        "shard": data_shard(mesh),
        "rows": local_rows(mesh, len(BATCH)).tolist(),
        "total": float(total),
        "exact": bool((np.asarray(whole) == BATCH).all()),
    }


def main():
    index, port = int(sys.argv[1]), sys.argv[2]
    start(cpu_devices=4, processes=Processes(f"localhost:{port}", 2, index, timeout_seconds=60))
    assert (jax.process_count(), jax.local_device_count()) == (2, 4)
    devices = jax.devices()
    interleaved = [device for pair in zip(devices[:4], devices[4:], strict=True) for device in pair]
    for name, settings in MESHES.items():
        order = interleaved if name.endswith("interleaved") else devices
        print(json.dumps({"mesh": name, **place(settings, order)}), flush=True)


if __name__ == "__main__":
    main()
