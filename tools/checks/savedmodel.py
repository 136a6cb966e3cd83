"""A SavedModel of a run, called in a Python that has TensorFlow and nothing of JAX or of this project.

In an environment with offsites-jax[savedmodel], and CLEAN the python of one with tensorflow-cpu alone:

    python tools/checks/savedmodel.py WORKDIR CLEAN

Runs the code of the export's README there, then compares its outputs on batches of 1 and 5 with those of the
StableHLO export, here.
"""

import json
import pathlib
import re
import subprocess
import sys
import tempfile

import jax
import numpy as np

from offsites_jax.export.folder import export
from offsites_jax.export.load import Exported, load
from offsites_jax.export.savedmodel import open_saved_model

TOLERANCE = 1e-4
CHECK = """
import sys
for rows in (1, 5):
    inputs = {name: tf.constant(value) for name, value in np.load(f"inputs_{rows}.npz").items()}
    outputs = {name: value.numpy() for name, value in predict(**inputs).items()}
    np.savez(f"outputs_{rows}.npz", **outputs)
assert not {"jax", "flax", "offsites_jax"} & set(sys.modules), "JAX is installed in the clean Python"
"""


def main(workdir: str, clean: str) -> None:
    """Exports, runs the README elsewhere, and compares."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(temporary) / "savedmodel"
        report = export(workdir, folder, format="savedmodel")
        export(workdir, pathlib.Path(temporary) / "stablehlo")
        reference = load(pathlib.Path(temporary) / "stablehlo")
        print(json.dumps({"name": "savedmodel_bytes", "value": report.size}))
        equal = same_parameters(folder, reference)
        print(json.dumps({"name": "savedmodel_parameters_equal", "value": equal}))
        batches = {rows: draw_batch(reference, rows) for rows in (1, 5)}
        for rows, batch in batches.items():
            np.savez(folder / f"inputs_{rows}.npz", **batch)
        run_readme(folder, clean)
        worst = 0.0
        for rows, batch in batches.items():
            wanted = reference.predict(batch)
            with np.load(folder / f"outputs_{rows}.npz") as found:
                assert set(found) == set(wanted), f"outputs {sorted(found)}, wanted {sorted(wanted)}"
                worst = max(worst, *(float(np.abs(found[name] - wanted[name]).max()) for name in wanted))
        print(json.dumps({"name": "savedmodel_max_abs_diff", "value": worst}))
        sys.exit(worst > TOLERANCE or not equal)


def same_parameters(folder: pathlib.Path, reference: Exported) -> bool:
    """Whether the SavedModel holds the parameters of the other export, bit for bit."""
    params, _ = open_saved_model(folder)
    others = jax.device_get(reference.params)
    return {name: leaf.tobytes() for name, leaf in params.items()} == {
        name: np.asarray(leaf).tobytes() for name, leaf in others.items()
    }


def draw_batch(model: Exported, rows: int) -> dict[str, np.ndarray]:
    """Bytes and standard normal numbers."""
    rng = np.random.default_rng(rows)
    batch = {}
    for name, spec in model.signature.inputs.items():
        shape = [rows if isinstance(size, str) else size for size in spec.shape]
        bytes_wanted = spec.dtype == "uint8"
        values = rng.integers(0, 256, shape) if bytes_wanted else rng.standard_normal(shape)
        batch[name] = values.astype(spec.dtype)
    return batch


def run_readme(folder: pathlib.Path, clean: str) -> None:
    """The README's code, and the check behind it, in the folder."""
    found = re.search(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    assert found, "the README has no code"
    python = str(pathlib.Path(clean).absolute())
    done = subprocess.run(
        [python, "-I", "-c", found[1] + CHECK], cwd=folder, capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.exit(done.stderr)
    print(done.stdout, end="")


if __name__ == "__main__":
    main(*sys.argv[1:])
