"""The JSON beside each recording: the fields of google/euphonia's audiotool, and ours below `offsites`.

There is no field for a name, an e-mail address or a signature.
"""

import pathlib
from collections.abc import Mapping
from typing import Any, TypeAlias

from offsites_jax.errors import DamagedDataError
from offsites_jax.projects.euphonia.collect.audio import Heard
from offsites_jax.projects.euphonia.collect.prompts import Prompt

Metadata: TypeAlias = dict[str, Any]

FORMAT = 1

_FIELDS = {
    "euid": str, "name": str, "task": str, "prompt": str, "timestamp": int,
    "consents": list, "offsites": dict,
}  # fmt: skip
_OWN_FIELDS = {
    "domain": str, "version": int, "uploadId": str, "sha256": str, "sampleRate": int, "seconds": float,
    "quality": dict, "rating": str, "remarks": list,
}  # fmt: skip
_CONSENT_FIELDS = {"consentId": str, "version": int, "consentTimestamp": int, "revokeTimestamp": int}


def describe(ticket: Mapping[str, Any], prompt: Prompt, heard: Heard, version: int) -> Metadata:
    """The JSON of a recording, without `project`, `language` and `consents`, which are the collection's.

    Args:
      ticket: what the page announced.
      prompt: what was to be read or answered.
      heard: what was found out about the sound.
      version: counted over all recordings of the prompt.

    """
    return {
        "euid": ticket["speaker"],
        "name": f"{ticket['name']}.wav",
        "platform": "offsites_jax",
        "task": prompt.prompt_id,
        "taskType": prompt.kind,
        "prompt": prompt.text,
        "timestamp": ticket["timestamp"],
        "localDate": ticket["local_date"],
        "utcOffset": ticket["utc_offset"],
        "fileSize": ticket["size"],
        "mimeType": "audio/wav; codecs=1",
        "offsites": {
            "format": FORMAT,
            "domain": prompt.domain,
            "picture": prompt.picture,
            "version": version,
            "uploadId": ticket["id"],
            "sha256": ticket["sha256"],
            "sampleRate": heard.sample_rate,
            "seconds": heard.seconds,
            "device": ticket["device"],
            "quality": heard.quality,
            "rating": heard.verdict.rating,
            "remarks": [remark.code for remark in heard.verdict.remarks],
        },
    }


def check_metadata(path: pathlib.Path, metadata: Metadata) -> None:
    """Whether the JSON of a recording has the fields that are needed.

    Raises:
      DamagedDataError: naming the file and the field.

    """
    groups: list[tuple[Any, Mapping[str, type]]] = [
        (metadata, _FIELDS),
        (metadata.get("offsites"), _OWN_FIELDS),
    ]
    groups += [(record, _CONSENT_FIELDS) for record in _list(metadata.get("consents"))]
    for values, fields in groups:
        for field, kind in fields.items():
            if not isinstance(values, dict) or not isinstance(values.get(field), kind):
                raise DamagedDataError(f"{path}: {field} is no {kind.__name__}; restore it from a copy")


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
