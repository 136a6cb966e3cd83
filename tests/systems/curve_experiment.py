"""The system the tests train, on 8 virtual CPU devices."""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    """The run."""
    return ml_collections.ConfigDict(
        {
            "project": "curve",
            "optimizer": {
                "name": "adamw",
                "learning_rate": {"name": "cosine", "peak": 0.05, "warmup_steps": 20},
                "weight_decay": 0.001,
                "clip_norm": 1.0,
            },
            "train": {
                "steps": 200,
                "batch_size": 32,
                "log_every": 7,
                "checkpoint_every": 20,
                "eval_every": 100,
                "ema": {"decay": 0.9},
                "keep": {"last": 3, "best": "test/worst", "best_mode": "min"},
            },
            "stages": ({"name": "quiet", "until": 0.3, "data": {"jitter": 0.01}}, {"name": "loud"}),
            "mesh": {"data": 4, "fsdp": 2, "cpu_devices": 8},
            "sharding": {"rules": ((".*", "fsdp"),), "fsdp_min_size": 16},
            "evaluators": {"test": {"split": "test"}},
            "expected": {"test/worst": {"value": 0.1, "tolerance": 0.1, "source": "these tests"}},
        }
    )
