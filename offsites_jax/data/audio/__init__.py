"""Speech on the host and on the device.

`log_mel` and what belongs to it are here by name, since they are NumPy and SciPy only. The rest is imported
by module: `read`, `wav` and `resample` (files), `device` and `specaugment` (JAX), `waveform` and `noise`
(augmentation), `quality`, `pictures`, and readers of speech anyone can install, `asterisk` and `klettres`.

Everywhere a waveform is float32 in -1..1, whatever the file held.
"""

from offsites_jax.data.audio.config import TELEPHONE, LogMelConfig
from offsites_jax.data.audio.frontend import features, log_mel, stack_frames

__all__ = ["TELEPHONE", "LogMelConfig", "features", "log_mel", "stack_frames"]
