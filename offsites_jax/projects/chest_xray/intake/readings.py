"""Many radiographs read side by side; a file that cannot be read does not stop the others."""

import dataclasses
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

from offsites_jax.errors import DamagedDataError, UserError
from offsites_jax.projects.chest_xray.intake import radiograph
from offsites_jax.projects.chest_xray.intake.grey import Radiograph
from offsites_jax.projects.chest_xray.intake.inputs import Input

BATCH_SIZE = 32

_THREADS = 8


@dataclasses.dataclass(frozen=True)
class Reading:
    """One radiograph that was tried.

    Attributes:
      source: which one.
      read: what is in the file; None where it could not be read.
      error: why not.

    """

    source: Input
    read: Radiograph | None
    error: str = ""


def read_all(inputs: Sequence[Input], allow: Sequence[str]) -> Iterator[list[Reading]]:
    """Radiographs, so many at a time as a batch has rows; those that cannot be read with the reason."""

    def read(source: Input) -> Reading:
        try:
            return Reading(source, radiograph.read(source.path, allow=allow))
        except (DamagedDataError, UserError) as error:
            return Reading(source, None, str(error))
        except OSError as error:
            return Reading(source, None, f"{source.path}: {error.strerror or error}")

    with ThreadPoolExecutor(_THREADS, thread_name_prefix="read-radiographs") as threads:
        for start in range(0, len(inputs), BATCH_SIZE):
            yield list(threads.map(read, inputs[start : start + BATCH_SIZE]))
