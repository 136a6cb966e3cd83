"""What every command, page and picture says."""

BANNER = (
    "For research use only: not a medical device, not for diagnosis, triage or any other care of patients."
)
