"""Every test runs on 8 virtual CPU devices; compiled programs are kept between runs."""

import os
import pathlib

os.environ["JAX_PLATFORMS"] = "cpu"

import jax

CACHE = pathlib.Path(__file__).parents[1] / ".cache" / "jax"

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_cpu_enable_async_dispatch", False)
jax.config.update("jax_compilation_cache_dir", str(CACHE))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
