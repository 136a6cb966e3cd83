"""The README of an export: what it is, and code that runs inside its folder."""

from collections.abc import Mapping
from typing import Any

from offsites_jax.export.signature import ArraySpec, Signature


def write_readme(signature: Signature, facts: Mapping[str, Any], usage: str) -> str:
    """The whole README in Markdown.

    Args:
      signature: of the exported model.
      facts: `project`, `step` and `params` of the manifest.
      usage: the format's own section.

    """
    averaged = "averaged (EMA) parameters" if facts["params"] == "ema" else "parameters"
    return f"""# {facts["project"]}, step {facts["step"]}

The {averaged} of an offsites_jax training run, exported for inference.

{table("Input", signature.inputs)}

{table("Output", signature.outputs)}

A size that is a name, such as `batch`, is yours to choose, from 1 on. `config.json` is the experiment the
model was trained with, `manifest.json` says where it comes from and gives size and SHA-256 of every file,
`signature.json` holds the tables above.

{usage}"""


def table(title: str, specs: Mapping[str, ArraySpec]) -> str:
    """Names, dtypes and shapes as a Markdown table."""
    rows = [f"| {name} | {spec.dtype} | {', '.join(map(str, spec.shape))} |" for name, spec in specs.items()]
    return "\n".join([f"| {title} | dtype | shape |", "|---|---|---|", *rows])


def stablehlo(signature: Signature) -> str:
    """Calling the exported function with jax, NumPy and safetensors."""
    return f"""## Use

With `pip install jax flatbuffers safetensors`, in this folder:

```python
from pathlib import Path

import jax
import numpy as np
from jax import export
from safetensors.numpy import load_file

model = export.deserialize(bytearray(Path("model.stablehlo").read_bytes()))
params = load_file("params.safetensors")
predict = jax.jit(model.call)

{example(signature)}
outputs = predict(params, inputs)
for name, value in outputs.items():
    print(name, value.dtype, value.shape)
```

It runs on {", ".join(signature.platforms)}, with jax {signature.jax_version} or newer.
Where offsites_jax is installed, `offsites_jax.export.load.load(folder).predict(inputs)` does the same, but
checks files and inputs first.
"""


def savedmodel(signature: Signature) -> str:
    """Calling the exported function with TensorFlow."""
    return f"""## Use

With `pip install tensorflow-cpu` (or `tensorflow`), in this folder:

```python
import numpy as np
import tensorflow as tf

model = tf.saved_model.load("saved_model")
predict = model.signatures["serving_default"]

{example(signature)}
outputs = predict(**{{name: tf.constant(value) for name, value in inputs.items()}})
for name, value in outputs.items():
    print(name, value.dtype.name, value.shape)
```

It runs on {", ".join(signature.platforms)}. For TensorFlow Serving, copy `saved_model` to
`<models>/<name>/<version>`. `model.params` holds the parameters by name.
"""


def safetensors(signature: Signature) -> str:
    """Reading the parameters with safetensors."""
    return """## Use

With `pip install numpy ml_dtypes safetensors`, in this folder:

```python
import ml_dtypes  # teaches NumPy bfloat16
from safetensors.numpy import load_file

params = load_file("params.safetensors")
for name, value in params.items():
    print(name, value.dtype, value.shape)
```

Names are paths: `params/...` are the parameters, other prefixes such as `batch_stats/...` the model's state.
"""


def orbax(signature: Signature) -> str:
    """Restoring the parameters with Orbax."""
    return """## Use

With `pip install jax orbax-checkpoint`, in this folder:

```python
from pathlib import Path

import jax
import orbax.checkpoint as ocp

with ocp.StandardCheckpointer() as checkpointer:
    variables = checkpointer.restore(Path("params").absolute())
for path, value in jax.tree_util.tree_leaves_with_path(variables):
    print(jax.tree_util.keystr(path, simple=True, separator="/"), value.dtype, value.shape)
```

`variables` is what Flax's `module.apply` takes: `params`, and the model's state in collections beside it.
Orbax does not notice damage to the numbers; `offsites_jax.export.manifest.verify(folder)` does.
"""


def timm(signature: Signature) -> str:
    """Making the network in timm, and loading the weights."""
    return """## Use

With `pip install timm safetensors`, in this folder:

```python
import json
from pathlib import Path

import timm
from safetensors.torch import load_file

model = timm.create_model(**json.loads(Path("timm.json").read_text())).eval()
model.load_state_dict(load_file("model.safetensors"))
print(sum(parameter.numel() for parameter in model.parameters()), "parameters")
```

The network takes normalised pixels, [batch, channels, height, width]: mean and deviation are `data.mean` and
`data.std` of `config.json`, for pixels of 0..255.
"""


def keras(signature: Signature) -> str:
    """Making the network in Keras, and loading the weights."""
    return """## Use

With `pip install keras h5py` and one of its backends, in this folder:

```python
import json
from pathlib import Path

from keras import applications

network = json.loads(Path("keras.json").read_text())
model = getattr(applications, network["function"])(**network["arguments"])
model.load_weights("model.h5")
print(model.count_params(), "parameters")
```

The network takes normalised pixels, [batch, height, width, channels]: mean and deviation are `data.mean` and
`data.std` of `config.json`, for pixels of 0..255. The first generation (EfficientNetB0 to B7) divides by 255
what it is given: give it 255 times the normalised pixels. `input_shape` may be changed to another size.
"""


def automl(signature: Signature) -> str:
    """Reading the checkpoint with TensorFlow."""
    return """## Use

With `pip install tensorflow-cpu` (or `tensorflow`), in this folder:

```python
import tensorflow as tf

checkpoint = tf.train.load_checkpoint("model.ckpt")
for name, shape in checkpoint.get_variable_to_shape_map().items():
    print(name, shape, checkpoint.get_tensor(name).dtype)
```

Names are those of google/automl's EfficientNets, each also with `/ExponentialMovingAverage`, which its
evaluation looks for. The network takes normalised pixels, [batch, height, width, channels]: mean and
deviation are `data.mean` and `data.std` of `config.json`, for pixels of 0..255.
"""


def example(signature: Signature) -> str:
    """Code that makes a batch of zeros."""
    lines = [
        f'    "{name}": np.zeros({_example_shape(spec)}, "{spec.dtype}"),'
        for name, spec in signature.inputs.items()
    ]
    return "\n".join(["inputs = {", *lines, "}"])


def _example_shape(spec: ArraySpec) -> str:
    sizes = ["1" if isinstance(size, str) else str(size) for size in spec.shape]
    return f"({', '.join(sizes)}{',' if len(sizes) == 1 else ''})"
