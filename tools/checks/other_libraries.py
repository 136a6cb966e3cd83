"""Weights of ours in the hands of other libraries: logits in Keras, tensors in TensorFlow.

In an environment with offsites-jax[keras], and PYTHON that of one with Keras 3 and a backend, or TensorFlow:

    python tools/checks/other_libraries.py keras PYTHON [MODEL ...]
    python tools/checks/other_libraries.py automl PYTHON [MODEL ...]

Exports each network with drawn weights and runs the code of the export's README there. Keras' network has to
give our logits, and TensorFlow's reader our numbers, under both names of each. Prints the largest difference
as a share of the largest number.
"""

import functools
import json
import pathlib
import re
import subprocess
import sys
import tempfile
from typing import Any

import jax
import numpy as np

from offsites_jax.export.foreign import tensors_there
from offsites_jax.export.inference import Inference
from offsites_jax.export.write import write_folder
from offsites_jax.models.registry import create_model

MODELS = tuple(f"efficientnet_{size}" for size in ("v2_b0", "v2_b3", "v2_s", "b0", "b3"))
SIZE, CLASSES, TOLERANCE = 96, 7, 1e-4
CALM = {"stochastic_depth_rate": 0.0, "dropout_rate": 0.0}
FACTS = {"project": "check", "config": {}, "step": 0, "params": "raw", "metrics": {}}
CHECKS = {
    "keras": """
import numpy as np
network["arguments"]["input_shape"][:2] = [SIZE, SIZE]
model = getattr(applications, network["function"])(**network["arguments"])
model.load_weights("model.h5")
pixels = np.load("images.npy") * (1 if "V2" in network["function"] else 255)
np.savez("found.npz", logits=np.asarray(model(pixels, training=False)))
""".replace("SIZE", str(SIZE)),
    "automl": """
import numpy as np
names = checkpoint.get_variable_to_shape_map()
np.savez("found.npz", **{name.replace("/", "!"): checkpoint.get_tensor(name) for name in names})
assert tf.train.latest_checkpoint(".") == "./model.ckpt", tf.train.latest_checkpoint(".")
""",
}


def main(form: str, python: str, *names: str) -> None:
    """Checks each network."""
    worst = 0.0
    for name in names or MODELS:
        with tempfile.TemporaryDirectory() as temporary:
            share = check(name, form, python, pathlib.Path(temporary) / "export")
        print(json.dumps({"name": f"{form}_{name}", "value": share}), flush=True)
        worst = max(worst, share)
    sys.exit(worst > TOLERANCE)


def check(name: str, form: str, python: str, folder: pathlib.Path) -> float:
    """Largest difference between ours and theirs, as a share of the largest number."""
    model = create_model(name, num_classes=CLASSES)
    images = np.random.default_rng(7).standard_normal((2, SIZE, SIZE, 3)).astype(np.float32)
    variables = drawn(name, images)

    def predict(variables: Any, batch: Any) -> dict[str, Any]:
        return {"logits": model.apply(variables, batch["image"], train=False)}

    def input_spec(rows: Any) -> dict[str, jax.ShapeDtypeStruct]:
        return {"image": jax.ShapeDtypeStruct((rows, *images.shape[1:]), np.float32)}

    inference = Inference(predict, variables, input_spec, model=model)
    write_folder(inference, folder, format=form, facts=FACTS)
    np.save(folder / "images.npy", images)
    found = run_readme(folder, python, CHECKS[form])
    wanted = {"logits": np.asarray(jax.jit(predict)(variables, {"image": images})["logits"])}
    if form == "automl":
        scope = sorted(found)[0].partition("/")[0]
        plain = tensors_there(model, variables, "automl", (f"{scope}/stem/conv2d/kernel",))
        wanted = plain | {f"{key}/ExponentialMovingAverage": value for key, value in plain.items()}
    assert set(found) == set(wanted), sorted(set(found) ^ set(wanted))[:3]
    return max(float(np.abs(found[key] - wanted[key]).max() / np.abs(wanted[key]).max()) for key in wanted)


def drawn(name: str, images: np.ndarray) -> Any:
    """Weights at random, and the statistics the images then have: signals neither die nor grow on the way."""
    model = create_model(name, num_classes=CLASSES, norm={"momentum": 0.0}, **CALM)
    shapes = jax.eval_shape(functools.partial(model.init, train=False), jax.random.key(0), images)
    draw = np.random.default_rng(0)

    def value(path: Any, leaf: Any) -> np.ndarray:
        if path[-1].key in ("scale", "var"):
            return draw.uniform(0.5, 1.5, leaf.shape).astype(np.float32)
        scale = 0.1 if len(leaf.shape) == 1 else np.sqrt(2 / np.prod(leaf.shape[:-1]))
        return (scale * draw.standard_normal(leaf.shape)).astype(np.float32)

    variables = jax.tree_util.tree_map_with_path(value, shapes)
    step = jax.jit(functools.partial(model.apply, train=True, mutable="batch_stats"))
    return jax.device_get({**variables, **step(variables, images)[1]})


def run_readme(folder: pathlib.Path, python: str, more: str) -> dict[str, np.ndarray]:
    """The README's code, and what saves numbers behind it, in the folder; those numbers by name."""
    code = re.search(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    assert code, "the README has no code"
    command = [str(pathlib.Path(python).absolute()), "-c", code[1] + more]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr)
    with np.load(folder / "found.npz") as arrays:
        return {key.replace("!", "/"): arrays[key] for key in arrays}


if __name__ == "__main__":
    main(*sys.argv[1:])
