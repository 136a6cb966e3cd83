"""Polyphase change of the sample rate."""

import math

import numpy as np
import scipy.signal
from jaxtyping import Float32

Waveform = Float32[np.ndarray, "samples"]


def resample(samples: Waveform, rate: int, new_rate: int) -> Waveform:
    """The same sound at another rate, ceil(samples x new_rate / rate) long; itself where rates are equal.

    A Kaiser-windowed filter (`scipy.signal.resample_poly`) keeps what both rates can carry, where it was in
    time.
    """
    if rate == new_rate:
        return samples
    common = math.gcd(rate, new_rate)
    changed = scipy.signal.resample_poly(samples, new_rate // common, rate // common)
    return changed.astype(np.float32, copy=False)
