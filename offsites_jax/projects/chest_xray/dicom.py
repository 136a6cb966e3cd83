"""The public face of DICOM intake: one radiograph from one file, or the reason why it is refused."""

from offsites_jax.projects.chest_xray.intake.dicom import MAX_PIXELS, brightness, check_header, parse, read

__all__ = ["MAX_PIXELS", "brightness", "check_header", "parse", "read"]
